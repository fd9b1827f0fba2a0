package verity

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

const (
	testSalt = "0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20"
	testUUID = "01234567-89ab-cdef-fedc-ba9876543210"
	// sealBlocks foreign blocks stand between data and superblock.
	sealBlocks = 12
)

var uuidBytes = [16]byte{0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef, 0xfe, 0xdc, 0xba, 0x98, 0x76, 0x54, 0x32, 0x10}

// veritysetup runs the peer; it being missing is a failure.
func veritysetup(args ...string) (string, error) {
	path, err := exec.LookPath("veritysetup")
	if err != nil {
		path = "/usr/sbin/veritysetup"
	}
	out, err := exec.Command(path, args...).CombinedOutput()
	return string(out), err
}

func testData(blocks int64, seed uint64) []byte {
	b := make([]byte, blocks*BlockSize)
	c := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), 1})
	c.Read(b)
	return b
}

// discLayout is where the parts of a disc lie, in blocks.
type discLayout struct {
	data, super, tree, fec, fecBlocks int64
	roots                             int
}

func layoutDisc(t testing.TB, data int64, roots int) discLayout {
	t.Helper()
	tree, err := TreeBlocks(data)
	if err != nil {
		t.Fatal(err)
	}
	fec, err := FECBlocks(data+tree, roots)
	if err != nil {
		t.Fatal(err)
	}
	super := data + sealBlocks
	return discLayout{data, super, super + 1, super + 1 + tree, fec, roots}
}

func (l discLayout) geometryArgs() []string {
	args := []string{
		"--data-blocks=" + strconv.FormatInt(l.data, 10),
		"--data-block-size=2048", "--hash-block-size=2048",
		"--hash-offset=" + strconv.FormatInt(l.super*BlockSize, 10),
	}
	return args
}

func (l discLayout) fecArgs(path string) []string {
	return []string{
		"--fec-device=" + path,
		"--fec-offset=" + strconv.FormatInt(l.fec*BlockSize, 10),
		"--fec-roots=" + strconv.Itoa(l.roots),
	}
}

// format has the peer make a disc of data; salt is in hex, or "-" for none.
func (l discLayout) format(t *testing.T, path string, data []byte, salt string) [DigestSize]byte {
	t.Helper()
	image := append(bytes.Clone(data), bytes.Repeat([]byte("seal"), sealBlocks*BlockSize/4)...)
	if err := os.WriteFile(path, image, 0o600); err != nil {
		t.Fatal(err)
	}
	args := append([]string{"format", path, path, "--salt=" + salt, "--uuid=" + testUUID}, l.geometryArgs()...)
	if l.roots > 0 {
		args = append(args, l.fecArgs(path)...)
	}
	out, err := veritysetup(args...)
	if err != nil {
		t.Fatalf("veritysetup format: %v\n%s", err, out)
	}
	m := regexp.MustCompile(`Root hash:\s+([0-9a-f]{64})`).FindStringSubmatch(out)
	if m == nil {
		t.Fatalf("no root hash in veritysetup's output:\n%s", out)
	}
	var root [DigestSize]byte
	hex.Decode(root[:], []byte(m[1]))
	return root
}

// write makes the same disc with this package.
func (l discLayout) write(t testing.TB, path string, data []byte, salt []byte) [DigestSize]byte {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	p := Params{DataBlocks: l.data, Salt: salt, UUID: uuidBytes}
	w, err := NewTreeWriter(io.NewOffsetWriter(f, l.tree*BlockSize), p)
	if err != nil {
		t.Fatal(err)
	}
	pieces := rand.New(rand.NewPCG(1, uint64(l.data)))
	for rest := data; len(rest) > 0; {
		n := min(len(rest), pieces.IntN(3<<20)+1)
		if _, err := w.Write(rest[:n]); err != nil {
			t.Fatal(err)
		}
		rest = rest[n:]
	}
	root, err := w.Close()
	if err != nil {
		t.Fatal(err)
	}
	sb, err := Superblock(p)
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []struct {
		b  []byte
		at int64
	}{{data, 0}, {bytes.Repeat([]byte("seal"), sealBlocks*BlockSize/4), l.data}, {sb[:], l.super}} {
		if _, err := f.WriteAt(part.b, part.at*BlockSize); err != nil {
			t.Fatal(err)
		}
	}
	src := l.protected(f)
	if err := EncodeFEC(context.Background(), src, l.blocks(), l.roots, io.NewOffsetWriter(f, l.fec*BlockSize), nil); err != nil {
		t.Fatal(err)
	}
	return root
}

// blocks is the number of blocks that parity protects.
func (l discLayout) blocks() int64 { return l.data + l.fec - l.tree }

