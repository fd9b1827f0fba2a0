package bundle

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"strings"
	"testing"

	"sallyport/bundle/trust"
)

// TestLocatorRules: parseLocator takes what locator gives, and nothing else.
func TestLocatorRules(t *testing.T) {
	for _, g := range []Geometry{
		geometry(t, 17, 0), geometry(t, 64, 2), geometry(t, 2298000, 24), geometry(t, 4_200_000_000, 0),
	} {
		if got, err := parseLocator(g.locator()); err != nil || got != g {
			t.Errorf("%+v became %+v, %v", g, got, err)
		}
	}
	good := string(geometry(t, 1000, 8).locator())
	line := func(i int) string { return strings.SplitAfter(good, "\n")[i] }
	swap := func(old, replacement string) string {
		if !strings.Contains(good, old) {
			t.Fatalf("no %q in %q", old, good[:200])
		}
		b := []byte(strings.Replace(good, old, replacement, 1))
		return string(padNewlines(b[:min(len(b), BlockSize)], BlockSize))
	}
	for _, c := range []struct{ name, text, code string }{
		{"zeros", strings.Repeat("\x00", BlockSize), "not-a-bundle"},
		{"newlines", strings.Repeat("\n", BlockSize), "not-a-bundle"},
		{"spelled otherwise", swap("sallyport", "Sallyport"), "not-a-bundle"},
		{"profile 2", swap("sallyport 1", "sallyport 2"), "unsupported-profile"},
		{"profile 10", swap("sallyport 1", "sallyport 10"), "unsupported-profile"},
		{"profile of control characters", swap("sallyport 1", "sallyport \x1b[2J\x00"), "unsupported-profile"},
		{"only the first line", string(padNewlines([]byte("sallyport 1\n"), BlockSize)), "bad-locator"},
		{"image-blocks", swap("image-blocks 1", "image-blocks 2"), "bad-locator"},
		{"data-blocks", swap("data-blocks 1000", "data-blocks 1001"), "bad-locator"},
		{"seal-a", swap("seal-a 1000", "seal-a 1001"), "bad-locator"},
		{"tree", swap("tree 1012", "tree 1013"), "bad-locator"},
		{"fec lba", swap("fec 10", "fec 11"), "bad-locator"},
		{"fec roots", swap(" 8\nseal-b", " 9\nseal-b"), "bad-locator"},
		{"1 root", swap(" 8\nseal-b", " 1\nseal-b"), "bad-locator"},
		{"25 roots", swap(" 8\nseal-b", " 25\nseal-b"), "bad-locator"},
		{"-8 roots", swap(" 8\nseal-b", " -8\nseal-b"), "bad-locator"},
		{"seal-b", swap(line(6), "seal-b 1\n"), "bad-locator"},
		{"T10 data blocks 2^63", swap("data-blocks 1000", "data-blocks 9223372036854775808"), "bad-locator"},
		{"T10 data blocks 2^63-1", swap("data-blocks 1000", "data-blocks 9223372036854775807"), "bad-locator"},
		{"T10 data blocks 2^32", swap("data-blocks 1000", "data-blocks 4294967296"), "bad-locator"},
		{"data blocks 0", swap("data-blocks 1000", "data-blocks 0"), "bad-locator"},
		{"data blocks negative", swap("data-blocks 1000", "data-blocks -1000"), "bad-locator"},
		{"leading zero", swap("data-blocks 1000", "data-blocks 01000"), "bad-locator"},
		{"plus", swap("data-blocks 1000", "data-blocks +1000"), "bad-locator"},
		{"two spaces", swap("data-blocks 1000", "data-blocks  1000"), "bad-locator"},
		{"tab", swap("data-blocks 1000", "data-blocks\t1000"), "bad-locator"},
		{"space at a line's end", swap("data-blocks 1000", "data-blocks 1000 "), "bad-locator"},
		{"carriage return", swap("data-blocks 1000", "data-blocks 1000\r"), "bad-locator"},
		{"a line twice", swap(line(2), line(2)+line(2)), "bad-locator"},
		{"lines in another order", swap(line(2)+line(3), line(3)+line(2)), "bad-locator"},
		{"a line more", swap(line(6), line(6)+"x 1\n"), "bad-locator"},
		{"a byte at the end", good[:BlockSize-1] + "x", "bad-locator"},
		{"a NUL at the end", good[:BlockSize-1] + "\x00", "bad-locator"},
	} {
		_, err := parseLocator([]byte(c.text))
		if codeOf(err) != c.code {
			t.Errorf("%s: %v, want %s", c.name, err, c.code)
			continue
		}
		wantPrintable(t, err)
		img := append([]byte(c.text), make([]byte, 1<<20)...)
		_, err = Inspect(t.Context(), fileSource(img))
		wantCode(t, err, c.code)
	}
	_, err := Inspect(t.Context(), fileSource(nil))
	wantCode(t, err, "not-a-bundle")
}

