package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// The bounds of what is kept in testdata/fuzz for one target, and how many inputs are looked at for it.
const (
	maxSeeds     = 24
	maxSeedBytes = 4096
	maxTried     = 400
)

// pickSeeds adds seeds for the targets to their packages' testdata/fuzz, as the command's documentation says.
func (r runner) pickSeeds(ctx context.Context, targets []target) error {
	text, err := r.goOutput(ctx, "env", "GOCACHE")
	if err != nil {
		return fmt.Errorf("finding the cache of fuzz inputs: %w", err)
	}
	cache := filepath.Join(strings.TrimSpace(string(text)), "fuzz")
	scratch, err := os.MkdirTemp("", "seeds-")
	if err != nil {
		return fmt.Errorf("making room for the seeds: %w", err)
	}
	defer os.RemoveAll(scratch)
	for _, t := range targets {
		c, err := r.newChooser(ctx, scratch, t)
		if err != nil {
			return fmt.Errorf("%s: %w", t, err)
		}
		had := len(c.seeds)
		if err := c.choose(ctx, filepath.Join(cache, t.pkg, t.name)); err != nil {
			return fmt.Errorf("%s: %w", t, err)
		}
		fmt.Fprintf(r.out, "%s: %d seeds, %d of them new\n", t, len(c.seeds), len(c.seeds)-had)
	}
	return nil
}

// chooser chooses seeds for one target.
type chooser struct {
	target
	program string // its tests, which count the statements they run
	folder  string // to run them in: the package's own, but for testdata/fuzz
	kept    string // the target's folder in testdata/fuzz
	seeds   map[string]bool
	ran     map[string]bool // statements that the seeds run
}

func (r runner) newChooser(ctx context.Context, scratch string, t target) (*chooser, error) {
	root, err := filepath.Abs(r.root)
	if err != nil {
		return nil, err
	}
	source := filepath.Join(root, t.dir)
	c := &chooser{
		target:  t,
		program: filepath.Join(scratch, strings.ReplaceAll(t.pkg, "/", "_")+".test"),
		folder:  filepath.Join(scratch, t.pkg, t.name),
		kept:    filepath.Join(source, "testdata", "fuzz", t.name),
		seeds:   make(map[string]bool),
		ran:     make(map[string]bool),
	}
	if _, err := os.Stat(c.program); errors.Is(err, fs.ErrNotExist) {
		if _, err := r.goOutput(ctx, "test", "-c", "-vet=off", "-covermode=set", "-coverpkg=./...", "-o", c.program, t.pkg); err != nil {
			return nil, err
		}
	}
	if err := os.MkdirAll(c.inputs(), 0o777); err != nil {
		return nil, err
	}
	if err := link(source, c.folder, "testdata"); err != nil {
		return nil, err
	}
	if err := link(filepath.Join(source, "testdata"), filepath.Join(c.folder, "testdata"), "fuzz"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	kept, err := os.ReadDir(c.kept)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, e := range kept {
		c.seeds[e.Name()] = true
		if err := os.Symlink(filepath.Join(c.kept, e.Name()), filepath.Join(c.inputs(), e.Name())); err != nil {
			return nil, err
		}
	}
	// With those that the target adds itself.
	c.ran, err = c.statements(ctx, "^"+t.name+"$")
	return c, err
}

func (c *chooser) inputs() string { return filepath.Join(c.folder, "testdata", "fuzz", c.name) }

// link makes links in the folder to for all that is in from, save one name.
func link(from, to, save string) error {
	list, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, e := range list {
		if e.Name() == save {
			continue
		}
		if err := os.Symlink(filepath.Join(from, e.Name()), filepath.Join(to, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// choose adds seeds from the folder cached, which may be missing.
func (c *chooser) choose(ctx context.Context, cached string) error {
	type input struct {
		name string
		size int64
	}
	var candidates []input
	list, err := os.ReadDir(cached)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, e := range list {
		info, err := e.Info()
		if err != nil {
			return err
		}
		if info.Mode().IsRegular() && info.Size() <= maxSeedBytes && !c.seeds[e.Name()] {
			candidates = append(candidates, input{e.Name(), info.Size()})
		}
	}
	slices.SortFunc(candidates, func(a, b input) int { return cmp.Or(cmp.Compare(a.size, b.size), cmp.Compare(a.name, b.name)) })
	for _, in := range candidates[:min(len(candidates), maxTried)] {
		if len(c.seeds) >= maxSeeds {
			break
		}
		data, err := os.ReadFile(filepath.Join(cached, in.name))
		if err != nil {
			return err
		}
		tried := filepath.Join(c.inputs(), in.name)
		if err := os.WriteFile(tried, data, 0o666); err != nil {
			return err
		}
		ran, err := c.statements(ctx, "^"+c.name+"$/^"+in.name+"$")
		if err != nil {
			return err
		}
		before := len(c.ran)
		for s := range ran {
			c.ran[s] = true
		}
		if len(c.ran) == before {
			if err := os.Remove(tried); err != nil {
				return err
			}
			continue
		}
		c.seeds[in.name] = true
		if err := os.MkdirAll(c.kept, 0o777); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(c.kept, in.name), data, 0o666); err != nil {
			return err
		}
	}
	return nil
}

// statements runs tests and returns the blocks of statements that they ran. They must pass.
func (c *chooser) statements(ctx context.Context, tests string) (map[string]bool, error) {
	profile := filepath.Join(c.folder, "profile.out")
	cmd := exec.CommandContext(ctx, c.program, "-test.run="+tests, "-test.coverprofile="+profile)
	cmd.Dir = c.folder
	output, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err != nil {
		return nil, fmt.Errorf("running %s: %w\n%s", tests, err, output)
	}
	text, err := os.ReadFile(profile)
	if err != nil {
		return nil, err
	}
	ran := make(map[string]bool)
	for line := range strings.Lines(string(text)) {
		// file:from,to statements count, below a line with the mode.
		block, count, _ := strings.Cut(strings.TrimSpace(line), " ")
		if strings.HasSuffix(count, " 1") {
			ran[block] = true
		}
	}
	return ran, nil
}
