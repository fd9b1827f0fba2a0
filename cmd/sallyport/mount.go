package main

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"sync"

	"sallyport/bundle"
	"sallyport/bundle/trust"
	"sallyport/media"
	"sallyport/media/scsi"
)

type mountCmd struct {
	Source              string `arg:"" help:"An image file, a block device, or a stick by its generic node, /dev/sgN."`
	Dir                 string `arg:"" help:"An empty directory." type:"path"`
	Trust               string `required:"" help:"The trust root." placeholder:"FILE"`
	AllowUnknownSigners bool   `help:"Let signatures pass by keys that the trust root doesn't list."`
	CaseClash           bool   `help:"Let names pass that differ only in case."`
	surplusFlag
}

func (c *mountCmd) Help() string {
	return `Makes every check that verify makes without --state, and shows the bundle's files only if all of them pass: through
the kernel's dm-verity with the root hash that was signed, so that a block which is no longer what was sealed gives
an I/O error whenever it is read; read-only, without programs, set-user-id bits and device nodes. Nothing is let in:
that is import. It needs root. What is damaged is not mounted: repair writes it whole to a file, which can be.

A stick that came in through the gate has no block device: it is verified by its generic node first, and only then gets
one from the kernel, until umount.

Examples:
  sallyport mount /dev/sr0 /mnt --trust trust.json
  sallyport mount /dev/sg1 /mnt --trust trust.json
  sallyport mount bundle.iso /mnt --trust trust.json
  sallyport umount /mnt`
}

type mountResult struct {
	*verifyResult
	Dir    string `json:"dir"`
	Device string `json:"device"`
}

func (r *mountResult) text(w io.Writer) {
	r.verifyResult.text(w)
	fmt.Fprintf(w, "mounted      %s, read-only, through %s; sallyport umount %s ends it\n", printable(r.Dir), r.Device, printable(r.Dir))
}

func (c *mountCmd) run(e *env) (result, error) {
	if strings.HasPrefix(c.Source, "sim:") {
		return nil, usagef("%s is no device of the kernel's, which is to mount it: name an image file or a block device", c.Source)
	}
	root, err := loadTrust(c.Trust)
	if err != nil {
		return nil, err
	}
	if err := media.CheckMount(e.ctx, c.Source, c.Dir); err != nil {
		return nil, pathError(err)
	}
	device, unbound, err := blockDevice(c.Source)
	if err != nil {
		return nil, pathError(err)
	}
	src, err := e.openSource(c.Source)
	if err != nil {
		return nil, err
	}
	closed := sync.OnceValue(src.Close)
	defer closed()
	v, err := c.verify(e, root, src)
	if err != nil {
		return nil, about(c.Source, err)
	}
	if !unbound { // else it stays open, so that no other disk comes to its node
		if err := closed(); err != nil {
			return nil, err
		}
	}
	volume, err := volumeOf(device, v)
	if err != nil {
		return nil, err
	}
	res, err := verified(v, false)
	if err != nil {
		return nil, err
	}
	res.addExpiry(e, v)
	mounted, err := media.Mount(e.ctx, volume, c.Dir)
	if err != nil {
		return nil, pathError(err)
	}
	return &mountResult{verifyResult: res, Dir: mounted.Dir, Device: mounted.Device}, nil
}

// verify makes every check that rests on the trust root alone. It takes no damage for good that only a repair heals: the
// kernel reads what is on the medium.
func (c *mountCmd) verify(e *env, root *trust.Root, src *source) (*bundle.Verified, error) {
	var claims *bundle.Claims
	bar := e.progress()
	v, err := bundle.Verify(e.ctx, src.Source, root, bundle.VerifyOptions{
		AllowUnknownSigners: c.AllowUnknownSigners, Entries: scanEntries(c.CaseClash), NoRepair: true, SampleSurplus: c.sampled(), Progress: bar.update,
		Fresh: func(found *bundle.Claims) error {
			claims = found
			return nil
		},
	})
	bar.end(err)
	if err != nil && claims != nil && claims.Geometry.Roots > 0 {
		err = adviseRepaired(err)
	}
	return v, err
}

