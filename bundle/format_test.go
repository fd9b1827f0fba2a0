package bundle

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"fmt"
	"math/big"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"sallyport/bundle/trust"
)

const exampleHeading = "## 15 A worked example\n"

// TestWorkedExample holds section 15 of docs/format.md against the code, byte for byte.
func TestWorkedExample(t *testing.T) {
	text, err := os.ReadFile("../docs/format.md")
	must(t, err)
	_, section, found := strings.Cut(string(text), exampleHeading)
	if section, _, _ = strings.Cut(section, "\n## "); !found {
		t.Error("there is no section 15")
	}
	if want := workedExample(t); exampleHeading+section != want {
		t.Errorf("section 15 differs from byte %d; the code gives\n%s", firstDifference([]byte(exampleHeading+section), []byte(want)), want)
	}
}

func workedExample(t *testing.T) string {
	at := func(s int64) time.Time { return time.Unix(s, 0) }
	payload := fstest.MapFS{
		".":         {Mode: 0o755 | os.ModeDir, ModTime: at(1700000000)},
		"hello.txt": {Mode: 0o644, ModTime: at(1700000001), Data: []byte("Hello, world\n")},
		"sub":       {Mode: 0o750 | os.ModeDir, ModTime: at(1700000002)},
		"sub/link":  {Mode: 0o777 | os.ModeSymlink, ModTime: at(1700000003), Data: []byte("../hello.txt")},
	}
	epoch := int64(1700000000)
	opt := Options{Channel: "demo", Destination: "high", Sequence: 1, Epoch: &epoch}
	img := prepare(t, payload, opt)
	g, s, id := geometryOf(t, img), sealOf(t, img), sealOf(t, img).identity()
	x := forge(t, img).at
	of := func(name string) []byte { return img[x[name].lba*BlockSize:][:x[name].size] }
	fenced := func(b []byte) string { return "```\n" + string(bytes.TrimRight(b, "\n")) + "\n```\n\n" }
	hash := func(b []byte) string { return fmt.Sprintf("%x", sha256.Sum256(b)) }

	var w strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&w, format, args...) }
	p("%s\n", exampleHeading)
	p("A folder (mode 0755, mtime 1700000000) with three entries: `hello.txt` (0644, 1700000001) holds `Hello, world` and a newline, `sub` (0750, 1700000002) is a folder, and in it is `link` (1700000003), a symbolic link to `../hello.txt`.\n")
	p("It is prepared for channel `demo`, destination `high`, with sequence 1, no bundle before it, epoch 1700000000, no expiry and R = 0. A test holds this section against the code.\n\n")
	p("The X of section 7, with `⏎` for a newline, is `sallyport 1⏎demo⏎1⏎⏎1/1⏎`. From it come the salt and the UUID that stand in SEAL.json below, and the volume identifier `%s`.\n\n", id.volumeID())

	p("| LBA | blocks | what |\n|---|---|---|\n| 0 | 1 | locator |\n| 1 | 15 | zero |\n")
	root := x["."].lba
	p("| 16 | 2 | volume descriptors |\n| 18 | 2 | path tables L and M |\n| %d | 2 | the root's records, and the ER entry in its continuation area |\n| %d | %d | the records of `sub` |\n",
		root, root+2, x[readmeName].lba-root-2)
	for _, name := range []string{readmeName, "hello.txt", manifestName, sumsName} {
		p("| %d | %d | %s, %d bytes |\n", x[name].lba, blocksOf(x[name].size), name, x[name].size)
	}
	p("| %d | 12 | seal A |\n| %d | 1 | superblock |\n| %d | %d | hash tree |\n| %d | 12 | seal B |\n| %d | 1 | the locator's copy |\n| %d | %d | zero |\n\n",
		g.SealA(), g.Superblock(), g.Tree(), g.TreeBlocks, g.SealB(), g.LocatorCopy(), g.Padding(), g.ImageBlocks()-g.Padding())

	p("The locator, without the newlines that fill its block:\n\n%s", fenced(img[:BlockSize]))
	p("MANIFEST.json:\n\n%s", fenced(of(manifestName)))
	p("SHA256SUMS:\n\n%s", fenced(of(sumsName)))
	p("SEAL.json, without the newlines that fill its four blocks:\n\n%s", fenced(messageOf(t, img)))
	p("| SHA-256 of | |\n|---|---|\n| LBA 16 to %d, the directory area | `%s` |\n", x[readmeName].lba-1, hash(img[16*BlockSize:x[readmeName].lba*BlockSize]))
	p("| README.txt | `%s` |\n| the data area | `%s` |\n", hash(of(readmeName)), hash(img[:g.DataBlocks*BlockSize]))
	p("| the superblock | `%s` |\n| the hash tree | `%s` |\n", hash(img[g.Superblock()*BlockSize:g.Tree()*BlockSize]), hash(img[g.Tree()*BlockSize:g.FEC()*BlockSize]))
	p("| SEAL.json with its newlines, the seal digest | `%s` |\n| the image, all slots empty | `%s` |\n\n", hash(messageOf(t, img)), hash(img))

	key, public := exampleKey(t)
	sig, err := trust.Sign(key, messageOf(t, img), "sallyport-seal SEAL.json", time.Unix(1700000000, 0))
	must(t, err)
	p("The Ed25519 key whose seed is 32 bytes of 01, with key id 0807060504030201 (eight bytes, 01 to 08), has the public text `%s`. Its signature in slot 0, without the newlines behind it:\n\n%s", public, fenced(sig))
	setSlot(t, img, 0, sig)
	p("With it in both seals the image has SHA-256 `%s`.\n\n", hash(img))

	pgpPublic, fingerprint, armored := exampleOpenPGP(t, messageOf(t, img))
	p("The same Ed25519 key, as one of OpenPGP made at 1700000000, has the public text `%s` and the fingerprint %s. Its signature with SHA-512, made at 1700000001:\n\n%s", pgpPublic, fingerprint, fenced(armored))

	opt.Roots = 2
	img = prepare(t, payload, opt)
	g2, s2 := geometryOf(t, img), sealOf(t, img)
	p("With R = 2 the same payload has %d blocks of parity for %d blocks of data and tree. The locator, and with it the root hash, is another:\n\n%s", g2.FECBlocks, g2.DataBlocks+g2.TreeBlocks, fenced(img[:BlockSize]))
	p("| | |\n|---|---|\n| root hash | `%s` |\n| SHA-256 of the parity area | `%s` |\n| seal digest | `%s` |\n| SHA-256 of the image, all slots empty | `%s` |\n",
		s2.Verity.Root, s2.FEC.SHA256, hash(messageOf(t, img)), hash(img))

	if s.FEC.SHA256 != hash(nil) || int64(len(of(manifestName))) != s.Manifest.Bytes || x[manifestName].lba != s.Manifest.LBA {
		t.Errorf("the example contradicts its seal: %+v", s)
	}
	if !bytes.Equal(of("hello.txt"), []byte("Hello, world\n")) {
		t.Errorf("hello.txt holds %q", of("hello.txt"))
	}
	return w.String()
}

