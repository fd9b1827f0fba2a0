package bundle

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
	"unicode"

	"sallyport/bundle/verity"
)

const digest64 = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

// manifestText is a manifest of the root and entries, which are JSON.
func manifestText(entries ...string) string {
	const root = `{"mode":493,"mtime":1,"path":".","type":"dir"}`
	return `{"entries":[` + strings.Join(append([]string{root}, entries...), ",") + `],"type":"sallyport-manifest","version":1}` + "\n"
}

func dirJSON(path string) string {
	return fmt.Sprintf(`{"mode":493,"mtime":1,"path":"%s","type":"dir"}`, path)
}

func fileJSON(path string) string {
	return fmt.Sprintf(`{"mode":420,"mtime":1,"path":"%s","sha256":"%s","size":1,"type":"file"}`, path, digest64)
}

func linkJSON(path, target string) string {
	return fmt.Sprintf(`{"mode":511,"mtime":1,"path":"%s","target":"%s","type":"symlink"}`, path, target)
}

func readText(text string) ([]Entry, error) {
	return readManifest(strings.NewReader(text), int64(len(text)), sha256.Sum256([]byte(text)))
}

// nested is n directories, each in the one before, and their paths' common name.
func nested(n int, name string) (list []string, path string) {
	for i := range n {
		if i > 0 {
			path += "/"
		}
		path += name
		list = append(list, dirJSON(path))
	}
	return list, path
}

func wantPrintable(t testing.TB, err error) {
	t.Helper()
	for _, r := range err.Error() {
		if !unicode.IsPrint(r) {
			t.Errorf("the error has %q in it, as it came: %q", r, err)
			return
		}
	}
}

