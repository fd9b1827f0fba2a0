package qemutests

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sallyport/media/format"
)

// hostTool runs a program of the host that has to succeed.
func hostTool(t *testing.T, stdin string, argv ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "TZ=UTC", "MTOOLSRC=/dev/null")
	cmd.Stdin = strings.NewReader(stdin)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%q: %v\n%s", argv, err, out)
	}
}

// unzipped is a file, uncompressed if its name ends in .gz, in the cache: of 11 GB of the corpus's images all but 8 MB are holes.
func unzipped(t *testing.T, from string) string {
	t.Helper()
	packed, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	file, err := cached("corpus", append(packed, filepath.Ext(from)...), func(out string) error {
		unzip := "cat"
		if strings.HasSuffix(from, ".gz") {
			unzip = "gzip -dc"
		}
		hostTool(t, "", "bash", "-ec", "set -o pipefail; "+unzip+` "$1" | cp --sparse=always /dev/stdin "$2"`, "-", from, out)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return file
}

// corpusImages unpacks the corpus's images of a kind; without a corpus there are none, which is said loudly.
func corpusImages(t *testing.T, folder, kind string) []treeImage {
	t.Helper()
	root := os.Getenv("SALLYPORT_CORPUS")
	if root == "" {
		fmt.Fprintf(os.Stderr, "*** NOT RUN: SALLYPORT_CORPUS is not set, so no image of its folder %s was shown to a kernel ***\n", folder)
		return nil
	}
	var images []treeImage
	err := filepath.WalkDir(filepath.Join(root, folder), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		images = append(images, treeImage{name: name, Kind: kind, host: unzipped(t, path)})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(images) == 0 {
		t.Errorf("the corpus has no images in %s", folder)
	}
	return images
}

// made is an image of so many MiB that a program of the host makes, into which the kernel puts files.
func (m *Machine) made(t *testing.T, kind, size string, argv ...string) treeImage {
	t.Helper()
	name := strings.Join(argv, " ")
	f, err := os.CreateTemp(m.Share, "image-")
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	t.Cleanup(func() { os.Remove(f.Name()) })
	hostTool(t, "", "truncate", "-s", size, f.Name())
	hostTool(t, "", append(argv, f.Name())...)
	return treeImage{name: name + " of " + size, host: f.Name(), Kind: kind, Fill: true}
}

// formattedImage is the partition of a stick as deliver makes it, with files in it.
func formattedImage(t *testing.T, kind format.Kind, name string) treeImage {
	t.Helper()
	const size, start = 96 << 20, 1 << 20
	dir := t.TempDir()
	when := time.Unix(1_700_000_000, 0)
	for i := range 150 {
		file := filepath.Join(dir, "tree", fmt.Sprintf("folder %d", i%3), fmt.Sprintf("a file with some name, %d", i))
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(os.WriteFile(file, []byte(strings.Repeat("content ", i*i)), 0o644), os.Chtimes(file, when, when)); err != nil {
			t.Fatal(err)
		}
	}
	stick, err := os.Create(filepath.Join(dir, "stick"))
	if err != nil {
		t.Fatal(err)
	}
	defer stick.Close()
	tree := format.Tree{FS: os.DirFS(filepath.Join(dir, "tree")), Dir: filepath.Join(dir, "tree")}
	if err := format.Build(t.Context(), stick, size, 512, format.Volume{Kind: kind, Label: "OUT"}, tree); err != nil {
		t.Fatal(err)
	}
	image := treeImage{name: "deliver's " + string(kind), host: filepath.Join(dir, "partition"), Kind: name}
	part, err := os.Create(image.host)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(part, io.NewSectionReader(stick, start, size-2*start)); err != nil {
		t.Fatal(err)
	}
	if err := part.Close(); err != nil {
		t.Fatal(err)
	}
	return image
}

// TestKernelTree has the kernel of a guest show what images hold, and our readers, which do without it, show the same.
func TestKernelTree(t *testing.T) {
	m := Shared(t, Guest{})
	for _, tt := range []struct {
		name   string
		images func(t *testing.T) []treeImage
		// differ says of an image what it is that the kernel shows of it, and our reader refuses or leaves out.
		differ map[string]string
	}{
		{"FAT", func(t *testing.T) []treeImage {
			return append(corpusImages(t, "fat", "vfat"),
				m.made(t, "vfat", "15M", "mkfs.fat", "-F", "12", "-s", "8"),
				m.made(t, "vfat", "40M", "mkfs.fat", "-F", "16", "-s", "4", "-r", "512"),
				m.made(t, "vfat", "64M", "mkfs.fat", "-F", "32", "-s", "1"),
				m.made(t, "vfat", "280M", "mkfs.fat", "-F", "32", "-S", "4096", "-s", "1"),
				formattedImage(t, format.FAT32, "vfat"))
		}, nil},
		{"exFAT", func(t *testing.T) []treeImage {
			return append(corpusImages(t, "exfat", "exfat"),
				m.made(t, "exfat", "16M", "mkfs.exfat"),
				m.made(t, "exfat", "64M", "mkfs.exfat", "-c", "512"),
				m.made(t, "exfat", "64M", "mkfs.exfat", "-c", "32K", "-L", "LABEL"),
				formattedImage(t, format.ExFAT, "exfat"))
		}, map[string]string{
			"bad_bitmap_size": "Linux doesn't mount it",
			"bad_dentries":    "entry sets that aren't whole are left out", "bad_dentries2": "entry sets that aren't whole are left out",
			"bad_first_clu": "a wrong checksum", "bad_root": "a wrong checksum", "de_bad_csum": "a wrong checksum",
			"duplicate_clu": "two files have one cluster", "loop_chain": "two files have one cluster",
			"duplicated_name": "the second file of a name is left out", "file_invalid_clus": "wrong chains", "large_file_invalid_clus": "wrong chains",
			"invalid_name": "Linux has no name for them",
		}},
		{"ext", func(t *testing.T) []treeImage {
			return append(corpusImages(t, "ext", "ext4"),
				m.made(t, "ext4", "16M", "mke2fs", "-q", "-F", "-t", "ext2", "-b", "1024"),
				m.made(t, "ext4", "24M", "mke2fs", "-q", "-F", "-t", "ext3", "-b", "1024", "-I", "128"),
				m.made(t, "ext4", "48M", "mke2fs", "-q", "-F", "-t", "ext4"),
				m.made(t, "ext4", "48M", "mke2fs", "-q", "-F", "-t", "ext4", "-b", "1024", "-O", "inline_data,64bit,metadata_csum"),
				m.made(t, "ext4", "48M", "mke2fs", "-q", "-F", "-t", "ext4", "-O", "^extent,^64bit,^metadata_csum,^has_journal"),
				formattedImage(t, format.Ext4, "ext4"))
		}, nil},
		{"ISO 9660", func(t *testing.T) []treeImage { return corpusImages(t, "iso", "iso9660") }, map[string]string{
			"test_fuzz_1": "directories 100 deep and more", "test_read_format_iso_rockridge_ce_loop": "a loop of continuation areas", "test_read_format_iso_rockridge_zf_overflow": "damage",
			"test_read_format_iso_zisofs": "compressed files are refused", "test_read_format_iso_rockridge": "a link's target has a root within, which Linux keeps as a slash",
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			images := tt.images(t)
			if len(images) == 0 {
				t.Skip("SALLYPORT_CORPUS is not set: NO IMAGE OF THE CORPUS WAS READ")
			}
			refused := 0
			for i, kernel := range askKernel(t, m, images) {
				if kernel.Refused != "" {
					refused++
				}
				if images[i].Fill && len(kernel.Tree) < 200 {
					t.Errorf("%s: the kernel shows only %d files that it has written", images[i].name, len(kernel.Tree))
				}
				short, _, _ := strings.Cut(filepath.Base(images[i].name), ".")
				compareTree(t, images[i], kernel, tt.differ[strings.TrimSuffix(short, "--exfat")])
			}
			t.Logf("%d images, of which the kernel mounted %d", len(images), len(images)-refused)
		})
	}
}

// TestKernelPartitions has the kernel of a guest find partitions, and our reader the same.
func TestKernelPartitions(t *testing.T) {
	m := Shared(t, Guest{})
	images := corpusImages(t, "part", "")
	for _, tt := range []struct {
		name, script string
		block        int // in which the guest's device has what sfdisk made in blocks of 512 bytes
	}{
		{"MBR", "label: dos\nstart=2048, size=16384, type=c, bootable\nstart=20480, size=20480, type=83\n", 512},
		{"MBR with logical partitions", "label: dos\nstart=2048, size=8192, type=c\nstart=12288, size=100000, type=5\nstart=14336, size=4096, type=83\nstart=20480, size=8192, type=7\nstart=30720, type=83\n", 512},
		{"MBR out of order", "label: dos\n3: start=40960, size=16384, type=c\n1: start=2048, size=20480, type=83\n", 512},
		{"GPT", "label: gpt\nstart=2048, size=16384, type=EBD0A0A2-B9E5-4433-87C0-68B6B72699C7, name=first\n5: start=40960, size=20480, type=0FC63DAF-8483-4772-8E79-3D69D8477DE4\n", 512},
		{"MBR in blocks of 4096 bytes", "label: dos\nstart=2048, size=2048, type=c\n", 4096},
	} {
		image := treeImage{name: tt.name, host: filepath.Join(t.TempDir(), "part"), Block: tt.block}
		hostTool(t, "", "truncate", "-s", "64M", image.host)
		hostTool(t, tt.script, "sfdisk", "-q", image.host)
		images = append(images, image)
	}
	for _, block := range []int{512, 4096} {
		image := treeImage{name: fmt.Sprintf("format's in blocks of %d bytes", block), host: filepath.Join(t.TempDir(), "part"), Block: block}
		f, err := os.Create(image.host)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(format.Build(t.Context(), f, 320<<20, block, format.Volume{Kind: format.FAT32}, format.Tree{}), f.Close()); err != nil {
			t.Fatal(err)
		}
		images = append(images, image)
	}
	for i, kernel := range askKernel(t, m, images) {
		compareParts(t, images[i], kernel)
	}
}