// exampleKey is the key of the worked example, made from what the text says.
func exampleKey(t *testing.T) (*trust.SecretKey, string) {
	t.Helper()
	private := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, ed25519.SeedSize))
	id := []byte{1, 2, 3, 4, 5, 6, 7, 8}
	raw := make([]byte, 158)
	copy(raw, "Ed\x00\x00B2")
	copy(raw[54:], id)
	copy(raw[62:], private)
	key, err := trust.ParseSecretKey([]byte("untrusted comment: minisign encrypted secret key\n" + base64.StdEncoding.EncodeToString(raw) + "\n"))
	must(t, err)
	public := base64.StdEncoding.EncodeToString(append(append([]byte("Ed"), id...), private[32:]...))
	if key.Public().String() != public {
		t.Errorf("the public key is %s, want %s", key.Public(), public)
	}
	return key, public
}

// exampleOpenPGP makes the OpenPGP key and signature of the worked example from what sections 10 and 11 say, without
// the code that they describe.
func exampleOpenPGP(t *testing.T, message []byte) (public, fingerprint string, armored []byte) {
	t.Helper()
	private := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, ed25519.SeedSize))
	body := append([]byte("\x04\x65\x53\xf1\x00\x16\x09\x2b\x06\x01\x04\x01\xda\x47\x0f\x01\x01\x07\x40"), private[32:]...)
	id := sha1.Sum(append([]byte{0x99, 0, byte(len(body))}, body...))
	signed := append([]byte("\x04\x00\x16\x0a\x00\x1d\x16\x21\x04"), id[:]...)
	signed = append(signed, "\x05\x02\x65\x53\xf1\x01"...)
	digest := sha512.Sum512(append(append(bytes.Clone(message), signed...), 4, 0xff, 0, 0, 0, byte(len(signed))))
	packet := append(append(signed, 0, 10, 9, 16), id[12:]...)
	packet = append(packet, digest[:2]...)
	for half := range slices.Chunk(ed25519.Sign(private, digest[:]), 32) {
		number := new(big.Int).SetBytes(half)
		packet = append(append(packet, byte(number.BitLen()>>8), byte(number.BitLen())), number.Bytes()...)
	}
	packet = append([]byte{0x88, byte(len(packet))}, packet...)
	crc := uint32(0xb704ce)
	for i := range len(packet) * 8 {
		top := crc>>23&1 ^ uint32(packet[i/8]>>(7-i%8)&1)
		crc = crc<<1&0xffffff ^ top*0x864cfb
	}
	armored = []byte("-----BEGIN PGP SIGNATURE-----\n\n")
	for line := range slices.Chunk([]byte(base64.StdEncoding.EncodeToString(packet)), 64) {
		armored = append(append(armored, line...), '\n')
	}
	armored = fmt.Appendf(armored, "=%s\n-----END PGP SIGNATURE-----\n", base64.StdEncoding.EncodeToString([]byte{byte(crc >> 16), byte(crc >> 8), byte(crc)}))

	public, fingerprint = base64.StdEncoding.EncodeToString(body), fmt.Sprintf("%X", id)
	key, err := trust.ParsePublicKey(public)
	must(t, err)
	sig, err := trust.ParseSignature(armored)
	must(t, err)
	must(t, trust.Verify(key, message, sig))
	if key.KeyID().String() != fingerprint {
		t.Errorf("the fingerprint is %s, want %s", key.KeyID(), fingerprint)
	}
	return public, fingerprint, armored
}