// TestManifestRules: every rule of docs/format.md, section 4, and of section 3, broken one at a time.
func TestManifestRules(t *testing.T) {
	deep, deepest := nested(maxDepth, "d")
	_, long := nested(16, strings.Repeat("p", 255)) // 16 × 255 + 15 = 4,095 bytes
	longDirs, _ := nested(16, strings.Repeat("p", 255))
	good := map[string]string{
		"the root alone":         manifestText(),
		"every kind":             manifestText(dirJSON("d"), fileJSON("d/f"), linkJSON("d/l", "f")),
		"order of bytes":         manifestText(dirJSON("a"), fileJSON("a-b"), fileJSON("a/b"), fileJSON("ab"), fileJSON("é")),
		"name of 255 bytes":      manifestText(fileJSON(strings.Repeat("n", 255))),
		"path of 4,095 bytes":    manifestText(longDirs...),
		"64 parts":               manifestText(deep...),
		"target of 1,023 bytes":  manifestText(linkJSON("l", strings.Repeat(strings.Repeat("t", 127)+"/", 7)+strings.Repeat("t", 127))),
		"target part of 248":     manifestText(linkJSON("l", strings.Repeat("t", 248))),
		"target up to the root":  manifestText(dirJSON("d"), linkJSON("d/l", "../x")),
		"target is the root":     manifestText(dirJSON("d"), linkJSON("d/l", "..")),
		"target dot":             manifestText(linkJSON("l", "././.")),
		"target dot-dot-dot":     manifestText(linkJSON("l", ".../x..")),
		"times and sizes":        manifestText(strings.NewReplacer(`"mtime":1`, `"mtime":-2208988800`, `"size":1`, `"size":429496524800`).Replace(fileJSON("f"))),
		"latest time":            manifestText(strings.Replace(fileJSON("f"), `"mtime":1`, `"mtime":5869583999`, 1)),
		"modes":                  manifestText(strings.Replace(fileJSON("f"), `420`, `0`, 1), strings.Replace(fileJSON("g"), `420`, `511`, 1)),
		"reserved, not at root":  manifestText(dirJSON("d"), fileJSON("d/MANIFEST.json"), fileJSON("d/README.txt")),
		"names that look coded":  manifestText(fileJSON("%2e%2e"), fileJSON("..."), fileJSON("a\\\\..\\\\b")),
		"escapes RFC 8785 wants": manifestText(fileJSON(`\u0001`), fileJSON(`\b\t\n\f\r\"\\`)),
	}
	for name, text := range good {
		if _, err := readText(text); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}

	with := func(entry, old, replacement string) string {
		changed := strings.Replace(entry, old, replacement, 1)
		if changed == entry {
			t.Fatalf("%q isn't in %q", old, entry)
		}
		return manifestText(changed)
	}
	f, d, l := fileJSON("f"), dirJSON("d"), linkJSON("l", "x")
	bad := map[string]string{
		// Order and tree.
		"no entries":              `{"entries":[],"type":"sallyport-manifest","version":1}` + "\n",
		"root missing":            `{"entries":[` + d + `],"type":"sallyport-manifest","version":1}` + "\n",
		"root twice":              manifestText(`{"mode":493,"mtime":1,"path":".","type":"dir"}`),
		"root later":              `{"entries":[` + d + `,{"mode":493,"mtime":1,"path":".","type":"dir"}],"type":"sallyport-manifest","version":1}` + "\n",
		"root is a file":          `{"entries":[` + fileJSON(".") + `],"type":"sallyport-manifest","version":1}` + "\n",
		"root is a link":          `{"entries":[` + linkJSON(".", "x") + `],"type":"sallyport-manifest","version":1}` + "\n",
		"out of order":            manifestText(fileJSON("b"), fileJSON("a")),
		"order of UTF-16":         manifestText(fileJSON("\U00010000"), fileJSON("\uffee")),
		"twice":                   manifestText(f, f),
		"file and dir":            manifestText(fileJSON("x"), dirJSON("x")),
		"parent missing":          manifestText(fileJSON("d/f")),
		"parent later":            manifestText(fileJSON("d/f"), dirJSON("d0"), dirJSON("d")),
		"parent is a file":        manifestText(fileJSON("p"), fileJSON("p/f")),
		"parent is a link":        manifestText(linkJSON("p", "x"), fileJSON("p/f")),
		"grandparent missing":     manifestText(dirJSON("a"), fileJSON("a/b/c")),
		"too deep":                manifestText(append(deep, fileJSON(deepest+"/f"))...),
		"path of 4,097 bytes":     manifestText(append(longDirs, fileJSON(long+"/f"))...),
		"name of 256 bytes":       manifestText(fileJSON(strings.Repeat("n", 256))),
		"name of 256 bytes, dir":  manifestText(dirJSON(strings.Repeat("ż", 128))),
		"path empty":              manifestText(fileJSON("")),
		"path absolute":           manifestText(fileJSON("/f")),
		"path with empty part":    manifestText(d, fileJSON("d//f")),
		"path ends in a slash":    manifestText(dirJSON("d/")),
		"T13 path ..":             manifestText(fileJSON("..")),
		"T13 path ../f":           manifestText(fileJSON("../f")),
		"T13 path d/../f":         manifestText(d, fileJSON("d/../f")),
		"T13 path d/..":           manifestText(d, fileJSON("d/..")),
		"path with dot":           manifestText(fileJSON("./f")),
		"path d/.":                manifestText(d, fileJSON("d/.")),
		"T13 NUL":                 manifestText(fileJSON(`a\u0000b`)),
		"path not UTF-8":          manifestText(fileJSON("\xff")),
		"path a lone surrogate":   manifestText(fileJSON(`\ud800`)),
		"path an encoded one":     manifestText(fileJSON("\xed\xa0\x80")),
		"reserved readme":         manifestText(fileJSON("README.txt")),
		"reserved manifest":       manifestText(fileJSON("MANIFEST.json")),
		"reserved sums":           manifestText(fileJSON("SHA256SUMS")),
		"reserved, other case":    manifestText(fileJSON("readme.TXT")),
		"reserved, as a dir":      manifestText(dirJSON("Manifest.Json")),
		"reserved, as a link":     manifestText(linkJSON("sha256sums", "x")),
		"reserved, folded":        manifestText(fileJSON("\u017fha256\u017fum\u017f")),
		"reserved, ligature":      manifestText(fileJSON("manife\ufb06.json")),
		"links: absolute":         manifestText(linkJSON("l", "/etc/passwd")),
		"links: empty":            manifestText(linkJSON("l", "")),
		"links: empty part":       manifestText(linkJSON("l", "a//b")),
		"links: slash at the end": manifestText(linkJSON("l", "a/")),
		"links: ..":               manifestText(linkJSON("l", "..")),
		"links: out":              manifestText(linkJSON("l", "../x")),
		"links: out of a dir":     manifestText(d, linkJSON("d/l", "../../x")),
		"links: behind a dot":     manifestText(linkJSON("l", "./../x")),
		"links: behind a name":    manifestText(d, linkJSON("d/l", "e/..")),
		"links: behind two":       manifestText(d, linkJSON("d/l", "../e/../../x")),
		"links: NUL":              manifestText(linkJSON("l", `a\u0000b`)),
		"links: not UTF-8":        manifestText(linkJSON("l", "\xff")),
		"links: too long":         manifestText(linkJSON("l", strings.Repeat("ab/", 342)+"cde")),
		"links: part of 249":      manifestText(linkJSON("l", strings.Repeat("t", 249))),
		// Values.
		"mode 512":             with(f, "420", "512"),
		"mode -1":              with(f, "420", "-1"),
		"mode of a link":       with(l, "511", "420"),
		"mode 2^32+420":        with(f, "420", "4294967716"),
		"mode 2^64":            with(f, "420", "18446744073709551616"),
		"mtime too early":      with(f, `"mtime":1`, `"mtime":-2208988801`),
		"mtime too late":       with(f, `"mtime":1`, `"mtime":5869584000`),
		"mtime 2^63":           with(f, `"mtime":1`, `"mtime":9223372036854775808`),
		"size -1":              with(f, `"size":1`, `"size":-1`),
		"T10 size too large":   with(f, `"size":1`, `"size":429496524801`),
		"T10 size 2^63-1":      with(f, `"size":1`, `"size":9223372036854775807`),
		"T10 size 2^63":        with(f, `"size":1`, `"size":9223372036854775808`),
		"T10 size 10^400":      with(f, `"size":1`, `"size":1`+strings.Repeat("0", 400)),
		"digest too short":     with(f, digest64, digest64[1:]),
		"digest too long":      with(f, digest64, digest64+"0"),
		"digest in upper case": with(f, digest64, strings.ToUpper(digest64)),
		"digest no hex":        with(f, digest64, "g"+digest64[1:]),
		// Members.
		"type unknown":              with(f, `"type":"file"`, `"type":"fifo"`),
		"type part":                 with(f, `"type":"file"`, `"type":"part"`),
		"type empty":                with(f, `"type":"file"`, `"type":""`),
		"dir called file":           with(d, `"type":"dir"`, `"type":"file"`),
		"file called dir":           with(f, `"type":"file"`, `"type":"dir"`),
		"file called symlink":       with(f, `"type":"file"`, `"type":"symlink"`),
		"link called dir":           with(l, `"type":"symlink"`, `"type":"dir"`),
		"link with a size":          with(l, `"target"`, `"size":0,"target"`),
		"file with a target":        with(f, `"type"`, `"target":"x","type"`),
		"dir with a digest":         with(d, `"type"`, `"sha256":"`+digest64+`","type"`),
		"file without size":         with(f, `"size":1,`, ``),
		"file without digest":       with(f, `"sha256":"`+digest64+`",`, ``),
		"no mode":                   with(f, `"mode":420,`, ``),
		"no mtime":                  with(f, `"mtime":1,`, ``),
		"no path":                   with(f, `"path":"f",`, ``),
		"no type":                   with(d, `,"type":"dir"`, ``),
		"mode null":                 with(f, `420`, `null`),
		"path null":                 with(f, `"f"`, `null`),
		"target null":               with(f, `"type"`, `"target":null,"type"`),
		"mode a string":             with(f, `420`, `"420"`),
		"path a number":             with(f, `"path":"f"`, `"path":1`),
		"size a list":               with(f, `"size":1`, `"size":[1]`),
		"size an object":            with(f, `"size":1`, `"size":{}`),
		"unknown member":            with(f, `"mode"`, `"linux":1,"mode"`),
		"unknown, hostile member":   with(f, `"mode"`, `"\u001b[2J":1,"mode"`),
		"member in upper case":      with(f, `"mode"`, `"Mode"`),
		"member twice":              with(f, `"mode":420`, `"mode":420,"mode":420`),
		"entry null":                manifestText("null"),
		"entry a list":              manifestText("[]"),
		"entry a string":            manifestText(`"f"`),
		"T10 deep nesting":          manifestText(strings.Repeat("[", 30000)),
		"T10 deep nesting, objects": manifestText(strings.Repeat(`{"a":`, 12000)),
		// Spelling.
		"space":                 with(f, `"mode":420`, `"mode": 420`),
		"newline":               with(f, `"mode":420`, "\n"+`"mode":420`),
		"order of members":      with(f, `"mode":420,"mtime":1`, `"mtime":1,"mode":420`),
		"1.0":                   with(f, `"size":1`, `"size":1.0`),
		"1e0":                   with(f, `"size":1`, `"size":1e0`),
		"1.5":                   with(f, `"size":1`, `"size":1.5`),
		"-0":                    with(f, `"size":1`, `"size":-0`),
		"01":                    with(f, `"size":1`, `"size":01`),
		"+1":                    with(f, `"size":1`, `"size":+1`),
		"needless escape":       with(f, `"f"`, `"\u0066"`),
		"escaped slash":         manifestText(d, fileJSON(`d\/f`)),
		"escape in upper case":  manifestText(fileJSON(`\u001F`)),
		"escaped character":     manifestText(fileJSON(`\u00e9`)),
		"raw control character": manifestText(fileJSON("\x01")),
		"trailing comma":        strings.Replace(manifestText(f), `"}],`, `"},],`, 1),
		"comment":               strings.Replace(manifestText(f), `],`, `]/**/,`, 1),
		"no newline":            strings.TrimSuffix(manifestText(f), "\n"),
		"two newlines":          manifestText(f) + "\n",
		"carriage return":       strings.TrimSuffix(manifestText(f), "\n") + "\r\n",
		"NUL at the end":        manifestText(f) + "\x00",
		"two values":            manifestText(f) + manifestText(f),
		"byte order mark":       "\ufeff" + manifestText(f),
		"space in front":        " " + manifestText(f),
		// The whole.
		"type of a seal":       strings.Replace(manifestText(f), "sallyport-manifest", "sallyport-seal", 1),
		"version 2":            strings.Replace(manifestText(f), `"version":1`, `"version":2`, 1),
		"version 1.0":          strings.Replace(manifestText(f), `"version":1`, `"version":1.0`, 1),
		"version \"1\"":        strings.Replace(manifestText(f), `"version":1`, `"version":"1"`, 1),
		"no version":           strings.Replace(manifestText(f), `,"version":1`, ``, 1),
		"no type at the top":   strings.Replace(manifestText(f), `"type":"sallyport-manifest",`, ``, 1),
		"member more":          strings.Replace(manifestText(f), `"version":1`, `"version":1,"x":1`, 1),
		"member more in front": strings.Replace(manifestText(f), `{"entries"`, `{"a":1,"entries"`, 1),
		"entries twice":        strings.Replace(manifestText(f), `],"type"`, `],"entries":[],"type"`, 1),
		"entries null":         `{"entries":null,"type":"sallyport-manifest","version":1}` + "\n",
		"entries an object":    `{"entries":{},"type":"sallyport-manifest","version":1}` + "\n",
		"a list":               "[]\n",
		"null":                 "null\n",
		"a newline":            "\n",
		"a NUL":                "\x00",
		"cut in the head":      `{"entr`,
		"cut in an entry":      manifestText(f)[:80],
		"cut behind an entry":  manifestText(f)[:len(manifestText())-50],
		"cut at the end":       strings.TrimSuffix(manifestText(f), "}\n"),
	}
	img := signed(t, tiny(), demo())
	for name, text := range bad {
		entries, err := readText(text)
		if codeOf(err) != "bad-manifest" {
			t.Errorf("%s: %d entries, %v; want bad-manifest", name, len(entries), err)
			continue
		}
		wantPrintable(t, err)
		// Whatever pieces it arrives in.
		if _, err := readManifest(iotest.OneByteReader(strings.NewReader(text)), int64(len(text)), sha256.Sum256([]byte(text))); codeOf(err) != "bad-manifest" {
			t.Errorf("%s, byte by byte: %v", name, err)
		}
	}
	// The same through Verify, by hostile signers; nothing arrives.
	for _, name := range []string{"order of UTF-16", "T13 path ../f", "links: behind a name", "reserved, folded", "T10 size 2^63", "needless escape", "version 2", "a NUL"} {
		forged := forge(t, img)
		forged.setManifest([]byte(bad[name]))
		_, err := verify(fileSource(forged.image(t)), VerifyOptions{
			Entries: func([]Entry) error { t.Errorf("%s: entries", name); return nil },
			Sink:    sinkFunc(func(*Entry, io.Reader) error { t.Errorf("%s: something arrived", name); return nil }),
		})
		wantCode(t, err, "bad-manifest")
	}
	forged := forge(t, img)
	forged.setManifest([]byte(good["every kind"]))
	_, err := verify(fileSource(forged.image(t)), VerifyOptions{})
	wantCode(t, err, "directory-differs")
	forged = forge(t, img)
	forged.seal.Manifest.SHA256 = digest64
	_, err = verify(fileSource(forged.image(t)), VerifyOptions{})
	wantCode(t, err, "bad-manifest")
}

