// Bench measures sallyport beside stock tools, in turns on the same machine, and prints the ratios of the medians.
//
// Usage, from anywhere in the module:
//
//	go run ./bundle/bench                             # 2 GiB of payload, 7 runs a side
//	go run ./bundle/bench -size 200 -runs 3           # a trial
//	go run ./bundle/bench -only verify -dir /mnt/fast
//
// What is compared, how, and what came out: docs/performance.md. It needs about five times the payload of disk under
// -dir. Every run is a process of its own; time is from its start until what it wrote is synced, memory is the peak
// resident set that the kernel reports of it. The exit status is 1 if a ratio is over its limit, 2 if something failed.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
)

// options are the flags.
type options struct {
	dir  string
	size int64 // MiB of payload
	fec  int64 // MiB that veritysetup encodes
	runs int
	only string
	keep bool
}

func main() {
	var opt options
	flag.StringVar(&opt.dir, "dir", os.TempDir(), "where payload and images are made")
	flag.Int64Var(&opt.size, "size", 2048, "payload in MiB")
	flag.Int64Var(&opt.fec, "fec-size", 32, "what veritysetup encodes, in MiB; it takes its time")
	flag.IntVar(&opt.runs, "runs", 7, "runs of each side")
	flag.StringVar(&opt.only, "only", "", "comma-separated cases: prepare, parity, tree and parity, verify, repair, repair from a disk, verify damaged")
	flag.BoolVar(&opt.keep, "keep", false, "leave what was made")
	encode := flag.String("encode", "", "make hash tree and parity of this file and stop: what a case runs as a process of its own")
	parity := flag.String("parity", "", "the same, but the hash tree is there")
	flag.Parse()
	if name := *encode + *parity; name != "" {
		var err error
		if *encode != "" {
			err = makeTree(name)
		}
		if err == nil {
			err = makeParity(name)
		}
		if err != nil {
			fmt.Fprintf(os.Stderr, "bench: %v\n", err)
			os.Exit(2)
		}
		return
	}
	held, err := run(opt)
	if err != nil {
		fmt.Fprintf(os.Stderr, "bench: %v\n", err)
		os.Exit(2)
	}
	if !held {
		os.Exit(1)
	}
}

// run reports whether all ratios are within their limits.
func run(opt options) (held bool, err error) {
	if opt.size < 32 || opt.fec < 1 || opt.fec > opt.size || opt.runs < 1 {
		return false, fmt.Errorf("-size %d -fec-size %d -runs %d: want 32 MiB or more, of them some for veritysetup, and a run", opt.size, opt.fec, opt.runs)
	}
	b, err := newBench(opt)
	if err != nil {
		return false, err
	}
	defer func() {
		if b.slow != nil {
			err = errors.Join(err, b.slow.remove())
		}
		if !opt.keep {
			if e := os.RemoveAll(b.dir); err == nil {
				err = e
			}
		}
	}()
	cases, err := b.cases()
	if err != nil {
		return false, err
	}
	printMachine(opt, b.dir, b.cold)
	fmt.Println("| case | cache | side | median s (min–max) | CPU s | peak RSS MiB | MB/s | ratio | goal | limit |")
	fmt.Println("|---|---|---|---|---|---|---|---|---|---|")
	held = true
	for _, c := range cases {
		if opt.only != "" && !strings.Contains(","+opt.only+",", ","+c.name+",") {
			continue
		}
		ok, err := b.compare(c)
		if err != nil {
			return false, fmt.Errorf("%s: %w", c.name, err)
		}
		held = held && ok
	}
	return held, nil
}
