package bundle

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"testing"

	"sallyport/bundle/canonjson"
	"sallyport/bundle/verity"
)

// A forgery is an image by hostile signers: whatever they write into the data area, tree, seal and signatures
// are good.
type forgery struct {
	data []byte // the data area; block 0 becomes the locator that fits
	seal Seal
	at   map[string]extent

	tree   func(leaves []byte) // changes the tree's only level before it is hashed
	reseal func(*Seal)         // changes the seal before it is signed
	after  func(img []byte)    // changes the image after it was signed
}

type extent struct{ lba, size int64 }

func forge(t testing.TB, img []byte) *forgery {
	t.Helper()
	g := geometryOf(t, img)
	f := &forgery{data: bytes.Clone(img[:g.DataBlocks*BlockSize]), seal: *sealOf(t, img), at: map[string]extent{}}
	m := f.seal.Manifest
	entries, err := readManifest(bytes.NewReader(img[m.LBA*BlockSize:]), m.Bytes, sha256.Sum256(img[m.LBA*BlockSize:][:m.Bytes]))
	must(t, err)
	l, err := newLayout(f.seal.identity(), f.seal.Created, m.Bytes, entries)
	must(t, err)
	note := func(i int, name string, size int64) {
		lba, _ := l.Extent(i)
		f.at[name] = extent{lba, size}
	}
	note(0, ".", BlockSize)
	note(layoutReadme, readmeName, readmeBytes)
	for i := 1; i < len(entries); i++ {
		note(layoutPayload+i-1, entries[i].Path, entries[i].Size)
	}
	note(layoutPayload+len(entries)-1, manifestName, m.Bytes)
	note(layoutPayload+len(entries), sumsName, sumsSize(entries))
	return f
}

// file returns the bytes of a file, or of a directory's first block, to be changed.
func (f *forgery) file(name string) []byte {
	x, ok := f.at[name]
	if !ok {
		panic(name)
	}
	return f.data[x.lba*BlockSize:][:x.size]
}

// tail returns what is behind a file's end in its last block.
func (f *forgery) tail(name string) []byte {
	x := f.at[name]
	end := x.lba*BlockSize + x.size
	return f.data[end : (x.lba+blocksOf(x.size))*BlockSize]
}

func (f *forgery) block(lba int64) []byte { return f.data[lba*BlockSize:][:BlockSize] }

// setManifest puts other bytes where MANIFEST.json begins; what stood behind it is gone.
func (f *forgery) setManifest(text []byte) {
	x := f.at[manifestName]
	f.data = append(f.data[:x.lba*BlockSize:x.lba*BlockSize], text...)
	f.data = append(f.data, make([]byte, blocksOf(int64(len(text)))*BlockSize-int64(len(text))+BlockSize)...)
	f.seal.Manifest.Bytes = int64(len(text))
	digest := sha256.Sum256(text)
	f.seal.Manifest.SHA256 = hex.EncodeToString(digest[:])
}

// image builds and signs the image.
func (f *forgery) image(t testing.TB) []byte {
	t.Helper()
	g, err := NewGeometry(int64(len(f.data))/BlockSize, int(f.seal.FEC.Roots))
	must(t, err)
	copy(f.data, g.locator())
	img := make([]byte, g.ImageBlocks()*BlockSize)
	copy(img, f.data)
	params := f.seal.identity().verityParams(g.DataBlocks)
	sb, err := verity.Superblock(params)
	must(t, err)
	copy(img[g.Superblock()*BlockSize:], sb[:])
	root := f.hashTree(img, g, params.Salt)
	input := fecInput(bytes.NewReader(f.data), bytes.NewReader(img[g.Tree()*BlockSize:g.FEC()*BlockSize]), g)
	sum, err := encodeParity(context.Background(), input, offsetWriter{img[g.FEC()*BlockSize:]}, g, nil)
	must(t, err)
	s := f.seal
	s.Verity.Root = hex.EncodeToString(root[:])
	s.FEC.SHA256 = hex.EncodeToString(sum)
	s.fill(g)
	if f.reseal != nil {
		f.reseal(&s)
	}
	text, err := canonjson.Encode(&s)
	must(t, err)
	seal := padNewlines(text, sealBlocks*BlockSize)
	copy(img[g.SealA()*BlockSize:], seal)
	copy(img[g.SealB()*BlockSize:], seal)
	copy(img[g.LocatorCopy()*BlockSize:], g.locator())
	sign(t, img, "alice", "bob", "carol")
	if f.after != nil {
		f.after(img)
	}
	return img
}

type offsetWriter struct{ b []byte }