// protected is data ‖ tree of a disc, with the foreign blocks left out.
func (l discLayout) protected(r io.ReaderAt) io.ReaderAt {
	return joined{
		io.NewSectionReader(r, 0, l.data*BlockSize),
		io.NewSectionReader(r, l.tree*BlockSize, (l.fec-l.tree)*BlockSize),
	}
}

// joined reads a, then b.
type joined struct{ a, b *io.SectionReader }

func (j joined) ReadAt(p []byte, off int64) (n int, err error) {
	if off < j.a.Size() {
		n, err = j.a.ReadAt(p[:min(int64(len(p)), j.a.Size()-off)], off)
		if n == len(p) || err != nil && err != io.EOF {
			return n, err
		}
	}
	k, err := j.b.ReadAt(p[n:], off+int64(n)-j.a.Size())
	return n + k, err
}

// verify has the peer check a disc.
func (l discLayout) verify(path string, root [DigestSize]byte, fec bool) (string, error) {
	args := append([]string{"verify", path, path, hex.EncodeToString(root[:])}, l.geometryArgs()...)
	if fec {
		args = append(args, l.fecArgs(path)...)
	}
	return veritysetup(args...)
}

// TestPeerFormat compares whole discs with those that veritysetup makes.
func TestPeerFormat(t *testing.T) {
	salt, _ := hex.DecodeString(testSalt)
	long := bytes.Repeat([]byte{0xa5}, MaxSaltSize)
	dir := t.TempDir()
	ours, theirs := filepath.Join(dir, "ours"), filepath.Join(dir, "theirs")
	check := func(name string, blocks int64, roots int, salt []byte) {
		t.Run(name, func(t *testing.T) {
			l := layoutDisc(t, blocks, roots)
			data := testData(blocks, uint64(blocks))
			arg := hex.EncodeToString(salt)
			if arg == "" {
				arg = "-"
			}
			want := l.format(t, theirs, data, arg)
			got := l.write(t, ours, data, salt)
			if got != want {
				t.Errorf("root hash %x, veritysetup says %x", got, want)
			}
			a, err := os.ReadFile(ours)
			if err != nil {
				t.Fatal(err)
			}
			b, err := os.ReadFile(theirs)
			if err != nil {
				t.Fatal(err)
			}
			// veritysetup leaves the superblock's tail to a later write.
			if int64(len(b)) < l.tree*BlockSize {
				b = append(b, make([]byte, l.tree*BlockSize-int64(len(b)))...)
			}
			if int64(len(a)) != (l.fec+l.fecBlocks)*BlockSize {
				t.Errorf("our disc has %d bytes, want %d blocks", len(a), l.fec+l.fecBlocks)
			}
			if !bytes.Equal(a, b) {
				i := 0
				for i < min(len(a), len(b)) && a[i] == b[i] {
					i++
				}
				t.Errorf("discs of %d and %d bytes differ at block %d, byte %d: %+v", len(a), len(b), i/BlockSize, i%BlockSize, l)
			}
			if out, err := l.verify(ours, got, roots > 0); err != nil {
				t.Errorf("veritysetup verify refuses our disc: %v\n%s", err, out)
			}
		})
	}
	sizes := []int64{1, 2, 63, 64, 65, 128, 4095, 4096, 4097}
	for _, n := range sizes {
		for _, roots := range []int{0, 2, 3, 8, 23, 24} {
			if (n == 4095 || n == 4096) && roots != 0 && roots != 24 {
				continue // the peer takes its time
			}
			check(fmt.Sprintf("%d-%d", n, roots), n, roots, salt)
		}
	}
	// 33 MB: more than one strip of parity at 2 and at 24 roots.
	for _, roots := range []int{2, 24} {
		check(fmt.Sprintf("16500-%d", roots), 16500, roots, salt)
	}
	check("three-levels", 64*64*3+70, 0, salt)
	check("no-salt", 130, 24, nil)
	check("one-byte-salt", 130, 24, []byte{7})
	check("longest-salt", 130, 24, long)
}

// TestPeerDamage flips one byte of a disc in every place and wants both to
// refuse, and veritysetup to repair it from our parity.
func TestPeerDamage(t *testing.T) {
	const blocks = 64*64 + 1
	salt, _ := hex.DecodeString(testSalt)
	path := filepath.Join(t.TempDir(), "disc")
	l := layoutDisc(t, blocks, 24)
	root := l.write(t, path, testData(blocks, 3), salt)
	disc, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name  string
		block int64
	}{
		{"first data block", 0},
		{"last data block", blocks - 1},
		{"top of the tree", l.tree},
		{"middle of the tree", l.tree + 2},
		{"last leaf", l.fec - 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			bad := bytes.Clone(disc)
			bad[tc.block*BlockSize+17] ^= 0x40
			if tc.block == l.fec-1 {
				// Its padding, which no data block depends on.
				bad[tc.block*BlockSize+17] ^= 0x40
				bad[(tc.block+1)*BlockSize-1] ^= 0x40
			}
			if err := os.WriteFile(path, bad, 0o600); err != nil {
				t.Fatal(err)
			}
			if out, err := l.verify(path, root, false); err == nil {
				t.Errorf("veritysetup verify accepts it:\n%s", out)
			}
			if _, err := readDisc(l, bad, salt, root); err == nil {
				t.Error("we accept it")
			}
			// Blocks of the tree are checked, but not repaired, by verify.
			if tc.block < blocks {
				if out, err := l.verify(path, root, true); err != nil {
					t.Errorf("veritysetup doesn't repair it from our parity: %v\n%s", err, out)
				}
			}
		})
	}
}

