package bundle

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"syscall"
	"testing"
	"time"

	"sallyport/bundle/trust"
)

// manyFiles is a tree of n files of 100 bytes, a thousand to a folder, that is nowhere.
type manyFiles struct{ n int }

const perFolder = 1000

var many = time.Unix(1_600_000_000, 0)

func (m manyFiles) Open(name string) (fs.File, error) {
	var d, f int
	switch n, _ := fmt.Sscanf(name, "d%04d/f%03d", &d, &f); {
	case name == ".":
		return &manyDir{name: name, n: (m.n + perFolder - 1) / perFolder, entry: func(i int) fs.DirEntry { return manyInfo{fmt.Sprintf("d%04d", i), fs.ModeDir | 0o755} }}, nil
	case n == 1:
		return &manyDir{name: name, n: min(perFolder, m.n-d*perFolder), entry: func(i int) fs.DirEntry { return manyInfo{fmt.Sprintf("f%03d", i), 0o644} }}, nil
	case n == 2:
		return &manyFile{manyInfo{name[6:], 0o644}, strings.NewReader(fmt.Sprintf("%-100s", name))}, nil
	}
	return nil, fs.ErrNotExist
}

type manyInfo struct {
	name string
	mode fs.FileMode
}

func (i manyInfo) Name() string               { return i.name }
func (i manyInfo) IsDir() bool                { return i.mode.IsDir() }
func (i manyInfo) Type() fs.FileMode          { return i.mode.Type() }
func (i manyInfo) Info() (fs.FileInfo, error) { return i, nil }
func (i manyInfo) Mode() fs.FileMode          { return i.mode }
func (i manyInfo) ModTime() time.Time         { return many }
func (i manyInfo) Sys() any                   { return nil }

func (i manyInfo) Size() int64 {
	if i.IsDir() {
		return 0
	}
	return 100
}

type manyFile struct {
	manyInfo
	*strings.Reader
}

func (f *manyFile) Stat() (fs.FileInfo, error) { return f.manyInfo, nil }
func (f *manyFile) Size() int64                { return f.manyInfo.Size() }
func (f *manyFile) Close() error               { return nil }

type manyDir struct {
	name    string
	n, next int
	entry   func(int) fs.DirEntry
}

func (d *manyDir) Stat() (fs.FileInfo, error) { return manyInfo{d.name, fs.ModeDir | 0o755}, nil }
func (d *manyDir) Close() error               { return nil }
func (d *manyDir) Read([]byte) (int, error)   { return 0, fs.ErrInvalid }

func (d *manyDir) ReadDir(n int) ([]fs.DirEntry, error) {
	left := d.n - d.next
	if n > 0 && left == 0 {
		return nil, io.EOF
	}
	if n > 0 {
		left = min(left, n)
	}
	list := make([]fs.DirEntry, left)
	for i := range list {
		list[i] = d.entry(d.next + i)
	}
	d.next += left
	return list, nil
}

// used is what this process took so far: of processors, and at most of memory since it was last reset.
func used(t *testing.T) (cpu time.Duration, peak int64) {
	t.Helper()
	var usage syscall.Rusage
	must(t, syscall.Getrusage(syscall.RUSAGE_SELF, &usage))
	status, err := os.ReadFile("/proc/self/status")
	must(t, err)
	_, after, ok := strings.Cut(string(status), "VmHWM:")
	if _, err := fmt.Sscan(after, &peak); !ok || err != nil {
		t.Fatalf("the peak of memory: %v", err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano()), peak << 10
}

// measured runs f and tells its time, CPU time and peak of memory.
func measured(t *testing.T, what string, f func()) (cpu time.Duration, peak int64) {
	t.Helper()
	debug.FreeOSMemory()
	must(t, os.WriteFile("/proc/self/clear_refs", []byte("5"), 0)) // proc(5): resets the peak
	before, _ := used(t)
	start := time.Now()
	f()
	wall := time.Since(start)
	after, peak := used(t)
	cpu = after - before
	t.Logf("%s: %.1f s, %.1f s of CPU, %d MiB at the peak", what, wall.Seconds(), cpu.Seconds(), peak>>20)
	return cpu, peak
}

// TestManyFiles prepares and verifies up to a million files: memory within 1 GiB, and CPU time at most linear, a
// doubling aside for what a larger working set and other processes cost; ten times the files in twice the time per
// file would still be far from quadratic.
func TestManyFiles(t *testing.T) {
	counts, most := []int{10_000}, int64(256<<20)
	if os.Getenv("SALLYPORT_BIG") == "1" {
		counts, most = []int{10_000, 100_000, 1_000_000}, 1<<30
	} else {
		t.Log("10,000 files only. SALLYPORT_BIG=1 tries a million (2.5 GB of disk)")
	}
	var prepare, verifying []time.Duration
	for _, n := range counts {
		path := filepath.Join(t.TempDir(), "many.iso")
		cpu, peak := measured(t, fmt.Sprintf("prepare %d files", n), func() {
			_, err := plan(t, manyFiles{n}, demo()).WriteFile(t.Context(), path, nil)
			must(t, err)
		})
		prepare = append(prepare, cpu)
		if peak > most {
			t.Errorf("preparing %d files took %d MiB of memory, the limit is %d", n, peak>>20, most>>20)
		}
		signFile(t, path, "alice", "bob", "carol")
		f, err := os.Open(path)
		must(t, err)
		info, err := f.Stat()
		must(t, err)
		cpu, peak = measured(t, fmt.Sprintf("verify %d files", n), func() {
			v, err := verify(Source{ReaderAt: f, Size: info.Size()}, VerifyOptions{})
			must(t, err)
			if want := 1 + (n+perFolder-1)/perFolder + n; len(v.Entries()) != want {
				t.Errorf("%d entries, want %d", len(v.Entries()), want)
			}
		})
		verifying = append(verifying, cpu)
		if peak > most {
			t.Errorf("verifying %d files took %d MiB of memory, the limit is %d", n, peak>>20, most>>20)
		}
		must(t, f.Close())
		must(t, os.Remove(path))
	}
	for i := 1; i < len(counts); i++ {
		for what, took := range map[string][]time.Duration{"prepare": prepare, "verify": verifying} {
			if grown := float64(took[i]) / float64(took[i-1]); grown > 2*float64(counts[i])/float64(counts[i-1]) {
				t.Errorf("%s: %d files take %.1f times as long as %d", what, counts[i], grown, counts[i-1])
			}
		}
	}
}

// signFile is sign for an image in a file.
func signFile(t *testing.T, path string, names ...string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	info, err := f.Stat()
	must(t, err)
	c, err := Inspect(t.Context(), Source{ReaderAt: f, Size: info.Size()})
	must(t, err)
	for i, name := range names {
		slot, err := trust.EncodeSlot(signature(t, name, c.Message))
		must(t, err)
		for _, lba := range []int64{c.Geometry.SealA(), c.Geometry.SealB()} {
			_, err := f.WriteAt(slot[:], (lba+sealJSONBlocks+int64(i))*BlockSize)
			must(t, err)
		}
	}
}
