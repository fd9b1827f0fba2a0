package iso9660

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"
)

// sourceDir is a directory that stock tools make images of, with links that fill more than one SL entry when longLinks is set: genisoimage hangs on them.
func sourceDir(t testing.TB, longLinks bool) (dir string, tree map[string]seen) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "src")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	var all []string
	mkdir := func(path string) {
		must(os.MkdirAll(filepath.Join(dir, path), 0o755))
		all = append(all, path)
	}
	file := func(path, content string) {
		must(os.WriteFile(filepath.Join(dir, path), []byte(content), 0o644))
		all = append(all, path)
	}
	mkdir(".")
	mkdir("empty")
	mkdir("sub")
	file("sub/file.txt", "contents")
	file("nothing", "")
	file("blocks.bin", strings.Repeat("0123456789abcdef", 1000))
	for i := range 300 {
		file(fmt.Sprintf("sub/file-number-%03d.data", i), fmt.Sprint(i))
	}
	file("sub/"+strings.Repeat("long", 50), "long")
	file("sub/"+strings.Repeat("l", 240), "longer")
	file("déjà vu", "accents")
	deep := "deep"
	mkdir(deep)
	for i := range 14 {
		deep += fmt.Sprintf("/level%d", i)
		mkdir(deep)
		file(deep+"/here", deep)
	}
	must(os.Symlink("../sub/file.txt", filepath.Join(dir, "empty/link")))
	if longLinks {
		must(os.Symlink(strings.Repeat("part/", 100)+"end", filepath.Join(dir, "long-link")))
		must(os.Symlink(strings.Repeat("x", 200)+"/../"+strings.Repeat("y", 248), filepath.Join(dir, "wide-link")))
	}
	must(os.Symlink(strings.Repeat("z", 150), filepath.Join(dir, "fair-link")))
	must(os.Symlink("/abs/path", filepath.Join(dir, "abs-link")))
	must(os.Chmod(filepath.Join(dir, "blocks.bin"), 0o751))
	slices.Reverse(all)
	for i, path := range all {
		must(os.Chtimes(filepath.Join(dir, path), time.Time{}, time.Unix(1_200_000_000+int64(i)*1000, 0)))
	}
	tree, err := ours(os.DirFS(dir))
	must(err)
	return dir, tree
}

// TestReadForeign reads the images of genisoimage and xorriso in all their variants: what has Rock Ridge is as its source, what has not is as bsdtar sees it.
func TestReadForeign(t *testing.T) {
	t.Parallel()
	dir, want := sourceDir(t, false)
	longDir, wantLong := sourceDir(t, true)
	type variant struct {
		name  string
		cmd   []string
		view  View
		modes bool   // kept as they are
		moved string // where directories were moved to: an empty one, as xorriso, isoinfo and Linux see it too
	}
	var variants []variant
	for _, tool := range [][]string{{"genisoimage"}, {"xorriso", "-as", "mkisofs"}} {
		add := func(view View, modes bool, args ...string) {
			v := variant{tool[0] + strings.Join(args, ""), append(slices.Clone(tool), append([]string{"-quiet"}, args...)...), view, modes, ""}
			switch {
			case tool[0] == "xorriso" || view != ViewRockRidge || slices.Contains(args, "-D"):
			case slices.Contains(args, "-hide-rr-moved"):
				v.moved = ".rr_moved"
			default:
				v.moved = "rr_moved"
			}
			variants = append(variants, v)
		}
		add(ViewRockRidge, true, "-R")
		add(ViewRockRidge, true, "-R", "-J", "-joliet-long")
		add(ViewRockRidge, false, "-r", "-iso-level", "3")
		add(ViewRockRidge, true, "-R", "-D")
		add(ViewRockRidge, true, "-R", "-U")
		if tool[0] == "genisoimage" { // xorriso always adds Rock Ridge here
			add(ViewJoliet, false, "-J", "-joliet-long")
			add(ViewISO9660, false, "-iso-level", "3")
			add(ViewISO9660, false, "-iso-level", "1")
			add(ViewRockRidge, true, "-R", "-udf")
			add(ViewRockRidge, true, "-R", "-hide-rr-moved")
		} else {
			add(ViewJoliet, false, "-J", "-joliet-long", "--norock")
			add(ViewISO9660, false, "--norock")
			add(ViewRockRidge, true, "-R", "-rr_reloc_dir", "deep")
		}
	}
	for _, v := range variants {
		t.Run(v.name, func(t *testing.T) {
			t.Parallel()
			dir, want := dir, want
			if v.cmd[0] == "xorriso" {
				dir, want = longDir, wantLong
			}
			image := filepath.Join(t.TempDir(), "image.iso")
			tool(t, minute, v.cmd[0], append(slices.Clone(v.cmd[1:]), "-o", image, dir)...)
			b, err := os.ReadFile(image)
			if err != nil {
				t.Fatal(err)
			}
			f := openImage(t, b)
			if f.View() != v.view {
				t.Errorf("view %v, want %v", f.View(), v.view)
			}
			got, err := ours(f)
			if err != nil {
				t.Fatal(err)
			}
			wantName := "source"
			keep := func(path string, s seen) seen {
				if !v.modes {
					s.mode = 0
				}
				return s
			}
			if v.view != ViewRockRidge {
				if want, err = bsdtarTree(t, image); err != nil {
					t.Fatal(err)
				}
				wantName, keep = "bsdtar", func(path string, s seen) seen { s.mode = 0; return s }
			}
			if v.moved != "" {
				s, ok := got[v.moved]
				if !ok || s.kind != "dir" {
					t.Errorf("%s is %+v, want a directory", v.moved, s)
				}
				delete(got, v.moved)
			}
			compareTrees(t, wantName, want, "ours", got, keep)
		})
	}
}

// TestFSContract runs the standard library's tests of file systems over ours, over one with Joliet and over a plain one.
func TestFSContract(t *testing.T) {
	t.Parallel()
	tr := newTree()
	tr.dir("d")
	tr.dir("d/empty")
	tr.file("d/file", strings.Repeat("contents\n", 1000))
	tr.file("d/"+strings.Repeat("é", 127), "long")
	tr.file("empty", "")
	tr.link("link", "d/file")
	tr.link("d/up", "../empty")
	tr.link("d/dir", "empty")
	if err := fstest.TestFS(openImage(t, tr.image(t)), "d/file", "d/empty", "empty", "link", "d/up"); err != nil {
		t.Error(err)
	}
	dir, _ := sourceDir(t, false)
	if err := os.Remove(filepath.Join(dir, "empty/link")); err != nil { // leads out of what is taken here
		t.Fatal(err)
	}
	want := map[string]string{"-R": "level0/level1/level2/level3/level4/level5/level6/level7/level8/here", "-J": "level0/level1/here", "-iso-level": "LEVEL0/LEVEL1/HERE"}
	for _, args := range [][]string{{"-R"}, {"-J", "-joliet-long"}, {"-iso-level", "3"}} {
		image := filepath.Join(t.TempDir(), "image.iso")
		tool(t, minute, "genisoimage", append(args, "-quiet", "-o", image, filepath.Join(dir, "deep"), filepath.Join(dir, "empty"), filepath.Join(dir, "nothing"))...)
		b, err := os.ReadFile(image)
		if err != nil {
			t.Fatal(err)
		}
		if err := fstest.TestFS(openImage(t, b), want[args[0]]); err != nil {
			t.Errorf("%q: %v", args, err)
		}
	}
}
