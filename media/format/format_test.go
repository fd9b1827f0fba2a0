package format

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

var id = [16]byte{1, 2, 3}

func built(t *testing.T, size int64, block int, v Volume) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "stick"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := Build(t.Context(), f, size, block, v, Tree{}); err != nil {
		t.Fatalf("%s on %d bytes: %v", v.Kind, size, err)
	}
	return f
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Env = append(os.Environ(), "TZ=UTC", "LC_ALL=C.UTF-8")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// partition copies the partition of stick into a sparse file of its own, for programs that take no offset.
func partition(t *testing.T, stick *os.File, size int64, block int) string {
	t.Helper()
	start, length, err := Partition(size, block)
	if err != nil {
		t.Fatal(err)
	}
	part, err := os.Create(filepath.Join(t.TempDir(), "partition"))
	if err != nil {
		t.Fatal(err)
	}
	defer part.Close()
	if err := part.Truncate(length); err != nil {
		t.Fatal(err)
	}
	if err := extents(stick, func(at, n int64) error {
		at, end := max(at, start), min(at+n, start+length)
		if at >= end {
			return nil
		}
		_, err := io.Copy(io.NewOffsetWriter(part, at-start), io.NewSectionReader(stick, at, end-at))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return part.Name()
}

// TestPeers has stock programs check what was made: silent, on every size from the smallest to the largest.
func TestPeers(t *testing.T) {
	for _, test := range []struct {
		kind  Kind
		fsck  []string
		clean string // what the program says at least
	}{
		{FAT32, []string{"fsck.fat", "-n", "-v"}, "1 files"},
		{ExFAT, []string{"fsck.exfat", "-n"}, "clean"},
		{Ext4, []string{"e2fsck", "-f", "-n"}, " files ("},
	} {
		for _, size := range []int64{MinSize, 128 << 20, 1000_000_000 / 512 * 512, 8 << 30, 31_914_983_424, 128 << 30, MaxSize} {
			for _, block := range []int{512, 4096} {
				if block == 4096 && (test.kind == ExFAT || size%4096 != 0) {
					continue
				}
				t.Run(fmt.Sprintf("%s %d MiB of %d", test.kind, size>>20, block), func(t *testing.T) {
					stick := built(t, size, block, Volume{test.kind, "RELEASE-42", id})
					out := run(t, test.fsck[0], append(test.fsck[1:], partition(t, stick, size, block))...)
					if !strings.Contains(out, test.clean) {
						t.Errorf("%s says\n%s", test.fsck[0], out)
					}
					for _, word := range []string{"WARNING", "warning", "differ", "ERROR", "Fix", "corrupt", "wrong"} {
						if strings.Contains(out, word) {
							t.Errorf("%s says %q\n%s", test.fsck[0], word, out)
						}
					}
					if block == 512 { // sgdisk and sfdisk take a file's blocks to be of 512 bytes
						if out := run(t, "sgdisk", "-v", stick.Name()); !strings.Contains(out, "No problems found") {
							t.Errorf("sgdisk says\n%s", out)
						}
						want := map[Kind]string{FAT32: "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7", ExFAT: "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7", Ext4: "0FC63DAF-8483-4772-8E79-3D69D8477DE4"}[test.kind]
						if out := run(t, "sfdisk", "-d", stick.Name()); strings.Count(out, "type=") != 1 || !strings.Contains(out, "start=        2048") || !strings.Contains(out, want) {
							t.Errorf("sfdisk says\n%s", out)
						}
					}
					if out := run(t, "blkid", "-p", "-o", "export", partition(t, stick, size, block)); !strings.Contains(out, "LABEL=RELEASE-42") {
						t.Errorf("blkid says\n%s", out)
					}
				})
			}
		}
	}
}

func TestRefuses(t *testing.T) {
	for _, test := range []struct {
		size  int64
		block int
		v     Volume
		want  string
	}{
		{MinSize - 512, 512, Volume{Kind: FAT32}, "from 64 MiB to 256 GiB"},
		{MaxSize + 512, 512, Volume{Kind: FAT32}, "from 64 MiB to 256 GiB"},
		{MinSize, 1024, Volume{Kind: FAT32}, "blocks of 1024 bytes"},
		{MinSize + 512, 4096, Volume{Kind: FAT32}, "multiple of its blocks"},
		{MinSize, 512, Volume{Kind: "ntfs"}, `no file system "ntfs"`},
		{MinSize, 4096, Volume{Kind: ExFAT}, "take fat32"},
		{MinSize, 512, Volume{Kind: FAT32, Label: "twelve-chars"}, "at most 11"},
		{MinSize, 512, Volume{Kind: FAT32, Label: "low"}, "only A-Z"},
		{MinSize, 512, Volume{Kind: FAT32, Label: "A\x1b"}, "only A-Z"},
	} {
		f, err := os.Create(filepath.Join(t.TempDir(), "stick"))
		if err != nil {
			t.Fatal(err)
		}
		if err := Build(t.Context(), f, test.size, test.block, test.v, Tree{}); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%v on %d bytes: %v, want %q", test.v, test.size, err, test.want)
		}
		f.Close()
	}
	t.Setenv("PATH", "")
	f, err := os.Create(filepath.Join(t.TempDir(), "stick"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for kind, want := range map[Kind]string{ExFAT: "mkfs.exfat is not installed (package exfatprogs)", Ext4: "mke2fs is not installed (package e2fsprogs)"} {
		if err := Build(t.Context(), f, MinSize, 512, Volume{Kind: kind}, Tree{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("without the program for %s: %v", kind, err)
		}
	}
}

// stick is a medium that notes what is done to it.
type stick struct {
	*bytes.Reader
	data   []byte
	synced int // writes before the last sync
	writes int
	forget int64 // the write at this offset is lost
}

func (s *stick) WriteAt(p []byte, at int64) (int, error) {
	if at%4096 != 0 || len(p)%4096 != 0 {
		return 0, fmt.Errorf("%d bytes at %d: not whole blocks", len(p), at)
	}
	s.writes++
	if s.forget >= at && s.forget < at+int64(len(p)) {
		return len(p), nil
	}
	return copy(s.data[at:], p), nil
}

func (s *stick) Sync() error { s.synced = s.writes; return nil }

func TestCopy(t *testing.T) {
	const size = MinSize
	f := built(t, size, 4096, Volume{FAT32, "A", id})
	want, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	data := make([]byte, size)
	s := &stick{Reader: bytes.NewReader(data), data: data, forget: -1}
	var last, all int64
	written, err := Copy(t.Context(), f, s, 4096, func(done, total int64) {
		if done < last || total < done {
			t.Errorf("progress goes from %d to %d of %d", last, done, total)
		}
		last, all = done, total
	})
	if err != nil || !bytes.Equal(data, want) {
		t.Fatalf("%d bytes written, equal: %v, %v", written, bytes.Equal(data, want), err)
	}
	if written == 0 || written > 4<<20 || last != all || all != 2*written {
		t.Errorf("%d bytes written, progress ends at %d of %d", written, last, all)
	}
	if s.synced != s.writes {
		t.Errorf("synced after %d writes of %d", s.synced, s.writes)
	}

	data = make([]byte, size)
	s = &stick{Reader: bytes.NewReader(data), data: data, forget: 1 << 20} // the boot sector
	if _, err := Copy(t.Context(), f, s, 4096, nil); err == nil || !strings.Contains(err.Error(), "read back: byte 1048576 is 0x00, and 0xeb was written") {
		t.Errorf("a write that was lost: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if n, err := Copy(ctx, f, s, 4096, nil); n != 0 || !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %d bytes, %v", n, err)
	}
}