func geometry(t testing.TB, dataBlocks int64, roots int) Geometry {
	t.Helper()
	g, err := NewGeometry(dataBlocks, roots)
	must(t, err)
	return g
}

// TestGeometry: the layout of docs/format.md, section 1, worked out by hand, and its limits.
func TestGeometry(t *testing.T) {
	for _, c := range []struct {
		d     int64
		roots int
		want  Geometry
		image int64
	}{
		{17, 0, Geometry{17, 1, 0, 0}, 224},       // 17 + 26 + 1 + 150 = 194
		{64, 0, Geometry{64, 1, 0, 0}, 256},       // 64 + 26 + 1 + 150 = 241
		{65, 0, Geometry{65, 3, 0, 0}, 256},       // 65 + 26 + 3 + 150 = 244
		{76, 0, Geometry{76, 3, 0, 0}, 256},       // 255
		{77, 0, Geometry{77, 3, 0, 0}, 256},       // 256
		{78, 0, Geometry{78, 3, 0, 0}, 288},       // 257
		{230, 24, Geometry{230, 5, 48, 24}, 480},  // 235 blocks: two rounds of 231
		{251, 2, Geometry{251, 5, 4, 2}, 448},     // 256 blocks: two rounds of 253; 251 + 26 + 5 + 4 + 150 = 436
		{4096, 0, Geometry{4096, 65, 0, 0}, 4352}, // 4096 + 26 + 65 + 150 = 4337
		{4097, 0, Geometry{4097, 68, 0, 0}, 4352}, // 65 + 2 + 1 hash blocks; 4341
	} {
		g := geometry(t, c.d, c.roots)
		if g != c.want || g.ImageBlocks() != c.image {
			t.Errorf("%d data blocks, %d roots: %+v and %d blocks, want %+v and %d", c.d, c.roots, g, g.ImageBlocks(), c.want, c.image)
		}
		if g.SealA() != c.d || g.Superblock() != c.d+12 || g.Tree() != c.d+13 || g.FEC() != c.d+13+g.TreeBlocks ||
			g.SealB() != g.FEC()+g.FECBlocks || g.LocatorCopy() != g.SealB()+12 || g.Padding() != g.SealB()+13 {
			t.Errorf("%d data blocks: the parts don't follow each other", c.d)
		}
	}
	for _, c := range []struct {
		d     int64
		roots int
	}{{-1, 0}, {0, 0}, {16, 0}, {1 << 32, 0}, {1<<32 - 1, 0}, {4_100_000_000, 24}, {1<<63 - 1, 0}, {100, 1}, {100, 25}, {100, -1}} {
		if g, err := NewGeometry(c.d, c.roots); err == nil {
			t.Errorf("%d data blocks, %d roots: %+v", c.d, c.roots, g)
		}
	}
}