// TestManifestEncoding: what writeManifest writes is what readManifest takes, for names of any kind.
func TestManifestEncoding(t *testing.T) {
	entries := []Entry{{Path: ".", Type: Dir, Mode: 0o755, MTime: -5}}
	for c := rune(1); c < 0x300; c++ {
		if c == '/' || c == '.' {
			continue
		}
		entries = append(entries, Entry{Path: string(c) + "\u2028<&>\U0001F600\x7f", Type: File, Mode: 0o644, Size: int64(c)})
	}
	var b bytes.Buffer
	must(t, writeManifest(&b, entries))
	if n, err := manifestSize(entries); err != nil || n != int64(b.Len()) {
		t.Errorf("manifestSize %d, %v; want %d", n, err, b.Len())
	}
	again, err := readText(b.String())
	must(t, err)
	for i := range entries {
		if again[i] != entries[i] {
			t.Errorf("%+v became %+v", entries[i], again[i])
		}
	}
	if len(again) != len(entries) {
		t.Errorf("%d entries, want %d", len(again), len(entries))
	}
	if err := writeManifest(io.Discard, []Entry{{Path: "\xff"}}); err == nil {
		t.Error("a path that isn't UTF-8 was encoded")
	}
}

// TestManifestFaults: a medium that fails or ends in the manifest is a fault, damage in it is a refusal, at any byte.
func TestManifestFaults(t *testing.T) {
	text := manifestText(dirJSON("d"), fileJSON("d/f"), linkJSON("d/l", "f"))
	digest := sha256.Sum256([]byte(text))
	for n := range len(text) {
		for _, cause := range []error{errMedium, &verity.ReadError{Block: 1, Count: 1, Err: io.ErrUnexpectedEOF}, &verity.DamagedError{Block: 1, Err: errMedium}} {
			_, err := readManifest(io.MultiReader(strings.NewReader(text[:n]), iotest.ErrReader(cause)), int64(len(text)), digest)
			if codeOf(err) != "" || !errors.Is(err, cause) {
				t.Fatalf("%v behind byte %d: %v", cause, n, err)
			}
		}
		// A stream that ends early can't come from the tree; still it is never taken.
		if _, err := readManifest(strings.NewReader(text[:n]), int64(len(text)), digest); err == nil {
			t.Fatalf("cut behind byte %d: taken", n)
		}
	}
}