// blockDevice is what the kernel has for a source: that itself, or the block device of a generic node. unbound says that
// it is the generic node of a disk that has none.
func blockDevice(name string) (device string, unbound bool, err error) {
	if !scsi.IsNode(name) {
		return name, false, nil
	}
	block, err := media.BlockOf(name)
	switch {
	case errors.Is(err, fs.ErrInvalid): // it is one itself
		return name, false, nil
	case err != nil:
		return "", false, err
	case block == "":
		return name, true, nil
	}
	return block, false, nil
}

// adviseRepaired says of damage that parity may make good how it can be mounted nevertheless.
func adviseRepaired(err error) error {
	refused, ok := errors.AsType[*bundle.RefusedError](err)
	if !ok {
		return err
	}
	switch refused.Code {
	case "bad-superblock", "bad-tree", "damaged", "bad-padding":
		return &adviceError{"write it whole to a new file with sallyport repair, and mount that", err}
	}
	return err
}

// volumeOf is what the kernel is told: all of it is from the seal.
func volumeOf(device string, v *bundle.Verified) (media.Volume, error) {
	seal := v.Seal()
	g, err := seal.Geometry()
	if err != nil {
		return media.Volume{}, err
	}
	volume := media.Volume{Device: device, ID: v.Digest()}
	volume.DataBlocks, volume.Tree = g.DataBlocks, g.Tree()
	if volume.Root, err = digestOf(seal.Verity.Root); err == nil {
		volume.Salt, err = digestOf(seal.Verity.Salt)
	}
	return volume, err
}

// digestOf reads one of a seal's digests, whose form was checked with the seal.
func digestOf(text string) (digest [32]byte, err error) {
	n, err := hex.Decode(digest[:], []byte(text))
	if err == nil && n != len(digest) {
		err = fmt.Errorf("a digest of %d bytes in the seal", n)
	}
	return digest, err
}

type umountCmd struct {
	Dir string `arg:"" help:"Where the bundle is mounted." type:"path"`
}

func (c *umountCmd) Help() string {
	return `Ends what sallyport mount began, and leaves other mounts alone. Where nothing is mounted it has nothing to do, and
succeeds. What a mount left behind that was killed in the middle is cleared away, whatever the directory.

Example: sallyport umount /mnt`
}

type umountResult struct {
	Dir     string   `json:"dir"`
	Mounted bool     `json:"mounted"` // it was
	Damaged bool     `json:"damaged"`
	Held    bool     `json:"held"`
	Stale   []string `json:"stale"`
}

func (r *umountResult) text(w io.Writer) {
	if r.Mounted {
		fmt.Fprintf(w, "unmounted    %s\n", printable(r.Dir))
	} else {
		fmt.Fprintf(w, "nothing      is mounted on %s\n", printable(r.Dir))
	}
	if r.Damaged {
		fmt.Fprintln(w, "damaged      while it was mounted the medium gave something else than what was sealed: its readers got I/O errors; verify it again")
	}
	if r.Held {
		fmt.Fprintln(w, "still held   something else has the bundle mounted or open; the kernel lets go of it with its last user")
	}
	for _, name := range r.Stale {
		fmt.Fprintf(w, "cleared      %s, of a mount that was killed\n", printable(name))
	}
}

func (c *umountCmd) run(e *env) (result, error) {
	found, err := media.Unmount(e.ctx, c.Dir)
	switch {
	case errors.Is(err, media.ErrNotOurs):
		return nil, &usageError{err.Error()}
	case err != nil:
		return nil, pathError(err)
	}
	res := &umountResult{Dir: found.Dir, Mounted: found.Mounted, Damaged: found.Damaged, Held: found.Held, Stale: found.Stale}
	if res.Stale == nil {
		res.Stale = []string{}
	}
	return res, nil
}
