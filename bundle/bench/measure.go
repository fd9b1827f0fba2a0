package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// side is one of the two programs of a case.
type side struct {
	name   string
	args   []string
	output string // written by it: removed before, synced within the measured time; empty for none
	bytes  int64  // of input, for the rate
}

// comparison is a case. The ratio is of times per byte, ours to the peer's; with faster it is upside down, how many
// times as fast we are.
type comparison struct {
	name        string
	ours, peer  side
	faster      bool
	cold        bool    // read from the disk, where the page cache may be dropped
	slow        bool    // and held to mediumRate; without that the limit isn't judged
	goal, limit float64 // 0: none
}

// sample is one run.
type sample struct {
	wall, cpu time.Duration
	rss       int64 // KiB
}

// compare runs both sides in turns and prints a row of each.
func (b *bench) compare(c comparison) (held bool, err error) {
	cold, slow := c.cold && b.cold, c.slow && b.cold && b.slow != nil
	if slow {
		c.ours.args, c.peer.args = b.slow.wrap(c.ours.args), b.slow.wrap(c.peer.args)
	} else if c.slow {
		c.limit = 0
	}
	var samples [2][]sample
	for i := range b.opt.runs {
		for j := range 2 {
			k := (i + j) % 2 // neither is always the first
			s, err := measure([]side{c.ours, c.peer}[k], cold)
			if err != nil {
				return false, err
			}
			samples[k] = append(samples[k], s)
		}
	}
	rate := func(k int, s side) float64 { return float64(s.bytes) / median(samples[k], wallOf).Seconds() }
	ratio := rate(1, c.peer) / rate(0, c.ours)
	held = ratio <= c.limit || c.limit == 0
	if c.faster {
		ratio = 1 / ratio
		held = ratio >= c.limit
	}
	cache := map[bool]string{true: "cold", false: "warm"}[cold]
	if slow {
		cache = fmt.Sprintf("cold, %d MB/s", mediumRate/1_000_000)
	}
	for k, s := range []side{c.ours, c.peer} {
		walls := slices.SortedFunc(slices.Values(samples[k]), func(a, b sample) int { return cmp.Compare(a.wall, b.wall) })
		rss := slices.MaxFunc(samples[k], func(a, b sample) int { return cmp.Compare(a.rss, b.rss) }).rss
		fmt.Printf("| %s | %s | %s | %.2f (%.2f–%.2f) | %.2f | %d | %.0f |", c.name, cache, s.name,
			median(samples[k], wallOf).Seconds(), walls[0].wall.Seconds(), walls[len(walls)-1].wall.Seconds(),
			median(samples[k], func(s sample) time.Duration { return s.cpu }).Seconds(), (rss+1023)/1024, rate(k, s)/1e6)
		if k == 0 && c.limit == 0 {
			fmt.Printf(" %.2f | | |\n", ratio)
		} else if k == 0 {
			fmt.Printf(" %.2f | %g | %g%s |\n", ratio, c.goal, c.limit, map[bool]string{false: " BROKEN"}[held])
		} else {
			fmt.Println(" | | |")
		}
	}
	return held, nil
}

func wallOf(s sample) time.Duration { return s.wall }

func median(samples []sample, of func(sample) time.Duration) time.Duration {
	var all []time.Duration
	for _, s := range samples {
		all = append(all, of(s))
	}
	slices.Sort(all)
	n := len(all)
	return (all[(n-1)/2] + all[n/2]) / 2
}

// measure runs one side once. Nothing that was written before is still on its way to the disk when the clock starts.
func measure(s side, cold bool) (sample, error) {
	if s.output != "" {
		if err := os.Remove(s.output); err != nil && !errors.Is(err, os.ErrNotExist) {
			return sample{}, err
		}
	}
	unix.Sync()
	if cold {
		if err := dropCaches(); err != nil {
			return sample{}, err
		}
	}
	cmd := exec.Command(s.args[0], s.args[1:]...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	start := time.Now()
	if err := cmd.Run(); err != nil {
		return sample{}, fmt.Errorf("%s: %w\n%s", strings.Join(s.args, " "), err, stderr.Bytes())
	}
	if s.output != "" {
		if err := syncFile(s.output); err != nil {
			return sample{}, err
		}
	}
	wall := time.Since(start)
	usage := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	return sample{wall, cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(), usage.Maxrss}, nil
}

func syncFile(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

// dropCaches empties the page cache; only root may.
func dropCaches() error { return os.WriteFile("/proc/sys/vm/drop_caches", []byte("3\n"), 0) }