// TestLinksStayInside: no chain of links that the rules let pass leaves the tree, as the kernel follows it.
func TestLinksStayInside(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	parts := []string{"..", ".", "a", "b", "l0", "l1", "l2", "l3"}
	outside, accepted := 0, 0
	for range 60 {
		top := t.TempDir()
		base := filepath.Join(top, "x", "tree")
		for _, d := range []string{"a/b", "b/a/b"} {
			must(t, os.MkdirAll(filepath.Join(base, d), 0o755))
		}
		var links []string
		for _, d := range []string{".", "a", "a/b", "b", "b/a", "b/a/b"} {
			for i := range 4 {
				var target []string
				for range 1 + rnd.IntN(5) {
					target = append(target, parts[rnd.IntN(len(parts))])
				}
				e := Entry{Path: strings.TrimPrefix(fmt.Sprintf("%s/l%d", d, i), "./"), Type: Symlink, Mode: 0o777, Target: strings.Join(target, "/")}
				switch e.Path { // a chain that would step out by a ".." behind a name
				case "a/l1":
					e.Target = ".."
				case "a/b/l0":
					e.Target = "../l1/.."
				}
				if e.check() != nil {
					continue
				}
				accepted++
				path := filepath.Join(base, e.Path)
				must(t, os.Symlink(e.Target, path))
				links = append(links, path)
			}
		}
		for _, path := range links {
			real, err := filepath.EvalSymlinks(path)
			if err != nil {
				continue // dangling, or in a circle
			}
			if rel, err := filepath.Rel(base, real); err != nil || !filepath.IsLocal(rel) {
				outside++
				t.Errorf("%s leads to %s", path, real)
			}
		}
	}
	if accepted < 300 {
		t.Errorf("only %d links were tried", accepted)
	}
}
