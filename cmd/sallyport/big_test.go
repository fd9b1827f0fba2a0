package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// mostMemory is the largest resident set that any command may have, whatever the payload's size.
const mostMemory = 128 << 20

// TestLargePayloads: memory doesn't follow the size of the payload. With SALLYPORT_BIG=1 that is 2 GiB and 100 GiB;
// these are sparse, and so is the image of the larger one, which goes through a pipe to somebody who leaves out what is
// zero: it takes 2 GB of disk.
func TestLargePayloads(t *testing.T) {
	tests := []struct {
		size int64
		pipe bool
		args []string
	}{{64 << 20, true, nil}, {64 << 20, false, []string{"--fec-roots", "24"}}}
	if os.Getenv("SALLYPORT_BIG") == "1" {
		tests[0].size, tests[1].size = 100<<30, 2<<30
	} else {
		t.Log("64 MiB only. SALLYPORT_BIG=1 tries 2 GiB and 100 GiB")
	}
	program := plainProgram(t)
	for _, test := range tests {
		t.Run(fmt.Sprintf("%d MiB, pipe %t", test.size>>20, test.pipe), func(t *testing.T) {
			dir := room(t)
			if err := os.Truncate(touch(t, filepath.Join(dir, "payload", "large")), test.size); err != nil {
				t.Fatal(err)
			}
			out := "large.iso"
			if test.pipe {
				out = "-"
			}
			run := func(image *os.File, args ...string) {
				t.Helper()
				start := time.Now()
				peak := runSparse(t, program, dir, image, args...)
				t.Logf("%s: %.1f s, %d MiB at the peak", args[0], time.Since(start).Seconds(), peak>>20)
				if peak > mostMemory {
					t.Errorf("%s took %d MiB of memory", args[0], peak>>20)
				}
			}
			var image *os.File
			if test.pipe {
				var err error
				if image, err = os.Create(filepath.Join(dir, "large.iso")); err != nil {
					t.Fatal(err)
				}
				defer image.Close()
			}
			run(image, append([]string{"prepare", "payload", "-o", out, "--channel", "news", "--trust", "trust.json", "--medium", "file"}, test.args...)...)
			for _, key := range []string{"alice.key", "bob.key"} {
				run(nil, "sign", "large.iso", "--key", key, "--yes")
			}
			run(nil, "verify", "large.iso", "--trust", "trust.json")
		})
	}
}

// runSparse runs the program, puts its standard output into image but for MiBs of zeros, and returns the peak of its
// resident set.
func runSparse(t *testing.T, program, dir string, image *os.File, args ...string) (peak int64) {
	t.Helper()
	cmd := exec.Command(program, args...)
	var stderr bytes.Buffer
	cmd.Dir, cmd.Stderr = dir, &stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			peak = max(peak, residentPeak(cmd.Process.Pid))
			select {
			case <-stop:
				return
			case <-time.After(2 * time.Millisecond):
			}
		}
	}()
	if image != nil {
		err = copySparse(image, stdout)
	} else {
		_, err = io.Copy(io.Discard, stdout)
	}
	close(stop)
	<-done
	if waited := cmd.Wait(); waited != nil || err != nil {
		t.Fatalf("%v: %v, %v\n%s", args, waited, err, stderr.Bytes())
	}
	if peak == 0 {
		t.Fatalf("%v: no word of its memory", args)
	}
	return peak
}

// residentPeak returns the largest resident set that a process has had since it was executed, in bytes; 0 when it is over.
// ru_maxrss won't do: it is at least what the parent had when it started the child (getrusage(2), setmax_mm_hiwater_rss).
func residentPeak(pid int) int64 {
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	_, rest, _ := strings.Cut(string(status), "VmHWM:")
	var kib int64
	fmt.Sscanf(rest, "%d kB", &kib)
	return kib << 10
}

func copySparse(f *os.File, r io.Reader) error {
	buf, zeros := make([]byte, 1<<20), make([]byte, 1<<20)
	for off := int64(0); ; {
		n, err := io.ReadFull(r, buf)
		if !bytes.Equal(buf[:n], zeros[:n]) {
			if _, err := f.WriteAt(buf[:n], off); err != nil {
				return err
			}
		}
		off += int64(n)
		switch {
		case err == io.EOF || err == io.ErrUnexpectedEOF:
			return f.Truncate(off)
		case err != nil:
			return err
		}
	}
}

// streamMemory is the largest resident set that burning a directory may have, the simulated drive included.
const streamMemory = 64 << 20

// TestBurnDirectory: a directory is burnt without an image of it on a disk, in constant memory, with parity in what room
// is left. With SALLYPORT_BIG=1 it fills a DVD.
func TestBurnDirectory(t *testing.T) {
	size := int64(100 << 20)
	if os.Getenv("SALLYPORT_BIG") == "1" {
		size = 4_400_000_000
	} else {
		t.Log("100 MiB only. SALLYPORT_BIG=1 tries 4.4 GB")
	}
	program, dir, scratch := plainProgram(t), room(t), t.TempDir()
	t.Setenv("TMPDIR", scratch)
	in := func(name string) string { return filepath.Join(dir, name) }
	if err := os.Truncate(touch(t, in("payload/large")), size); err != nil {
		t.Fatal(err)
	}
	must(t, dir, "plan", "payload", "-o", "SEAL.json", "--channel", "news", "--trust", "trust.json", "--medium", "dvd-r")
	for _, key := range []string{"alice.key", "bob.key"} {
		must(t, dir, "sign", "SEAL.json", "--key", key, "--reproduce", "payload")
	}
	start := time.Now()
	peak := runSparse(t, program, dir, nil, "burn", "payload", "--seal", "SEAL.json", "--drive", "sim:drive", "--trust", "trust.json")
	t.Logf("%d MB: %.1f s, %d MiB at the peak", size/1e6, time.Since(start).Seconds(), peak>>20)
	if peak > streamMemory {
		t.Errorf("burn took %d MiB of memory", peak>>20)
	}
	if left := names(t, scratch); left != "" {
		t.Errorf("left behind: %s", left)
	}
	must(t, dir, "verify", "sim:drive", "--trust", "trust.json")
}