// TestSealRules: each member of SEAL.json with a value that it can't have, and other spellings, all signed.
func TestSealRules(t *testing.T) {
	img := signed(t, tiny(), withRoots(2))
	message := messageOf(t, img)
	good := string(bytes.TrimRight(message, "\n"))
	s := sealOf(t, img)
	hex := func(x string) string { return `"` + x + `"` }
	other := strings.Repeat("1", 64)
	swap := func(old, replacement string) string {
		if strings.Count(good, old) != 1 {
			t.Fatalf("%q stands %d times in %s", old, strings.Count(good, old), good)
		}
		return strings.Replace(good, old, replacement, 1)
	}
	member := func(name string, value, replacement any) string {
		return swap(fmt.Sprintf(`"%s":%v`, name, value), fmt.Sprintf(`"%s":%v`, name, replacement))
	}
	bad := map[string]string{
		// Derived members.
		"bundle_id":         member("bundle_id", hex(s.BundleID), hex(other)),
		"fec.blocks":        member("fec", fmt.Sprintf(`{"blocks":%d`, s.FEC.Blocks), fmt.Sprintf(`{"blocks":%d`, s.FEC.Blocks+1)),
		"fec.lba":           member("blocks", fmt.Sprintf(`%d,"lba":%d`, s.FEC.Blocks, s.FEC.LBA), fmt.Sprintf(`%d,"lba":%d`, s.FEC.Blocks, s.FEC.LBA+1)),
		"image_blocks":      member("image_blocks", s.ImageBlocks, s.ImageBlocks+32),
		"set.digest":        member("digest", hex(s.Set.Digest), hex(other)),
		"verity.algorithm":  member("algorithm", `"sha256"`, `"sha512"`),
		"verity.hostile":    member("algorithm", `"sha256"`, `"\u001b[2Jfine"`),
		"verity.block_size": member("block_size", 2048, 4096),
		"verity.salt":       member("salt", hex(s.Verity.Salt), hex(other)),
		"verity.tree":       member("tree_blocks", s.Verity.TreeBlocks, s.Verity.TreeBlocks+1),
		"verity.tree_lba":   member("tree_lba", s.Verity.TreeLBA, s.Verity.TreeLBA-1),
		"verity.uuid":       member("uuid", hex(s.Verity.UUID), hex("0"+s.Verity.UUID[1:])),
		"verity.uuid case":  member("uuid", hex(s.Verity.UUID), hex(strings.ToUpper(s.Verity.UUID))),
		// What others derive from.
		"data_blocks":    member("data_blocks", s.Verity.DataBlocks, s.Verity.DataBlocks+1),
		"roots":          member("roots", 2, 3),
		"channel":        member("channel", `"demo"`, `"demo2"`),
		"sequence":       member("sequence", 7, 8),
		"previous":       member("previous", hex(s.Previous), hex(other)),
		"previous empty": member("previous", hex(s.Previous), `""`),
		"manifest":       swap(`"sha256":`+hex(s.Manifest.SHA256)+`},"previous"`, `"sha256":`+hex(other)+`},"previous"`),
		// Values out of range.
		"T13 channel ../x":            member("channel", `"demo"`, `"../x"`),
		"T13 channel %2e%2e":          member("channel", `"demo"`, `"%2e%2e"`),
		"T13 channel with NUL":        member("channel", `"demo"`, `"de\u0000mo"`),
		"T13 channel empty":           member("channel", `"demo"`, `""`),
		"T13 channel of 64 bytes":     member("channel", `"demo"`, hex(strings.Repeat("c", 64))),
		"T13 channel in upper case":   member("channel", `"demo"`, `"Demo"`),
		"T13 destination ../x":        member("destination", `"high"`, `"../x"`),
		"T13 destination with ESC":    member("destination", `"high"`, `"\u001b[2J"`),
		"T13 destination empty":       member("destination", `"high"`, `""`),
		"sequence 0":                  member("sequence", 7, 0),
		"sequence -1":                 member("sequence", 7, -1),
		"T6 sequence 2^53":            member("sequence", 7, 1<<53),
		"T6 sequence 2^63-1":          member("sequence", 7, int64(1<<63-1)),
		"sequence 2^64":               member("sequence", 7, "18446744073709551616"),
		"created -1":                  member("created", s.Created, -1),
		"created 2156":                member("created", s.Created, maxTime+1),
		"expires -1":                  member("expires", 0, -1),
		"expires before created":      member("expires", 0, s.Created-1),
		"expires 2156":                member("expires", 0, maxTime+1),
		"T10 manifest.bytes 0":        member("bytes", s.Manifest.Bytes, 0),
		"T10 manifest.bytes > 1 GiB":  member("bytes", s.Manifest.Bytes, 1<<30+1),
		"T10 manifest.bytes 2^63-1":   member("bytes", s.Manifest.Bytes, int64(1<<63-1)),
		"manifest.bytes past the end": member("bytes", s.Manifest.Bytes, s.Verity.DataBlocks*BlockSize),
		"manifest.lba 16":             swap(fmt.Sprintf(`"lba":%d,"sha256":%q},"previous"`, s.Manifest.LBA, s.Manifest.SHA256), fmt.Sprintf(`"lba":16,"sha256":%q},"previous"`, s.Manifest.SHA256)),
		"manifest.lba past the end":   swap(fmt.Sprintf(`"lba":%d,"sha256":%q},"previous"`, s.Manifest.LBA, s.Manifest.SHA256), fmt.Sprintf(`"lba":%d,"sha256":%q},"previous"`, s.Verity.DataBlocks, s.Manifest.SHA256)),
		"manifest.lba 2^53-1":         swap(fmt.Sprintf(`"lba":%d,"sha256":%q},"previous"`, s.Manifest.LBA, s.Manifest.SHA256), fmt.Sprintf(`"lba":9007199254740991,"sha256":%q},"previous"`, s.Manifest.SHA256)),
		"T10 data_blocks 2^53-1":      member("data_blocks", s.Verity.DataBlocks, 1<<53-1),
		"data_blocks 0":               member("data_blocks", s.Verity.DataBlocks, 0),
		"data_blocks -1":              member("data_blocks", s.Verity.DataBlocks, -1),
		"roots 1":                     member("roots", 2, 1),
		"roots 25":                    member("roots", 2, 25),
		"roots -2":                    member("roots", 2, -2),
		"roots 2^32+2":                member("roots", 2, 1<<32+2),
		"roots 2^53-1":                member("roots", 2, 1<<53-1),
		"set.index 2":                 member("index", 1, 2),
		"T7 set.of 2":                 member("of", 1, 2),
		"set.of 0":                    member("of", 1, 0),
		"root short":                  member("root", hex(s.Verity.Root), hex(s.Verity.Root[1:])),
		"root in upper case":          member("root", hex(s.Verity.Root), hex(strings.ToUpper(s.Verity.Root[:63])+"A")),
		"type":                        member("type", `"sallyport-seal"`, `"sallyport-trust"`),
		// Spelling.
		"space":            swap(`"sequence":7`, `"sequence": 7`),
		"order":            swap(`"channel":"demo","created":`+fmt.Sprint(s.Created), `"created":`+fmt.Sprint(s.Created)+`,"channel":"demo"`),
		"unknown member":   swap(`"sequence":7`, `"sequence":7,"serial":7`),
		"member twice":     swap(`"sequence":7`, `"sequence":7,"sequence":7`),
		"member missing":   swap(`"sequence":7,`, ``),
		"upper case":       swap(`"sequence"`, `"Sequence"`),
		"null":             swap(`"sequence":7`, `"sequence":null`),
		"string":           swap(`"sequence":7`, `"sequence":"7"`),
		"7.0":              swap(`"sequence":7`, `"sequence":7.0`),
		"escape":           swap(`"demo"`, `"\u0064emo"`),
		"two values":       good + good,
		"text behind":      good + "\n\nx",
		"newline in front": "\n" + good,
		"no JSON":          "sealed",
		"empty":            "",
		"T10 deep":         strings.Repeat("[", 8000),
		"full to the end":  swap(`"sequence":7`, `"sequence":7,"x":"`+strings.Repeat("x", sealJSONBytes-len(good)-7)+`"`),
	}
	for name, text := range bad {
		_, err := ParseSeal([]byte(text))
		if codeOf(err) != "bad-seal" {
			t.Errorf("%s: %v, want bad-seal", name, err)
			continue
		}
		wantPrintable(t, err)
		forged := bytes.Clone(img)
		setSeal(t, forged, text)
		r := &recorder{r: bytes.NewReader(forged)}
		_, err = verify(Source{ReaderAt: r, Size: int64(len(forged))}, VerifyOptions{})
		if codeOf(err) != "bad-seal" {
			t.Errorf("%s, signed: %v, want bad-seal", name, err)
		}
		r.wantOnlySeal(t, geometryOf(t, img))
	}
	// Consistent in all that derives, and yet beyond what there may be.
	for name, change := range map[string]func(s *Seal){
		"T7 volume 1 of 2":           func(s *Seal) { s.Set.Of = 2 },
		"T7 volume 2 of 2":           func(s *Seal) { s.Set.Index, s.Set.Of = 2, 2 },
		"volume 0 of 0":              func(s *Seal) { s.Set.Index, s.Set.Of = 0, 0 },
		"T10 manifest of 1 GiB + 1":  func(s *Seal) { s.Verity.DataBlocks, s.Manifest.Bytes = 1<<21, MaxManifestBytes+1 },
		"manifest in the first file": func(s *Seal) { s.Manifest.LBA = 16 },
		"manifest behind the end":    func(s *Seal) { s.Manifest.LBA = s.Verity.DataBlocks },
		"25 roots":                   func(s *Seal) { s.FEC.Roots = 25 },
	} {
		c := *s
		change(&c)
		g, err := NewGeometry(c.Verity.DataBlocks, int(c.FEC.Roots))
		if err == nil {
			c.fill(g)
		}
		text, err := c.Encode()
		must(t, err)
		if _, err := ParseSeal(text); codeOf(err) != "bad-seal" {
			t.Errorf("%s: %v, want bad-seal", name, err)
		}
	}
	for _, profile := range []any{0, 2, 1000} {
		_, err := ParseSeal([]byte(member("profile", 1, profile)))
		wantCode(t, err, "unsupported-profile")
	}
	// A good seal of another geometry than the locator's.
	larger := tiny()
	larger["a.txt"] = file(100_000, 0o644, 1)
	forged := bytes.Clone(img)
	setSeal(t, forged, string(bytes.TrimRight(messageOf(t, prepare(t, larger, withRoots(2))), "\n")))
	_, err := verify(fileSource(forged), VerifyOptions{})
	wantCode(t, err, "bad-locator")
}