// TestFormatLimits: the limits that the text states are the code's.
func TestFormatLimits(t *testing.T) {
	text, err := os.ReadFile("../docs/format.md")
	must(t, err)
	for _, want := range []string{
		fmt.Sprintf(`"maxItems":%d`, MaxEntries), fmt.Sprintf(`"minimum":%d,"maximum":%d`, int64(minTime), int64(maxTime)),
		fmt.Sprintf(`"size":{"type":"integer","minimum":0,"maximum":%d}`, int64(MaxFileSize)), fmt.Sprintf(`"path":{"type":"string","minLength":1,"maxLength":%d}`, maxPath),
		fmt.Sprintf(`"target":{"type":"string","minLength":1,"maxLength":%d}`, maxTarget), fmt.Sprintf(`"bytes":{"type":"integer","minimum":1,"maximum":%d}`, MaxManifestBytes),
		fmt.Sprintf(`"count":{"type":"integer","minimum":0,"maximum":%d}`, int64(maxImageBlocks)),
		fmt.Sprintf("exactly %d,192 bytes", readmeBytes/1000),
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("docs/format.md doesn't say %s", want)
		}
	}
	// README.txt has room for the longest names, and for any block numbers.
	long := identity{channel: strings.Repeat("c", 63), sequence: 1<<53 - 1, previous: digest64, index: 1, of: 1}
	b := readme(long, geometry(t, 4_200_000_000, 0))
	if len(b) != readmeBytes || b[readmeBytes-1] != '\n' || bytes.Contains(b, []byte("%!")) {
		t.Errorf("README.txt of %d bytes", len(b))
	}
}
