package examine

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
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
	medium[13] = 3 // sectors in a cluster
	report, systems, err := Examine(t.Context(), bytes.NewReader(medium), int64(len(medium)), 512)
	if err != nil || len(systems) != 0 {
		t.Fatalf("%d file systems, %v", len(systems), err)
	}
	if len(report.Findings) == 0 {
		t.Error("nothing is found")
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