// setSeal puts a text into both seals and signs it.
func setSeal(t testing.TB, img []byte, text string) {
	g := geometryOf(t, img)
	for _, lba := range []int64{g.SealA(), g.SealB()} {
		copy(img[lba*BlockSize:], padNewlines([]byte(text), sealJSONBytes)[:sealJSONBytes])
	}
	sign(t, img, "alice", "bob", "carol")
}

// TestParseSeal: padded or not, it reads the same, and leaves the caller's memory alone.
func TestParseSeal(t *testing.T) {
	img := signed(t, tiny(), demo())
	message := messageOf(t, img)
	want := *sealOf(t, img)
	text := bytes.TrimRight(message, "\n")
	for _, b := range [][]byte{message, text, append(bytes.Clone(text), '\n')} {
		memory := append(bytes.Clone(b), "untouched"...)
		got, err := ParseSeal(memory[:len(b)])
		must(t, err)
		if *got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
		if !bytes.Equal(memory, append(bytes.Clone(b), "untouched"...)) {
			t.Error("the memory behind the seal was written to")
		}
		again, err := got.Encode()
		must(t, err)
		if !bytes.Equal(again, message) {
			t.Error("it encodes differently")
		}
	}
	if Digest(message) != sha256.Sum256(message) {
		t.Error("the seal digest isn't the digest of the message")
	}
	if _, err := ParseSeal(append(bytes.Clone(message), '\n')); codeOf(err) != "bad-seal" {
		t.Errorf("8,193 bytes: %v", err)
	}
	c, err := Inspect(t.Context(), fileSource(img))
	must(t, err)
	sigs, err := c.Signatures()
	must(t, err)
	if len(sigs) != 3 || sigs[0].KeyID() != secretKey("alice").Public().KeyID() || sigs[2].Comment() != "sallyport-seal SEAL.json" {
		t.Errorf("signatures %v", sigs)
	}
	if err := trust.Verify(secretKey("bob").Public(), c.Message, sigs[1]); err != nil {
		t.Error(err)
	}
}

