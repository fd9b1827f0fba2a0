package part

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// run calls a stock tool with a standard input; without it the test fails.
func run(t *testing.T, stdin, name string, args ...string) string {
	t.Helper()
	if path, err := exec.LookPath(name); err == nil {
		name = path
	} else if _, err := os.Stat("/usr/sbin/" + name); err == nil {
		name = "/usr/sbin/" + name
	}
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %q: %v: %s", name, args, err, out)
	}
	return string(out)
}

func openImage(t *testing.T, image string) (*os.File, int64) {
	t.Helper()
	f, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	return f, info.Size()
}

// sfdiskTable is what `sfdisk --json` says, one line for each partition, extended ones left out.
func sfdiskTable(t *testing.T, image string) (id string, lines []string) {
	var out struct {
		Partitiontable struct {
			Label, ID  string
			Partitions []struct {
				Node        string
				Start, Size int64
				Type, Name  string
				Bootable    bool
			}
		}
	}
	if err := json.Unmarshal([]byte(run(t, "", "sfdisk", "--json", image)), &out); err != nil {
		t.Fatal(err)
	}
	for _, p := range out.Partitiontable.Partitions {
		kind := strings.ToLower(p.Type)
		if out.Partitiontable.Label == "dos" {
			n, err := strconv.ParseUint(kind, 16, 8)
			if err != nil {
				t.Fatal(err)
			}
			if kind = fmt.Sprintf("0x%02x", n); n == 5 || n == 0xf || n == 0x85 {
				continue
			}
		}
		lines = append(lines, fmt.Sprintf("%s %d+%d %s %q %v", strings.TrimPrefix(p.Node, image), p.Start*512, p.Size*512, kind, p.Name, p.Bootable))
	}
	slices.Sort(lines)
	return strings.TrimPrefix(strings.ToLower(out.Partitiontable.ID), "0x"), lines
}

func ourTable(table *Table) []string {
	var lines []string
	for _, p := range table.Partitions {
		lines = append(lines, fmt.Sprintf("%d %d+%d %s %q %v", p.Index, p.Start, p.Size, p.Type, p.Name, p.Boot))
	}
	slices.Sort(lines)
	return lines
}