// readDisc reads all data of a disc through the tree.
func readDisc(l discLayout, disc, salt []byte, root [DigestSize]byte) ([]byte, error) {
	tree := io.NewSectionReader(bytes.NewReader(disc), l.tree*BlockSize, (l.fec-l.tree)*BlockSize)
	tr, err := OpenTree(tree, Params{DataBlocks: l.data, Salt: salt}, root)
	if err != nil {
		return nil, err
	}
	s := NewReader(bytes.NewReader(disc), tr).Sequential(context.Background(), 0, l.data)
	defer s.Close()
	return io.ReadAll(s)
}

// TestPeerRepair damages discs as veritysetup can repair them, and wants both to
// do it: up to half the roots in a codeword, at unknown places.
func TestPeerRepair(t *testing.T) {
	salt := []byte("repair")
	path := filepath.Join(t.TempDir(), "disc")
	rnd := rand.New(rand.NewPCG(8, 8))
	for _, tc := range []struct {
		blocks int64
		roots  int
	}{{231, 24}, {600, 2}, {520, 8}, {700, 17}} {
		o := makeOriginal(t, tc.blocks, tc.roots, "")
		l := layoutDisc(t, tc.blocks, tc.roots)
		if root := l.write(t, path, o.data, salt); root != o.p.Root {
			t.Fatal("another root hash")
		}
		image, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, kind := range []int{zeroed, garbage, flipped} {
			d := o.disc()
			column := rnd.Int64N(min(o.rounds, tc.blocks))
			for j := range int64(tc.roots / 2) {
				if i := column + 7*j*o.rounds; i < tc.blocks {
					d.damage(i, kind, rnd)
				}
			}
			if (tc.blocks-1)%o.rounds != column {
				d.damage(tc.blocks-1, flipped, rnd)
			}
			bad := bytes.Clone(image)
			copy(bad, d.data.b)
			if err := os.WriteFile(path, bad, 0o600); err != nil {
				t.Fatal(err)
			}
			if out, err := l.verify(path, o.p.Root, false); err == nil {
				t.Errorf("%+v, kind %d: veritysetup finds no damage:\n%s", tc, kind, out)
			}
			if out, err := l.verify(path, o.p.Root, true); err != nil {
				t.Errorf("%+v, kind %d: veritysetup doesn't repair it: %v\n%s", tc, kind, err, out)
			}
			d.repairs(t, fmt.Sprintf("%+v, kind %d", tc, kind))
		}
	}
}

// TestPeerRounding has veritysetup accept our tree and parity at sizes around
// every border where the number of rounds, of leaves or of levels changes.
func TestPeerRounding(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disc")
	for _, roots := range []int{2, 8, 17, 24} {
		k := int64(codeword - roots)
		var sizes []int64
		last := int64(0)
		for n := int64(1); n < 3*k; n++ { // the borders of one and two rounds
			tree, err := TreeBlocks(n)
			if err != nil {
				t.Fatal(err)
			}
			if rounds, _ := FECRounds(n+tree, roots); rounds != last {
				sizes = append(sizes, max(1, n-1), n, n+1)
				last = rounds
			}
		}
		for _, n := range append(sizes, 63, 64, 65, 127, 128, 129) {
			l := layoutDisc(t, n, roots)
			root := l.write(t, path, testData(n, 6), []byte{1, 2})
			// Damage makes it read the parity.
			f, err := os.OpenFile(path, os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := f.WriteAt(make([]byte, 9), (n-1)*BlockSize+100); err != nil {
				t.Fatal(err)
			}
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
			if out, err := l.verify(path, root, false); err == nil {
				t.Errorf("%d blocks, %d roots: veritysetup finds no damage:\n%s", n, roots, out)
			}
			// The root hash of a single block it doesn't check after repairing.
			if out, err := l.verify(path, root, true); err != nil && !(n == 1 && strings.Contains(out, "Found 9 repairable errors")) {
				t.Errorf("%d blocks, %d roots: veritysetup can't use our parity: %v\n%s", n, roots, err, out)
			}
		}
	}
}