func (w offsetWriter) WriteAt(p []byte, off int64) (int, error) { return copy(w.b[off:], p), nil }

// hashTree is the tree of docs/format.md, section 7, written down once more.
func (f *forgery) hashTree(img []byte, g Geometry, salt []byte) [32]byte {
	level := f.data
	at := g.FEC() * BlockSize
	for {
		var next []byte
		for b := level; len(b) > 0; b = b[BlockSize:] {
			d := sha256.Sum256(append(bytes.Clone(salt), b[:BlockSize]...))
			next = append(next, d[:]...)
		}
		if len(next) == 32 {
			return [32]byte(next)
		}
		next = append(next, make([]byte, blocksOf(int64(len(next)))*BlockSize-int64(len(next)))...)
		if f.tree != nil {
			f.tree(next)
		}
		at -= int64(len(next))
		copy(img[at:], next)
		level = next
	}
}

// TestForgeNothing: what the helper builds from an unchanged image is that image.
func TestForgeNothing(t *testing.T) {
	for _, roots := range []int{0, 24} {
		img := signed(t, rich(), withRoots(roots))
		if again := forge(t, img).image(t); !bytes.Equal(again, img) {
			t.Errorf("%d roots: the forged image differs at byte %d", roots, firstDifference(again, img))
		}
	}
}

