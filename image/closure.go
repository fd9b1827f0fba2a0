package image

import (
	"fmt"
	"slices"
	"strings"
)

// Closure is all modules that the named ones need, and those themselves, in an order in which they can be loaded one
// by one: what a module depends on before it, what it wishes to have before it (softdep pre) too, and what it wishes
// to have after it behind it. Softdeps that the package doesn't have are left out, as modprobe does. Of several
// modules with one alias all are taken. A name may have "-" for "_", may be an alias, and may be of a module that is
// built into the kernel, for which nothing need be loaded. A name, or a dependency, that the package doesn't have is an error.
func (k *Kernel) Closure(wanted ...string) ([]Module, error) {
	c := closure{kernel: k, state: make(map[string]visit), at: make(map[string]int)}
	for _, name := range names(wanted) {
		found := k.resolve(name)
		if len(found) == 0 && !k.builtin[name] {
			return nil, fmt.Errorf("kernel %s has no module %q", k.Release, name)
		}
		for _, module := range found {
			if err := c.add(module, false, nil); err != nil {
				return nil, err
			}
		}
	}
	return c.order, nil
}

// resolve returns the modules that go by a name.
func (k *Kernel) resolve(name string) []string {
	if k.modules[name] != nil {
		return []string{name}
	}
	return k.aliases[name]
}

// visit says how far the walk came with a module.
type visit byte

const (
	unseen visit = iota
	entered
	done
)

type closure struct {
	kernel *Kernel
	state  map[string]visit
	at     map[string]int // in order
	order  []Module
}

// add puts a module and all below it into the order. The path that led to it is in by.
func (c *closure) add(name string, optional bool, by []string) error {
	m := c.kernel.modules[name]
	switch c.state[name] {
	case done:
		if i := c.at[name]; !optional && c.order[i].Optional {
			return c.require(i)
		}
		return nil
	case entered:
		if !optional {
			return fmt.Errorf("modules need each other: %s", strings.Join(append(by, name), " needs "))
		}
		return nil // softdeps may go round; modprobe lets them, too
	}
	if len(by) > len(c.kernel.modules) {
		return fmt.Errorf("modules need each other: %s", name)
	}
	c.state[name] = entered
	by = append(by, name)
	if err := c.wish(m.info.pre, by); err != nil {
		return err
	}
	for _, dep := range m.info.depends {
		if c.kernel.modules[dep] == nil {
			if c.kernel.builtin[dep] {
				continue
			}
			return fmt.Errorf("the module %s needs %.64q, which kernel %s doesn't have", name, dep, c.kernel.Release)
		}
		if err := c.add(dep, optional, by); err != nil {
			return err
		}
	}
	c.at[name] = len(c.order)
	c.order = append(c.order, Module{Name: name, Path: m.path, Depends: slices.Clone(m.info.depends), Optional: optional, file: m.file})
	c.state[name] = done
	return c.wish(m.info.post, by)
}

// wish adds what a module wishes for.
func (c *closure) wish(soft, by []string) error {
	for _, name := range soft {
		for _, module := range c.kernel.resolve(name) {
			if err := c.add(module, true, by); err != nil {
				return err
			}
		}
	}
	return nil
}

// require makes what was only wished for needed, and what that depends on.
func (c *closure) require(i int) error {
	c.order[i].Optional = false
	for _, dep := range c.order[i].Depends {
		if j, ok := c.at[dep]; ok && c.order[j].Optional {
			if err := c.require(j); err != nil {
				return err
			}
		}
	}
	return nil
}
