package image

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// program is size bytes that aren't alike anywhere.
func program(size int) []byte {
	b := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{byte(size)}).Read(b)
	return b
}

// TestMedium has stock tools read boot media: as a disc, as a stick, and the system partition that both lead to.
func TestMedium(t *testing.T) {
	for _, size := range []int{1, espCluster, 8<<20 - 1, 8<<20 + 3*espCluster, 33 << 20} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			t.Parallel()
			want := program(size)
			var b, again bytes.Buffer
			for _, w := range []io.Writer{&b, &again} {
				if err := WriteMedium(w, bytes.NewReader(want), int64(size), 1_700_000_000); err != nil {
					t.Fatal(err)
				}
			}
			if !bytes.Equal(b.Bytes(), again.Bytes()) {
				t.Error("the second one is another")
			}
			dir := t.TempDir()
			image := filepath.Join(dir, "boot.iso")
			if err := os.WriteFile(image, b.Bytes(), 0o600); err != nil {
				t.Fatal(err)
			}
			start, sectors := partition(t, image)

			catalog := string(command(t, nil, "xorriso", "-indev", image, "-report_el_torito", "plain"))
			found := regexp.MustCompile(`(?m)^El Torito boot img :\s+1\s+UEFI\s+y\s+none\s+0x0000\s+0x00\s+(\d+)\s+(\d+)$`).FindStringSubmatch(catalog)
			listed := sectors
			if sectors >= 1<<16 {
				listed = 0
			}
			if found == nil || found[1] != fmt.Sprint(listed) || found[2] != fmt.Sprint(start/4) {
				t.Errorf("want an image for EFI of %d sectors at block %d:\n%s", listed, start/4, catalog)
			}

			esp := b.Bytes()[start*512:][:sectors*512]
			part := filepath.Join(dir, "part")
			if err := os.WriteFile(part, esp, 0o600); err != nil {
				t.Fatal(err)
			}
			if out := string(command(t, nil, "bsdtar", "-xOf", image, "esp.img")); out != string(esp) {
				t.Error("the disc's esp.img isn't the stick's partition")
			}
			if out := string(command(t, nil, "fsck.fat", "-nv", part)); !strings.Contains(out, "FATs, 16 bit entries") || !strings.Contains(out, "4 files, ") {
				t.Errorf("fsck.fat says\n%s", out)
			}
			if out := string(command(t, nil, "mdir", "-/", "-b", "-i", part, "::")); out != "::/EFI/\n::/EFI/BOOT/\n::/EFI/BOOT/BOOTX64.EFI\n" {
				t.Errorf("mdir says\n%s", out)
			}
			if out := string(command(t, nil, "mdir", "-i", part, "::/EFI/BOOT")); !strings.Contains(out, "2023-11-14  22:13") {
				t.Errorf("mdir says\n%s", out)
			}
			if out := string(command(t, nil, "mtype", "-i", part, "::/EFI/BOOT/BOOTX64.EFI")); out != string(want) {
				t.Error("mtype reads another program")
			}
		})
	}
}

// partition is the one partition of a boot medium, in sectors, which both copies of its table name without a fault.
func partition(t *testing.T, image string) (start, sectors int64) {
	t.Helper()
	if out := string(command(t, nil, "sgdisk", "--verify", image)); !strings.Contains(out, "No problems found") || strings.Contains(out, "corrupt") {
		t.Errorf("sgdisk says\n%s", out)
	}
	out := string(command(t, nil, "sfdisk", "--dump", image))
	found := regexp.MustCompile(`(?m): start=\s*(\d+), size=\s*(\d+), type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B, .*name="Sallyport"$`).FindAllStringSubmatch(out, -1)
	if len(found) != 1 {
		t.Fatalf("sfdisk says\n%s", out)
	}
	fmt.Sscan(found[0][1]+" "+found[0][2], &start, &sectors)
	return start, sectors
}

// TestMediumRefuses: a program of another size than was said, or of one that no medium can have, makes none.
func TestMediumRefuses(t *testing.T) {
	for _, tt := range []struct {
		said, is int64
		want     string
	}{
		{0, 0, "an EFI program of 0 bytes: a system partition has room for 1 to 134189056"},
		{espCluster * (espMaxClusters - 2), 0, `"esp.img"`},
		{espCluster*(espMaxClusters-2) + 1, 0, "an EFI program of 134189057 bytes"},
		{100, 99, `"esp.img"`},
		{100, 101, `"esp.img"`},
	} {
		err := WriteMedium(io.Discard, io.LimitReader(zeros{}, tt.is), tt.said, 0)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%d bytes that are %d: %v", tt.said, tt.is, err)
		}
	}
}