// TestHostileSigners: rows F3, F4, F5 and T9. Everything is under good signatures and a good tree, and yet is
// refused, because it isn't what the manifest gives.
func TestHostileSigners(t *testing.T) {
	const pvd = 16
	volume := func(kind byte) []byte { // a volume descriptor (ECMA-119, 8.1)
		b := make([]byte, BlockSize)
		copy(b, append([]byte{kind}, "CD001\x01"...))
		return b
	}
	record := func(f *forgery, name string) []byte { // the directory record in the root that leads to a file
		root, want := f.file("."), f.at[name].lba
		for i := 0; root[i] > 0; i += int(root[i]) {
			if int64(binary.LittleEndian.Uint32(root[i+2:])) == want {
				return root[i:][:root[i]]
			}
		}
		t.Fatalf("no record of %s", name)
		return nil
	}
	cases := []struct {
		id, name string
		change   func(f *forgery)
		code     string
	}{
		{"F5", "data in the system area", func(f *forgery) { copy(f.block(5), "hidden") }, "directory-differs"},
		{"F5", "the last byte of the system area", func(f *forgery) { f.block(15)[2047] = 1 }, "directory-differs"},
		{"F5", "a master boot record", func(f *forgery) { copy(f.block(1)[510:], "\x55\xaa") }, "directory-differs"},
		{"F4", "Joliet instead of the terminator", func(f *forgery) {
			copy(f.block(17), volume(2))
			copy(f.block(17)[88:], "%/E")
		}, "directory-differs"},
		{"F5", "an El Torito boot record", func(f *forgery) {
			copy(f.block(17), volume(0))
			copy(f.block(17)[7:], "EL TORITO SPECIFICATION")
		}, "directory-differs"},
		{"F5", "a UDF bridge in the path table's block", func(f *forgery) { copy(f.block(18)[1000:], "\x00BEA01\x01") }, "directory-differs"},
		{"F4", "another primary volume descriptor", func(f *forgery) { copy(f.block(17), f.block(pvd)) }, "directory-differs"},
		{"F4", "another volume identifier", func(f *forgery) { f.block(pvd)[40] = 'X' }, "directory-differs"},
		{"F4", "another time of creation", func(f *forgery) { f.block(pvd)[813]++ }, "directory-differs"},
		{"F5", "data in the application use area", func(f *forgery) { f.block(pvd)[900] = 1 }, "directory-differs"},
		{"F3", "the volume's size in big-endian only", func(f *forgery) { f.block(pvd)[87]++ }, "directory-differs"},
		{"F3", "a path table that leads elsewhere", func(f *forgery) { f.block(18)[2]++ }, "directory-differs"},
		{"F3", "a record's extent in big-endian only", func(f *forgery) { record(f, "a.txt")[9]++ }, "directory-differs"},
		{"F3", "a record's size in little-endian only", func(f *forgery) { record(f, "a.txt")[10]++ }, "directory-differs"},
		{"F3", "an extent past the end", func(f *forgery) {
			r := record(f, "a.txt")
			binary.LittleEndian.PutUint32(r[2:], 1<<31)
			binary.BigEndian.PutUint32(r[6:], 1<<31)
		}, "directory-differs"},
		{"F3", "overlapping extents", func(f *forgery) {
			r := record(f, "a.txt")
			copy(r[2:10], record(f, readmeName)[2:10])
		}, "directory-differs"},
		{"F4", "a hidden file", func(f *forgery) { record(f, "a.txt")[25] |= 1 }, "directory-differs"},
		{"F4", "an ISO name that isn't the Rock Ridge name's", func(f *forgery) { record(f, "a.txt")[33] = 'B' }, "directory-differs"},
		{"F4", "another Rock Ridge name", func(f *forgery) {
			r := record(f, "a.txt")
			copy(r[bytes.Index(r, []byte("a.txt")):], "b.txt")
		}, "directory-differs"},
		{"F7", "setuid in Rock Ridge only", func(f *forgery) {
			r := record(f, "a.txt")
			r[bytes.Index(r, []byte("PX"))+5] |= 8
		}, "directory-differs"},
		{"F5", "data behind the records of a directory", func(f *forgery) { f.file(".")[2047] = 1 }, "directory-differs"},
		{"F5", "data behind a continuation area", func(f *forgery) { f.block(f.at["."].lba + 1)[2000] = 1 }, "directory-differs"},
		{"T9", "a block behind SHA256SUMS", func(f *forgery) { f.data = append(f.data, pattern(BlockSize, "x")...) }, "directory-differs"},
		{"T9", "an empty block behind SHA256SUMS", func(f *forgery) { f.data = append(f.data, make([]byte, BlockSize)...) }, "directory-differs"},
		{"T9", "a block less", func(f *forgery) { f.data = f.data[:len(f.data)-BlockSize] }, "directory-differs"},
		{"T9", "the manifest in another place", func(f *forgery) {
			f.seal.Manifest.LBA = int64(len(f.data)) / BlockSize
			f.data = append(f.data, bytes.Clone(f.data[f.at[manifestName].lba*BlockSize:][:BlockSize])...)
		}, "directory-differs"},
		{"F5", "another README.txt", func(f *forgery) { copy(f.file(readmeName)[100:], "do as you like") }, "readme-differs"},
		{"F5", "more behind the README's text", func(f *forgery) { f.file(readmeName)[readmeBytes-1] = ' ' }, "readme-differs"},
		{"T1", "another payload", func(f *forgery) { f.file("d/b.bin")[2999] ^= 1 }, "file-differs"},
		{"F5", "data behind a file's end", func(f *forgery) { f.tail("a.txt")[0] = 1 }, "bad-padding"},
		{"F5", "data behind a file's end, last byte", func(f *forgery) { b := f.tail("d/b.bin"); b[len(b)-1] = 1 }, "bad-padding"},
		{"F5", "data behind the manifest", func(f *forgery) { f.tail(manifestName)[7] = 1 }, "bad-padding"},
		{"T1", "other digests in SHA256SUMS", func(f *forgery) { copy(f.file(sumsName), "0000") }, "sums-differ"},
		{"F5", "data behind SHA256SUMS", func(f *forgery) { b := f.tail(sumsName); b[len(b)-1] = 1 }, "bad-padding"},
		{"F5", "data behind the digests of a hash block", func(f *forgery) { f.tree = func(b []byte) { b[len(b)-1] = 1 } }, "bad-tree"},
		{"F5", "another UUID in the superblock", func(f *forgery) {
			f.after = func(img []byte) { img[geometryOf(t, img).Superblock()*BlockSize+16] ^= 1 }
		}, "bad-superblock"},
		{"F5", "data behind the superblock's salt", func(f *forgery) {
			f.after = func(img []byte) { img[geometryOf(t, img).Tree()*BlockSize-1] = 1 }
		}, "bad-superblock"},
		{"F5", "data in the padding", func(f *forgery) {
			f.after = func(img []byte) { img[len(img)-1] = 1 }
		}, "bad-padding"},
		{"F5", "another locator behind seal B", func(f *forgery) {
			f.after = func(img []byte) { img[geometryOf(t, img).LocatorCopy()*BlockSize+2047] = ' ' }
		}, "bad-locator"},
	}
	img := signed(t, tiny(), demo())
	for _, c := range cases {
		t.Run(c.id+" "+c.name, func(t *testing.T) {
			f := forge(t, img)
			c.change(f)
			forged := f.image(t)
			for _, src := range []Source{fileSource(forged), mediumSource(forged)} {
				var sink treeSink
				_, err := verify(src, VerifyOptions{Sink: &sink})
				wantCode(t, err, c.code)
				if c.code == "directory-differs" && len(sink.order) > 0 {
					t.Errorf("%d entries arrived before the directory area was compared", len(sink.order))
				}
				if _, err := Check(t.Context(), src, nil, nil); codeOf(err) != c.code {
					t.Errorf("Check: %v, want %s", err, c.code)
				}
			}
		})
	}
}
