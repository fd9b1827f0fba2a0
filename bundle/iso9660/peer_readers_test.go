package iso9660

import (
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"testing"

	backend "github.com/diskfs/go-diskfs/backend/file"
	diskfs "github.com/diskfs/go-diskfs/filesystem/iso9660"
	kdomanski "github.com/kdomanski/iso9660"
)

// TestPeersReadOurs has the stock tools read what we write: names, kinds, modes, times and contents of every entry.
func TestPeersReadOurs(t *testing.T) {
	t.Parallel()
	for name, tr := range map[string]*testTree{"rich": richTree(t), "many": manyTree(), "empty": newTree()} {
		image := save(t, tr.image(t))
		want := tr.seen()
		t.Run(name+"/ours", func(t *testing.T) {
			b, err := os.ReadFile(image)
			if err != nil {
				t.Fatal(err)
			}
			got, err := ours(openImage(t, b))
			if err != nil {
				t.Fatal(err)
			}
			compareTrees(t, "tree", want, "our reader", got, whole)
			if err := Strict(t.Context(), memImage(b), int64(len(b))); err != nil {
				t.Error(err)
			}
		})
		t.Run(name+"/bsdtar", func(t *testing.T) {
			t.Parallel()
			got, err := bsdtarTree(t, image)
			if err != nil {
				t.Fatal(err)
			}
			if name == "empty" {
				got["."] = want["."] // bsdtar lists nothing of an empty volume
			}
			compareTrees(t, "tree", want, "bsdtar", got, whole)
		})
		t.Run(name+"/bsdtar-x", func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			tool(t, minute, "bsdtar", "-xpf", image, "-C", dir)
			got, err := diskTree(dir)
			makeRemovable(dir)
			if err != nil {
				t.Fatal(err)
			}
			compareTrees(t, "tree", want, "bsdtar -x", got, onDisk)
		})
		t.Run(name+"/xorriso", func(t *testing.T) {
			t.Parallel()
			got, err := xorrisoTree(t, image)
			if err != nil {
				t.Fatal(err)
			}
			compareTrees(t, "tree", want, "xorriso", got, onDisk)
		})
		t.Run(name+"/isoinfo", func(t *testing.T) {
			t.Parallel()
			got, err := isoinfoNames(t, image, "-R")
			if err != nil {
				t.Fatal(err)
			}
			// isoinfo prints a line for each name: one with a newline in it is two.
			wantNames := strings.Split(strings.Join(paths(want), "\n/"), "\n")
			for i := range wantNames {
				wantNames[i] = strings.TrimPrefix(wantNames[i], "/")
			}
			slices.Sort(wantNames)
			wantNames = slices.DeleteFunc(wantNames, func(s string) bool { return s == "" })
			if !slices.Equal(got, wantNames) {
				t.Errorf("isoinfo: %d names, want %d", len(got), len(wantNames))
				for i := range min(len(got), len(wantNames)) {
					if got[i] != wantNames[i] {
						t.Fatalf("first difference: %q, want %q", got[i], wantNames[i])
					}
				}
			}
		})
	}
}

// onDisk leaves out what an extracted tree can't show: times before 1901, times of links.
func onDisk(path string, s seen) seen {
	if path == "." { // bsdtar doesn't touch the directory that it extracts into
		return seen{}
	}
	if s.kind == "link" || s.mtime <= -1<<31 {
		s.mtime = 0
	}
	return s
}

// TestLibrariesReadOurs has the two Go libraries read contents, as far as they can.
func TestLibrariesReadOurs(t *testing.T) {
	t.Parallel()
	t.Run("kdomanski", func(t *testing.T) {
		tr := richTree(t)
		l, b := tr.layout(t)
		img, err := kdomanski.OpenImage(memImage(b))
		if err != nil {
			t.Fatal(err)
		}
		root, err := img.RootDir()
		if err != nil {
			t.Fatal(err)
		}
		n := kdomanskiWalk(t, l, root, 0, tr)
		if n != len(tr.data) {
			t.Errorf("%d files were compared of %d", n, len(tr.data))
		}
	})
	t.Run("go-diskfs", func(t *testing.T) {
		// go-diskfs cuts names that go on in a second NM entry and refuses a backslash.
		tr := richTree(t)
		tame := newTree()
		for _, e := range tr.entries[1:] {
			if len(baseName(e.Path)) <= 80 && !strings.Contains(e.Path, strings.Repeat("d", MaxName)) && !strings.Contains(e.Path, "\\") {
				tame.entries = append(tame.entries, e)
				if e.Mode.IsRegular() {
					tame.data[e.Path] = tr.data[e.Path]
				}
			}
		}
		tr = tame
		l, b := tr.layout(t)
		f, err := os.Open(save(t, b))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		fsys, err := diskfs.Read(backend.New(f, true), int64(len(b)), 0, BlockSize)
		if err != nil {
			t.Fatal(err)
		}
		n := diskfsWalk(t, l, fsys, ".", 0, tr)
		if n != len(tr.data) {
			t.Errorf("%d files were compared of %d", n, len(tr.data))
		}
	})
}

// dirChildren returns the children of an entry that is a directory, in record order.
func (l *Layout) dirChildren(entry int32) []int32 {
	d := &l.dirs[l.nodes[entry].at]
	return l.kids[d.first : d.first+d.n]
}

func kdomanskiWalk(t *testing.T, l *Layout, d *kdomanski.File, entry int32, tr *testTree) (files int) {
	kids := l.dirChildren(entry)
	children, err := d.GetChildren()
	if err != nil {
		t.Fatal(err)
	}
	if len(children) != len(kids) {
		t.Fatalf("%q: %d children, want %d", l.entries[entry].Path, len(children), len(kids))
	}
	for i, c := range children {
		e := &l.entries[kids[i]]
		if c.IsDir() != e.Mode.IsDir() {
			t.Fatalf("%q: directory %v", e.Path, c.IsDir())
		}
		if e.Mode.IsDir() {
			files += kdomanskiWalk(t, l, c, kids[i], tr)
		} else if e.Mode.IsRegular() {
			got, err := io.ReadAll(c.Reader())
			if err != nil || string(got) != string(tr.data[e.Path]) {
				t.Errorf("%q: %.20q, %v, want %.20q", e.Path, got, err, tr.data[e.Path])
			}
			files++
		}
	}
	return files
}

func diskfsWalk(t *testing.T, l *Layout, fsys *diskfs.FileSystem, path string, entry int32, tr *testTree) (files int) {
	kids := l.dirChildren(entry)
	children, err := fsys.ReadDir(path)
	if err != nil {
		t.Fatalf("%q: %v", path, err)
	}
	if len(children) != len(kids) {
		t.Fatalf("%q: %d children, want %d", path, len(children), len(kids))
	}
	byName := map[string]int32{}
	for _, k := range kids {
		byName[baseName(l.entries[k].Path)] = k
	}
	for _, c := range children {
		k, ok := byName[c.Name()]
		if !ok {
			t.Errorf("%q: a child %q", path, c.Name())
			continue
		}
		e := &l.entries[k]
		if e.Mode.IsDir() {
			files += diskfsWalk(t, l, fsys, e.Path, k, tr)
			continue
		}
		if !e.Mode.IsRegular() {
			continue
		}
		got, err := fs.ReadFile(fsys, e.Path)
		if err != nil || string(got) != string(tr.data[e.Path]) {
			t.Errorf("%q: %.20q, %v, want %.20q", e.Path, got, err, tr.data[e.Path])
		}
		files++
	}
	return files
}