// TestSfdisk has sfdisk write tables and read them back: we read the same, without a finding.
func TestSfdisk(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, size, script string }{
		{"one", "64M", "label: dos\nlabel-id: 0x1234abcd\nstart=2048, type=c, bootable\n"},
		{"four", "64M", "label: dos\nsize=4M, type=6\nsize=4M, type=7\nsize=4M, type=83\ntype=82\n"},
		{"logical", "64M", "label: dos\nsize=4M, type=c\nsize=40M, type=f\nsize=4M, type=83\nsize=4M, type=7\nsize=4M, type=c\n"},
		{"extended of the old type", "64M", "label: dos\nsize=40M, type=5\nsize=4M, type=83\nsize=4M, type=e\n"},
		{"many logical", "128M", "label: dos\ntype=5\n" + strings.Repeat("size=512K, type=83\n", 40)},
		{"behind cylinder 1023", "64G", "label: dos\nstart=2048, size=2G, type=83\nsize=60G, type=c\n"},
		{"gpt", "64M", "label: gpt\nlabel-id: 0FC63DAF-8483-4772-8E79-3D69D8477DE5\nsize=4M, type=U, name=\"boot ä\"\ntype=L, name=x\n"},
		{"gpt with holes", "64M", "label: gpt\nstart=20480, size=4M\nstart=40960, size=4M\n"},
		{"gpt of 3 TiB", "3T", "label: gpt\nsize=2560G\ntype=L\n"},
	} {
		image := filepath.Join(t.TempDir(), "image")
		run(t, "", "truncate", "-s", c.size, image)
		run(t, c.script, "sfdisk", "-q", image)
		f, size := openImage(t, image)
		table, err := Read(f, size, 512)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		id, want := sfdiskTable(t, image)
		if got := ourTable(table); !slices.Equal(got, want) || len(got) == 0 {
			t.Errorf("%s: we have\n%s\nsfdisk\n%s", c.name, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		if table.ID != id {
			t.Errorf("%s: the disk is %s, sfdisk: %s", c.name, table.ID, id)
		}
		if len(table.Findings) > 0 {
			t.Errorf("%s: %v", c.name, table.Findings)
		}
		if size < 1<<30 {
			if fs, err := table.ScanGaps(t.Context(), f, nil); err != nil || len(fs) > 0 {
				t.Errorf("%s: gaps have %v, %v", c.name, fs, err)
			}
		}
	}
}

// TestSgdisk has sgdisk make what is unusual: attributes, more entries, a hybrid MBR, a medium that grew.
func TestSgdisk(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		args  []string
		grow  string
		parts int
		codes string
	}{
		{"two", []string{"-n", "1:0:+4M", "-n", "2:0:0", "-t", "1:ef00"}, "", 2, ""},
		{"hidden", []string{"-n", "1:0:+4M", "-t", "1:0700", "-A", "1:set:62"}, "", 1, "hidden-partition"},
		{"bootable", []string{"-n", "1:0:+4M", "-A", "1:set:2"}, "", 1, ""},
		{"256 entries", []string{"-S", "256", "-n", "200:0:+4M"}, "", 1, ""},
		{"hybrid", []string{"-n", "1:0:+4M", "-h", "1"}, "", 1, "hybrid-mbr protective-mbr"},
		{"grown", []string{"-n", "1:0:+4M"}, "80M", 1, "gpt-backup protective-mbr"},
		{"cut", []string{"-n", "1:0:+4M"}, "40M", 1, "gpt-backup gpt-primary protective-mbr"},
	} {
		image := filepath.Join(t.TempDir(), "image")
		run(t, "", "truncate", "-s", "64M", image)
		run(t, "", "sgdisk", append(c.args, image)...)
		if c.grow != "" {
			run(t, "", "truncate", "-s", c.grow, image)
		}
		f, size := openImage(t, image)
		table, err := Read(f, size, 512)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		parts := c.parts
		if c.name == "cut" {
			parts = 0 // its usable blocks end behind the medium, so neither copy is good
		}
		if len(table.Partitions) != parts || table.Scheme != "gpt" {
			t.Errorf("%s: %s with %v", c.name, table.Scheme, table.Partitions)
		}
		if got := strings.Join(codes(table.Findings), " "); got != c.codes {
			t.Errorf("%s: %v, want %q", c.name, table.Findings, c.codes)
		}
		if c.name == "bootable" && !table.Partitions[0].Boot {
			t.Error("the legacy boot attribute is lost")
		}
	}
}

// TestSuperfloppy has file systems without a partition table: none is made up.
func TestSuperfloppy(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, size, codes string
		mkfs              []string
	}{
		{"FAT12", "1440K", "", []string{"mkfs.fat"}},
		{"FAT16", "16M", "", []string{"mkfs.fat"}},
		{"FAT32", "40M", "", []string{"mkfs.fat", "-F", "32", "-s", "1"}},
		{"FAT32", "40M", "self-partition", []string{"mkfs.fat", "-F", "32", "-s", "1", "--mbr=y"}},
		{"exFAT", "16M", "", []string{"mkfs.exfat"}},
		{"ext2", "16M", "", []string{"mkfs.ext2", "-q"}},
		{"ext3", "16M", "", []string{"mkfs.ext3", "-q"}},
		{"ext4", "16M", "", []string{"mkfs.ext4", "-q"}},
		{"swap", "16M", "", []string{"mkswap"}},
	} {
		image := filepath.Join(t.TempDir(), "image")
		run(t, "", "truncate", "-s", c.size, image)
		run(t, "", c.mkfs[0], append(c.mkfs[1:], image)...)
		f, size := openImage(t, image)
		table, err := Read(f, size, 512)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if table.Scheme != "none" || len(table.Partitions) != 0 || table.Gaps() != nil {
			t.Errorf("%s: %s with %v", c.name, table.Scheme, table.Partitions)
		}
		if got := strings.Join(codes(table.Findings), " "); got != c.codes {
			t.Errorf("%v: %v, want %q", c.mkfs, table.Findings, c.codes)
		}
		kind, err := Identify(f, size)
		if err != nil || kind != c.name {
			t.Errorf("%v is taken for %q, %v", c.mkfs, kind, err)
		}
	}
}
