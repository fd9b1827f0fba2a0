// Bench measures a wipe with its strict capacity test beside dd on the same device, in turns, and prints the ratios of
// the medians.
//
// Usage, as root, from anywhere in the module:
//
//	go run ./media/wipe/bench                         # a loop device over a file of 2 GiB, 5 runs a side
//	go run ./media/wipe/bench -device /dev/sdX        # a stick; ALL THAT IS ON IT IS LOST
//
// Writing is compared with "dd bs=4M oflag=direct conv=fsync", and the whole of it, which reads everything back and
// compares it, with that and a "dd bs=4M iflag=direct" behind it. The exit status is 1 if a ratio is below 0.9, 2 if
// something failed.
package main

import (
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/media/wipe"
)

// limit is the least that a wipe may have of dd's throughput.
const limit = 0.9

func main() {
	dir := flag.String("dir", os.TempDir(), "where the file behind the loop device is made")
	size := flag.Int64("size", 2048, "MiB of that file")
	runs := flag.Int("runs", 5, "runs of each side")
	device := flag.String("device", "", "a block device to be wiped instead; all that is on it is lost")
	flag.Parse()
	held, err := run(*dir, *size<<20, *runs, *device)
	if err != nil {
		fmt.Fprintf(os.Stderr, "bench: %v\n", err)
		os.Exit(2)
	}
	if !held {
		os.Exit(1)
	}
}

func run(dir string, size int64, runs int, device string) (held bool, err error) {
	if size < 64<<20 || runs < 1 {
		return false, errors.New("want 64 MiB or more, and a run")
	}
	if device == "" {
		var detach func() error
		if device, detach, err = loop(dir, size); err != nil {
			return false, err
		}
		defer func() { err = errors.Join(err, detach()) }()
	}
	m, err := open(device)
	if err != nil {
		return false, err
	}
	defer m.Close()
	var write, whole [2][]float64 // seconds of dd, of wipe
	for range runs {
		written, err := dd("of="+device, "if=/dev/zero", "oflag=direct", "conv=fsync", fmt.Sprintf("count=%d", m.size), "iflag=fullblock,count_bytes")
		if err != nil {
			return false, err
		}
		read, err := dd("if="+device, "of=/dev/null", "iflag=direct")
		if err != nil {
			return false, err
		}
		write[0], whole[0] = append(write[0], written), append(whole[0], written+read)
		if written, read, err = strict(m); err != nil {
			return false, err
		}
		write[1], whole[1] = append(write[1], written), append(whole[1], written+read)
	}
	fmt.Printf("%s, %d MiB, %d runs a side, in turns\n", device, m.size>>20, runs)
	fmt.Println("| what | side | median s (min–max) | MB/s | ratio | limit |")
	fmt.Println("|---|---|---|---|---|---|")
	a := show("written", "dd oflag=direct", write, m.size)
	b := show("written and read back", "dd, both ways", whole, m.size)
	return a >= limit && b >= limit, nil
}

// show prints both sides of one comparison and returns wipe's share of dd's throughput.
func show(what, peer string, seconds [2][]float64, size int64) float64 {
	ratio := median(seconds[0]) / median(seconds[1])
	for i, side := range []string{peer, "wipe, strict"} {
		fmt.Printf("| %s | %s | %.2f (%.2f–%.2f) | %.0f |", what, side, median(seconds[i]), slices.Min(seconds[i]), slices.Max(seconds[i]), float64(size)/1e6/median(seconds[i]))
		if i == 0 {
			fmt.Println(" | |")
		} else {
			fmt.Printf(" %.2f | %.2f |\n", ratio, limit)
		}
	}
	return ratio
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return (sorted[(len(sorted)-1)/2] + sorted[len(sorted)/2]) / 2
}

// strict wipes the device and tests all of it, and returns how many seconds writing and reading took.
func strict(m *medium) (written, read float64, err error) {
	opt := wipe.Options{Strict: true, Now: time.Now}
	if _, err := rand.Read(opt.Key[:]); err != nil {
		return 0, 0, err
	}
	begun := time.Now()
	var between time.Time // when all was written and synced
	opt.Progress = func(p wipe.Progress) {
		if p.Phase == wipe.PhaseRead && between.IsZero() {
			between = time.Now()
		}
	}
	rec, err := wipe.Run(context.Background(), m, opt)
	switch {
	case err != nil:
		return 0, 0, err
	case len(rec.Passes) != 1 || rec.Passes[0].Written != m.size || rec.Passes[0].Read != m.size:
		return 0, 0, fmt.Errorf("not each byte was written and read once: %+v", rec.Passes)
	}
	return between.Sub(begun).Seconds(), time.Since(between).Seconds(), nil
}

// dd runs dd with blocks of 4 MiB and returns how many seconds it took.
func dd(args ...string) (float64, error) {
	begun := time.Now()
	out, err := exec.Command("dd", append(args, "bs=4M", "status=none")...).CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("dd %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return time.Since(begun).Seconds(), nil
}

// loop makes a loop device over a new file whose blocks are all there.
func loop(dir string, size int64) (device string, detach func() error, err error) {
	f, err := os.CreateTemp(dir, "sallyport-wipe-bench.")
	if err != nil {
		return "", nil, err
	}
	defer f.Close()
	remove := func() error { return os.Remove(f.Name()) }
	if err := unix.Fallocate(int(f.Fd()), 0, 0, size); err != nil {
		return "", nil, errors.Join(fmt.Errorf("allocate %s: %w", f.Name(), err), remove())
	}
	out, err := exec.Command("losetup", "--direct-io=on", "--show", "--find", f.Name()).CombinedOutput()
	if err != nil {
		return "", nil, errors.Join(fmt.Errorf("losetup: %w: %s", err, out), remove())
	}
	device = strings.TrimSpace(string(out))
	return device, func() error {
		err := exec.Command("losetup", "--detach", device).Run()
		return errors.Join(err, remove())
	}, nil
}

// medium is a block device that is written and read past the page cache.
type medium struct {
	*os.File
	size int64
}

func open(device string) (*medium, error) {
	f, err := os.OpenFile(device, os.O_RDWR|unix.O_DIRECT|unix.O_EXCL, 0)
	if err != nil {
		return nil, err
	}
	size, err := f.Seek(0, 2)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &medium{f, size}, nil
}

func (m *medium) Size() int64                { return m.size }
func (m *medium) BlockSize() int             { return 512 }
func (m *medium) Discard(off, n int64) error { return errors.ErrUnsupported }
