package ext

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// vol is a volume in memory that a test damages. f is what it was before.
type vol struct {
	t testing.TB
	b []byte
	f *FS
}

var (
	built   = map[string][]byte{}
	builtMu sync.Mutex
)

// Volumes that tests begin with, all of 512 KiB in blocks of 1 KiB.
var (
	plain    = []string{"-t", "ext2", "-O", "^resize_inode,^ext_attr"}
	checked  = []string{"-t", "ext4", "-O", "^has_journal,^resize_inode"}
	uncheckd = []string{"-t", "ext4", "-O", "^has_journal,^resize_inode,^metadata_csum,^64bit,^uninit_bg"}
	inlined  = []string{"-t", "ext4", "-O", "^has_journal,^resize_inode,inline_data"}
)

const (
	volSize = 512 << 10
	target  = "sub/one/two/three/four/five/six/seven/eight/nine/ten/eleven/twelve" // of a link, too long for an inode
)

// sample makes a volume of a small tree with mke2fs.
func sample(t testing.TB, args []string) vol {
	t.Helper()
	builtMu.Lock()
	defer builtMu.Unlock()
	key := strings.Join(args, " ")
	if built[key] == nil {
		built[key] = makeVolume(t, args)
	}
	v := vol{t: t, b: bytes.Clone(built[key])}
	var err error
	if v.f, err = Open(bytes.NewReader(built[key]), volSize); err != nil {
		t.Fatalf("%q: %v", args, err)
	}
	return v
}

func makeVolume(t testing.TB, args []string) []byte {
	t.Helper()
	dir := t.TempDir()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	tree, image := filepath.Join(dir, "tree"), filepath.Join(dir, "image")
	check(os.MkdirAll(filepath.Join(tree, "sub/deep"), 0o755))
	check(os.MkdirAll(filepath.Join(tree, "other"), 0o755))
	for name, data := range map[string]string{
		"hello.txt": "hello\n", "other.txt": strings.Repeat("other\n", 400), "empty": "", "ninety": strings.Repeat("n", 90), "sub/b.txt": "b", "sub/deep/c.txt": strings.Repeat("c", 5000),
	} {
		check(os.WriteFile(filepath.Join(tree, name), []byte(data), 0o644))
	}
	check(os.Symlink("hello.txt", filepath.Join(tree, "fast")))
	check(os.Symlink(target, filepath.Join(tree, "slow")))
	for name, every := range map[string]int64{"holes": 1, "wide": 30} {
		f, err := os.Create(filepath.Join(tree, name))
		check(err)
		for i := range int64(8) {
			_, err := f.WriteAt(bytes.Repeat([]byte{byte(i + 1)}, 1024), i*2048*every)
			check(err)
		}
		check(f.Close())
	}
	check(filepath.WalkDir(tree, func(path string, d fs.DirEntry, err error) error {
		if d.Type()&fs.ModeSymlink == 0 {
			err = os.Chtimes(path, time.Unix(1_700_000_000, 0), time.Unix(1_700_000_000, 0))
		}
		return err
	}))
	all := append([]string{"-q", "-F", "-b", "1024", "-N", "64", "-d", tree, "-L", "small", "-U", "11111111-2222-3333-4444-555555555555"}, args...)
	cmd := exec.Command("mke2fs", append(all, "-E", "root_owner=0:0,hash_seed=11111111-2222-3333-4444-555555555555", image, "512k")...)
	cmd.Env = append(os.Environ(), "E2FSPROGS_FAKE_TIME=1700000000")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("mke2fs %q: %v\n%s", args, err, out)
	}
	b, err := os.ReadFile(image)
	check(err)
	return b
}

func (v vol) open() (*FS, error) { return Open(bytes.NewReader(v.b), int64(len(v.b))) }

// node is what a path names.
func (v vol) node(path string) *inode {
	v.t.Helper()
	e, err := v.f.lookup("find", path)
	if err != nil || e.node == nil {
		v.t.Fatalf("%s: %+v, %v", path, e, err)
	}
	return e.node
}

// inode is the bytes of what a path names.
func (v vol) inode(path string) []byte { return v.b[v.node(path).off:][:v.f.inodeSize] }

