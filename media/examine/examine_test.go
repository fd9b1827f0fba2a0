package examine

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sallyport/media/volume"
)

func run(t *testing.T, stdin, name string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Stdin = strings.NewReader(stdin)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
}

// fatImage is a FAT file system with two files.
func fatImage(t *testing.T, kib string) []byte {
	t.Helper()
	dir := t.TempDir()
	image, file := filepath.Join(dir, "image"), filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("open=it"), 0o644); err != nil {
		t.Fatal(err)
	}
	run(t, "", "mkfs.fat", "-C", "-n", "STICK", image, kib)
	run(t, "", "mmd", "-i", image, "::sub")
	run(t, "", "mcopy", "-i", image, file, "::sub/Letter.txt")
	run(t, "", "mcopy", "-i", image, file, "::AUTORUN.INF")
	data, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// stick is a medium of 64 MiB with the partitions that sfdisk makes of a script.
func stick(t *testing.T, script string) []byte {
	t.Helper()
	name := filepath.Join(t.TempDir(), "stick")
	if err := os.WriteFile(name, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(name, 64<<20); err != nil {
		t.Fatal(err)
	}
	run(t, script, "sfdisk", "-q", name)
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestExamine(t *testing.T) {
	whole := fatImage(t, "8192")
	two := stick(t, "label: gpt\nstart=2048, size=16384, type=EBD0A0A2-B9E5-4433-87C0-68B6B72699C7, name=first\nstart=40960, size=20480, type=EBD0A0A2-B9E5-4433-87C0-68B6B72699C7\n")
	copy(two[2048*512:], whole)
	copy(two[40960*512+3:], "NTFS    ")
	two[40960*512+510], two[40960*512+511] = 0x55, 0xAA
	two[30000*512+77] = 'x'
	odd := make([]byte, 3<<20)
	odd[2<<20+5] = 0x80
	gpt := bytes.Clone(two) // its second partition holds nothing that is known
	gpt[40960*512+3] = 'X'
	for _, test := range []struct {
		name    string
		medium  []byte
		scheme  string
		volumes []string // partition, what it holds, its label, the number of its files
		codes   []string // all that are found
	}{
		{"without a table", whole, "none", []string{"FAT12 STICK 1"}, []string{"autorun AUTORUN.INF"}},
		{"two partitions", two, "gpt", []string{"FAT12 STICK 1", "NTFS  0"}, []string{"autorun partition 1/AUTORUN.INF", "gap-data ", "volume-unread "}},
		{"nothing", make([]byte, 1<<20), "none", []string{"  0"}, nil},
		{"something", odd, "none", []string{"  0"}, []string{"volume-unread "}},
		{"something in a partition", gpt, "gpt", []string{"FAT12 STICK 1", "  0"}, []string{"autorun partition 1/AUTORUN.INF", "gap-data ", "volume-unread "}},
	} {
		t.Run(test.name, func(t *testing.T) {
			report, systems, err := Examine(t.Context(), bytes.NewReader(test.medium), int64(len(test.medium)), 512)
			if err != nil {
				t.Fatal(err)
			}
			if report.Scheme != test.scheme || len(report.Volumes) != len(test.volumes) {
				t.Fatalf("scheme %s, volumes %+v", report.Scheme, report.Volumes)
			}
			for i, v := range report.Volumes {
				if got := v.Holds + " " + v.Label + " " + string(rune('0'+v.Files)); got != test.volumes[i] {
					t.Errorf("volume %d: %q, want %q", i, got, test.volumes[i])
				}
			}
			var codes []string
			for _, f := range report.Findings {
				codes = append(codes, f.Code+" "+f.Path)
			}
			slices.Sort(codes)
			if !slices.Equal(codes, test.codes) {
				t.Errorf("findings %q, want %q", codes, test.codes)
			}
			for _, system := range systems {
				if text, err := fs.ReadFile(system, "sub/Letter.txt"); string(text) != "open=it" || err != nil {
					t.Errorf("a file: %q, %v", text, err)
				}
			}
		})
	}
}

// TestDamaged has a file system that is none any more beside a good one.
func TestDamaged(t *testing.T) {
	medium := fatImage(t, "8192")
	medium[19], medium[20] = 40, 0 // sectors in all: fewer than its tables have
	report, systems, err := Examine(t.Context(), bytes.NewReader(medium), int64(len(medium)), 512)
	if err != nil || len(systems) != 0 {
		t.Fatalf("%d file systems, %v", len(systems), err)
	}
	if !slices.ContainsFunc(report.Findings, func(f volume.Finding) bool { return f.Code == CodeDamaged }) {
		t.Errorf("%+v", report.Findings)
	}
}

// TestUnread has a file that is longer than what belongs to it, and a directory that starts nowhere.
func TestUnread(t *testing.T) {
	medium := fatImage(t, "8192")
	file := bytes.Index(medium, []byte("LETTER  TXT"))
	medium[file+30] = 1 // its size in bytes, the third byte of four
	report, _, err := Examine(t.Context(), bytes.NewReader(medium), int64(len(medium)), 512)
	if err != nil || !slices.ContainsFunc(report.Findings, func(f volume.Finding) bool { return f.Code == CodeFileUnread && f.Path == "sub/Letter.txt" }) {
		t.Errorf("a file: %+v, %v", report, err)
	}
	medium[bytes.Index(medium, []byte("SUB        "))+26] = 0xff // its first cluster
	report, _, err = Examine(t.Context(), bytes.NewReader(medium), int64(len(medium)), 512)
	if err != nil || !slices.ContainsFunc(report.Findings, func(f volume.Finding) bool { return f.Code == CodeDirUnread && f.Path == "sub" }) {
		t.Errorf("a directory: %+v, %v", report, err)
	}
}

// TestExFAT has a volume in a partition, read as a whole, and one whose boot region was changed.
func TestExFAT(t *testing.T) {
	image := filepath.Join(t.TempDir(), "image")
	run(t, "", "truncate", "-s", "8M", image)
	run(t, "", "mkfs.exfat", "-L", "STICK", image)
	whole, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	medium := stick(t, "label: gpt\nstart=2048, size=16384, type=EBD0A0A2-B9E5-4433-87C0-68B6B72699C7\n")
	copy(medium[2048*512:], whole)
	report, systems, err := Examine(t.Context(), bytes.NewReader(medium), int64(len(medium)), 512)
	if err != nil || len(systems) != 1 || len(report.Findings) != 0 {
		t.Fatalf("%d file systems, %+v, %v", len(systems), report, err)
	}
	if v := report.Volumes[0]; v.Holds != "exFAT" || v.Label != "STICK" || v.Files != 1 {
		t.Errorf("%+v", v)
	}
	medium[2048*512+600]++
	report, systems, err = Examine(t.Context(), bytes.NewReader(medium), int64(len(medium)), 512)
	if err != nil || len(systems) != 0 || len(report.Findings) != 1 || report.Findings[0].Code != CodeDamaged || !strings.Contains(report.Findings[0].Detail, "checksum") {
		t.Errorf("%d file systems, %+v, %v", len(systems), report, err)
	}
}

// extImage is an ext4 volume of 8 MiB with two files.
func extImage(t *testing.T) []byte {
	t.Helper()
	dir := t.TempDir()
	tree, image := filepath.Join(dir, "tree"), filepath.Join(dir, "image")
	if err := os.MkdirAll(filepath.Join(tree, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"autorun.inf", "sub/Letter.txt"} {
		if err := os.WriteFile(filepath.Join(tree, name), []byte("open=it"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	run(t, "", "mke2fs", "-q", "-F", "-t", "ext4", "-L", "STICK", "-d", tree, image, "8M")
	data, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func has(report *Report, code, path string) bool {
	return slices.ContainsFunc(report.Findings, func(f volume.Finding) bool { return f.Code == code && f.Path == path })
}

// TestExt has a volume in a partition, read as a whole, one that wasn't unmounted, and one whose superblock was changed.
func TestExt(t *testing.T) {
	const start = 2048 * 512
	medium := stick(t, "label: gpt\nstart=2048, size=16384, type=0FC63DAF-8483-4772-8E79-3D69D8477DE4\n")
	copy(medium[start:], extImage(t))
	report, systems, err := Examine(t.Context(), bytes.NewReader(medium), int64(len(medium)), 512)
	if err != nil || len(systems) != 1 || len(report.Findings) != 1 || !has(report, CodeAutorun, "partition 1/autorun.inf") {
		t.Fatalf("%d file systems, %+v, %v", len(systems), report, err)
	}
	if v := report.Volumes[0]; v.Holds != "ext4" || v.Label != "STICK" || v.Files != 1 {
		t.Errorf("%+v", v)
	}
	if text, err := fs.ReadFile(systems[0], "sub/Letter.txt"); string(text) != "open=it" || err != nil {
		t.Errorf("a file: %q, %v", text, err)
	}
	boot := bytes.Clone(medium)
	boot[start+100] = 0xEB
	report, _, err = Examine(t.Context(), bytes.NewReader(boot), int64(len(boot)), 512)
	if err != nil || len(report.Findings) != 2 || report.Findings[0].Code != "boot-code" && report.Findings[1].Code != "boot-code" {
		t.Fatalf("%+v, %v", report, err)
	}
	for _, f := range report.Findings {
		if f.Code == "boot-code" && f.Offset != start+100 {
			t.Errorf("%v", f)
		}
	}
	medium[start+1024+200]++
	report, systems, err = Examine(t.Context(), bytes.NewReader(medium), int64(len(medium)), 512)
	if err != nil || len(systems) != 0 || len(report.Findings) != 1 || !has(report, CodeDamaged, "") || !strings.Contains(report.Findings[0].Detail, "checksum") {
		t.Errorf("%d file systems, %+v, %v", len(systems), report, err)
	}
}

// TestSeveral has a volume that one system takes for FAT, and another for ext4. It is read as FAT, and that is said.
func TestSeveral(t *testing.T) {
	image := filepath.Join(t.TempDir(), "image")
	run(t, "", "mkfs.fat", "-C", "-R", "64", "-n", "FIRST", image, "8192")
	medium, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	second := extImage(t)
	copy(medium[1024:2048], second[1024:2048])
	check := func(name string) {
		t.Helper()
		report, _, err := Examine(t.Context(), bytes.NewReader(medium), int64(len(medium)), 512)
		if err != nil || !has(report, CodeSeveral, "") {
			t.Errorf("%s: %+v, %v", name, report, err)
		}
		if v := report.Volumes[0]; !strings.HasPrefix(v.Holds, "FAT") {
			t.Errorf("%s: %+v", name, v)
		}
	}
	check("a superblock in FAT")
	boot := bytes.Clone(medium[:512])
	copy(medium, second)
	copy(medium, boot)
	check("FAT's boot sector before ext4")
	// Either alone is one.
	for name, one := range map[string][]byte{"FAT": fatImage(t, "8192"), "ext4": second} {
		report, _, err := Examine(t.Context(), bytes.NewReader(one), int64(len(one)), 512)
		if err != nil || has(report, CodeSeveral, "") {
			t.Errorf("%s: %+v, %v", name, report, err)
		}
	}
}

// zeros is a medium of zeros.
type zeros struct{ end int64 }

func (z zeros) ReadAt(p []byte, off int64) (int, error) {
	clear(p)
	if rest := z.end - off; int64(len(p)) > rest {
		return int(max(0, rest)), io.EOF
	}
	return len(p), nil
}

// over is a medium with other bytes at its start.
type over struct {
	zeros
	start []byte
}

func (o *over) ReadAt(p []byte, off int64) (int, error) {
	n, err := o.zeros.ReadAt(p, off)
	if off < int64(len(o.start)) {
		copy(p[:n], o.start[off:])
	}
	return n, err
}

// TestLarge has more than is looked at, which is said.
func TestLarge(t *testing.T) {
	const size = 64 << 30
	report, _, err := Examine(t.Context(), zeros{size}, size, 512)
	if err != nil || len(report.Findings) != 1 || report.Findings[0].Code != CodeGapsUnread {
		t.Errorf("%+v, %v", report, err)
	}
	large := &over{zeros{1 << 30}, stick(t, "label: gpt\nstart=2048, size=2048\n")}
	report, _, err = Examine(t.Context(), large, 1<<30, 512)
	if err != nil || !slices.ContainsFunc(report.Findings, func(f volume.Finding) bool { return f.Code == CodeGapsUnread }) {
		t.Errorf("%+v, %v", report, err)
	}
}

// TestRunsByItself are the names that other systems act on.
func TestRunsByItself(t *testing.T) {
	for name, want := range map[string]bool{
		"autorun.inf": true, "AutoRun.Inf": true, "sub/autorun.inf": false, "desktop.ini": true, "a/b/Desktop.ini": true, "a/Letter.LNK": true, "x.url": true,
		"x.scf": true, "x.library-ms": true, ".autorun": true, "autorun.sh": true, "letter.txt": false, "lnk": false, "desktop.ini.txt": false,
	} {
		if got := runsByItself(name) != ""; got != want {
			t.Errorf("%s: %t", name, got)
		}
	}
}

// failing can't be read.
type failing struct{ err error }

func (f failing) ReadAt([]byte, int64) (int, error) { return 0, f.err }

func TestMediumFails(t *testing.T) {
	gone := errors.New("pulled out")
	if _, _, err := Examine(t.Context(), failing{gone}, 1<<20, 512); !errors.Is(err, gone) {
		t.Errorf("%v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	medium := fatImage(t, "8192")
	if _, _, err := Examine(ctx, bytes.NewReader(medium), int64(len(medium)), 512); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

func FuzzExamine(f *testing.F) {
	f.Add(make([]byte, 4096))
	f.Add([]byte("\xeb\x3c\x90MSDOS5.0\x00\x02\x01\x01\x00\x02\x10\x00\x80\x00\xf8\x01\x00"))
	f.Fuzz(func(t *testing.T, medium []byte) {
		_, systems, err := Examine(t.Context(), bytes.NewReader(medium), int64(len(medium)), 512)
		if err != nil {
			return
		}
		for _, system := range systems {
			_, _ = fs.ReadDir(system, ".")
		}
	})
}
