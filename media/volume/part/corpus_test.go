package part

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestCorpus reads the partition tables of other projects. None of them has more than 20 MB.
func TestCorpus(t *testing.T) {
	root := os.Getenv("SALLYPORT_CORPUS")
	if root == "" {
		fmt.Fprintln(os.Stderr, "*** NOT RUN: SALLYPORT_CORPUS is not set, so no partition table of other projects was read ***")
		t.Skip("SALLYPORT_CORPUS is not set: NO IMAGE OF THE CORPUS WAS READ")
	}
	t.Parallel()
	want := map[string]string{ // scheme, partitions, and a finding that must be there
		"gomod-go-diskfs/gpt": "gpt 1", "gomod-go-diskfs/mbr": "mbr 1", "util-linux/gpt": "gpt 5",
		"util-linux/dos+bsd": "mbr 2", "util-linux/sun": "none 0 foreign-scheme", "util-linux/sgi": "none 0 foreign-scheme", "util-linux/bsd": "none 0 foreign-scheme",
		"util-linux/atari-primary": "none 0 foreign-scheme", "util-linux/atari-xgm": "none 0 foreign-scheme",
	}
	seen := 0
	base := filepath.Join(root, "part")
	err := filepath.WalkDir(base, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(base, strings.TrimSuffix(path, ".img.gz"))
		if err != nil {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		z, err := gzip.NewReader(f)
		if err != nil {
			return err
		}
		b, err := io.ReadAll(z)
		if err != nil {
			return err
		}
		seen++
		start := time.Now()
		table, err := Read(bytes.NewReader(b), int64(len(b)), 512)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			return nil
		}
		gaps, err := table.ScanGaps(t.Context(), bytes.NewReader(b), nil)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if d := time.Since(start); d > 10*time.Second {
			t.Errorf("%s: took %v", name, d)
		}
		w := strings.Fields(want[name])
		if len(w) < 2 || fmt.Sprint(table.Scheme, " ", len(table.Partitions)) != w[0]+" "+w[1] {
			t.Errorf("%s: %s with %+v, want %q", name, table.Scheme, table.Partitions, want[name])
		}
		if len(w) > 2 && !strings.Contains(strings.Join(codes(table.Findings), " "), w[2]) {
			t.Errorf("%s: findings %v, want %s", name, table.Findings, w[2])
		}
		t.Logf("%s: %s, %d partitions, findings %v, gaps %v", name, table.Scheme, len(table.Partitions), table.Findings, gaps)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if seen < len(want) {
		t.Errorf("only %d images were read", seen)
	}
}

// TestIdentifyCorpus names every file system image of the corpus that has one of the kinds below.
func TestIdentifyCorpus(t *testing.T) {
	root := os.Getenv("SALLYPORT_CORPUS")
	if root == "" {
		t.Skip("SALLYPORT_CORPUS is not set: NO IMAGE OF THE CORPUS WAS READ")
	}
	t.Parallel()
	counts := map[string]int{}
	for dir, kinds := range map[string]string{"fat": "FAT12 FAT16 FAT32", "exfat": "exFAT", "ext": "ext2 ext3 ext4", "udf": "UDF", "iso": "ISO 9660"} {
		err := filepath.WalkDir(filepath.Join(root, dir), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".gz") {
				return err
			}
			f, err := os.Open(path)
			if err != nil {
				return err
			}
			defer f.Close()
			z, err := gzip.NewReader(f)
			if err != nil {
				return err
			}
			// The start is enough for these; the rest reads as zeros.
			b, err := io.ReadAll(io.LimitReader(z, mib))
			if err != nil {
				return err
			}
			kind, err := Identify(sparse{1 << 30, map[int64][]byte{0: b}}, 1<<30)
			if err != nil {
				return err
			}
			counts[dir]++
			if kind == "" || !strings.Contains(kinds, kind) {
				t.Logf("%s/%s is taken for %q", dir, d.Name(), kind)
				counts[dir+" other"]++
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	t.Log(counts)
	for _, dir := range []string{"fat", "exfat", "ext", "udf"} {
		if counts[dir] == 0 || counts[dir+" other"]*4 > counts[dir] {
			t.Errorf("%s: %d of %d images were taken for something else", dir, counts[dir+" other"], counts[dir])
		}
	}
}

// TestIdentifySignatures looks for each signature of the table where it stands, and for none where there is only a part.
func TestIdentifySignatures(t *testing.T) {
	const size = 4 << 20
	for _, m := range magics {
		at := m.off
		if at < 0 {
			at += size
		}
		got, err := Identify(sparse{size, map[int64][]byte{at: []byte(m.sig)}}, size)
		if err != nil || got != m.name {
			t.Errorf("%q at %d is taken for %q, %v", m.sig, m.off, got, err)
		}
		if got, err := Identify(sparse{size, map[int64][]byte{at: append([]byte(m.sig[:len(m.sig)-1]), m.sig[len(m.sig)-1]^0xff)}}, size); err != nil || got == m.name {
			t.Errorf("a part of %q is taken for %q, %v", m.sig, got, err)
		}
	}
	if got, err := Identify(sparse{}, 0); err != nil || got != "" {
		t.Errorf("nothing is taken for %q, %v", got, err)
	}
}