// entry is where the entry of a path is in the volume, and its bytes.
func (v vol) entry(path string) (off int64, b []byte) {
	v.t.Helper()
	e, err := v.f.lookup("find", path)
	if err != nil {
		v.t.Fatal(err)
	}
	return e.off, v.b[e.off:][:le.Uint16(v.b[e.off+4:])]
}

// place is where a logical block of a path's is, in bytes.
func (v vol) place(path string, logical int64) int64 {
	v.t.Helper()
	r, err := v.f.find(v.node(path), logical)
	if err != nil || r.at == 0 {
		v.t.Fatalf("%s: %+v, %v", path, r, err)
	}
	return r.at * v.f.block
}

// child is where the node of extents is that the one in a path's inode names, in bytes.
func (v vol) child(path string) int64 {
	v.t.Helper()
	b := v.node(path).block[:]
	if le.Uint16(b[6:]) == 0 {
		v.t.Fatalf("%s has no tree of extents", path)
	}
	return childPlace(b[12:]) * v.f.block
}

// sealInode makes the checksum of a path's inode right.
func (v vol) sealInode(path string) {
	i := v.node(path)
	b := v.b[i.off:][:v.f.inodeSize]
	i.seed = sum32(sum32(v.f.seed, i.number), le.Uint32(b[100:]))
	if got, _, ok := v.f.inodeSum(i, b); !ok {
		le.PutUint16(b[124:], uint16(got))
		if len(b) > 128 && le.Uint16(b[128:]) >= 4 {
			le.PutUint16(b[130:], uint16(got>>16))
		}
	}
}

// sealBlock makes the checksum of a directory's block right that has byte off in it.
func (v vol) sealBlock(path string, off int64) {
	b := v.b[off/1024*1024:][:1024]
	if v.f.checksums {
		le.PutUint32(b[1020:], sum(v.node(path).seed, b[:1012]))
	}
}

// sealNode does it for the node of extents at byte off.
func (v vol) sealNode(path string, off int64) {
	b := v.b[off:][:1024]
	tail := 12 + 12*int(le.Uint16(b[4:]))
	if v.f.checksums && tail <= 1020 {
		le.PutUint32(b[tail:], sum(v.node(path).seed, b[:tail]))
	}
}

// sealSuper and sealGroup do it for the superblock and the descriptor of the one group.
func (v vol) sealSuper() {
	s := v.b[superPlace:]
	if v.f.checksums {
		le.PutUint32(s[1020:], sum(^uint32(0), s[:1020]))
	}
}

func (v vol) sealGroup() {
	f := v.f
	d := v.b[2048:][:f.descSize]
	if f.checksums {
		s := sum(sum(sum32(f.seed, 0), d[:30]), []byte{0, 0})
		if f.descSize > 32 {
			s = sum(s, d[32:])
		}
		le.PutUint16(d[30:], uint16(s))
	}
}

// link has an entry name another inode, and says where the entry is.
func (v vol) link(name string, to uint32) int64 {
	off, b := v.entry(name)
	le.PutUint32(b, to)
	v.sealBlock(path.Dir(name), off)
	return off
}

// contents walks over a tree and reads its files: what each has, and what can't be read.
func contents(fsys *FS) (tree map[string]string, bad map[string]error) {
	tree, bad = map[string]string{}, map[string]error{}
	fs.WalkDir(fsys, ".", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			bad[path] = err
			delete(tree, path+"/")
		case d.IsDir():
			tree[path+"/"] = ""
		case d.Type() == fs.ModeSymlink:
			to, err := fsys.ReadLink(path)
			if err != nil {
				bad[path] = err
				return nil
			}
			tree[path] = "-> " + to
		default:
			f, err := fsys.Open(path)
			if err != nil {
				bad[path] = err
				return nil
			}
			defer f.Close()
			b, err := io.ReadAll(io.LimitReader(f, 4<<20))
			if err != nil {
				bad[path] = err
				return nil
			}
			tree[path] = string(b)
		}
		return nil
	})
	return tree, bad
}

// codes are those of the findings, sorted.
func codes(fsys *FS) string {
	var out []string
	for _, f := range fsys.Findings() {
		out = append(out, f.Code)
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

// isDamage says whether an error is one that hostile bytes may cause.
func isDamage(err error) bool {
	var damage *FormatError
	return errors.As(err, &damage) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, errDepth)
}