// TestIdentity: salt, UUID and volume identifier by the formulas of section 7, written down once more.
func TestIdentity(t *testing.T) {
	x := "sallyport 1\nnews-and-more\n12\n" + digest64 + "\n1/1\n"
	id := identity{channel: "news-and-more", sequence: 12, previous: digest64, index: 1, of: 1}
	p := id.verityParams(100)
	salt, uuid, volume := sha256.Sum256([]byte("salt\n"+x)), sha256.Sum256([]byte("uuid\n"+x)), sha256.Sum256([]byte("volume\n"+x))
	if !bytes.Equal(p.Salt, salt[:]) {
		t.Errorf("salt %x", p.Salt)
	}
	u := fmt.Sprintf("%x", uuid[:16])
	variant := fmt.Sprintf("%x", uuid[8]>>4&3|8)
	if want := u[:8] + "-" + u[8:12] + "-8" + u[13:16] + "-" + variant + u[17:20] + "-" + u[20:]; formatUUID(p.UUID) != want {
		t.Errorf("UUID %s, want %s", formatUUID(p.UUID), want)
	}
	if want := fmt.Sprintf("NEWS_AND_12_%X", volume[:3]); id.volumeID() != want {
		t.Errorf("volume identifier %s, want %s", id.volumeID(), want)
	}
	id = identity{channel: strings.Repeat("z", 63), sequence: 1<<53 - 1, index: 1, of: 1}
	if len(id.volumeID()) != 8+1+16+1+6 {
		t.Errorf("the longest volume identifier: %s", id.volumeID())
	}
}
