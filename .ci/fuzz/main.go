// Fuzz runs the fuzz targets of the module, several side by side, each until a time brought no new coverage, and stops
// at the first input that one of them fails on.
//
// Usage, from the top of the module:
//
//	go run ./.ci/fuzz [-quiet DURATION] [-time DURATION] [-j N] [-only TARGET,TARGET] [-memory MIB]
//	go run ./.ci/fuzz -list
//	go run ./.ci/fuzz -seeds [-only TARGET,TARGET]
//
// A target is named FuzzName or, where several packages have one of that name, as -list prints it.
//
// # When a target ends
//
// It is left once its quiet time has passed without a new interesting input, as go test counts them, or after -time, if
// that is given. Both are told by what go test itself says every three seconds: the time that a machine sleeps, or a
// process is stopped, doesn't count. It fails when a test fails, which one input that takes over ten seconds is taken
// for as well; when it ends by itself; and when it runs nothing for the time of -still. -memory bounds the address space
// of each process, so that an allocation without a bound fails too. The command that runs the failing input again is the
// last line, and the exit status is 1; it is 130 after an interrupt.
//
// # Seeds
//
// Interesting inputs stay in the cache of the go command and are taken up by the next run. -seeds picks some of them for
// testdata/fuzz, which plain go test replays and the repository keeps: of the files of at most 4 KiB, the smallest
// first, those that run statements no seed before them ran, until the target has 24. What is there already stays.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	r := runner{goTool: "go", out: os.Stdout, every: time.Minute}
	flag.DurationVar(&r.quiet, "quiet", 10*time.Minute, "leave a target when `DURATION` brought no new coverage")
	flag.DurationVar(&r.limit, "time", 0, "leave a target after `DURATION` whatever it brings, 0 for no limit")
	flag.DurationVar(&r.still, "still", 2*time.Minute, "fail a target that runs nothing for `DURATION`")
	flag.IntVar(&r.workers, "j", runtime.NumCPU(), "run `N` targets at a time")
	flag.IntVar(&r.memory, "memory", 4096, "the address space of a process in `MIB`, 0 for no limit")
	only := flag.String("only", "", "the targets `NAME,NAME` alone")
	list := flag.Bool("list", false, "list the targets, run nothing")
	seeds := flag.Bool("seeds", false, "pick seeds for testdata/fuzz from the cache, fuzz nothing")
	flag.Parse()
	if flag.NArg() > 0 || r.workers < 1 || r.memory < 0 || r.quiet <= 0 || r.limit < 0 || r.still <= 0 {
		flag.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	err := do(ctx, os.Stdout, r, *only, *list, *seeds)
	stop()
	switch {
	case errors.Is(err, context.Canceled):
		fmt.Fprintln(os.Stderr, "fuzz: interrupted")
		os.Exit(130)
	case err != nil:
		fmt.Fprintf(os.Stderr, "fuzz: %v\n", err)
		os.Exit(1)
	}
}

// do finds the targets and carries out what the flags ask.
func do(ctx context.Context, out io.Writer, r runner, only string, list, seeds bool) error {
	targets, err := r.targets(ctx)
	if err != nil {
		return err
	}
	targets, err = pick(targets, only)
	if err != nil {
		return err
	}
	switch {
	case list:
		for _, t := range targets {
			fmt.Fprintln(out, t)
		}
		return nil
	case seeds:
		return r.pickSeeds(ctx, targets)
	}
	return r.run(ctx, targets)
}

// pick returns the targets that only names, all of them if it is empty. It is an error when a name picks none or more
// than one.
func pick(targets []target, only string) ([]target, error) {
	if only == "" {
		return targets, nil
	}
	var picked []target
	for name := range strings.SplitSeq(only, ",") {
		fits := slices.DeleteFunc(slices.Clone(targets), func(t target) bool { return name != t.name && name != t.String() })
		if len(fits) != 1 {
			return nil, fmt.Errorf("%d fuzz targets go by the name %q", len(fits), name)
		}
		picked = append(picked, fits[0])
	}
	return picked, nil
}
