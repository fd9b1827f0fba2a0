package main

import (
	"errors"
	"fmt"

	"sallyport/bundle"
	"sallyport/media/carry"
	"sallyport/media/sbc"
	"sallyport/media/scsi"
)

// surplusFlag says what is read behind the image on a medium that is larger.
type surplusFlag struct {
	Surplus string `help:"What to read of a stick behind the bundle, where all has to be zero: full, or sampled, which takes seconds and can miss something." enum:"full,sampled" default:"full"`
}

func (f surplusFlag) sampled() bool { return f.Surplus == "sampled" }

// openStick opens a disk by its generic node, so that nothing in the kernel but sg has to do with it. Close the device
// when done.
func (e *env) openStick(name string) (*sbc.Disk, *scsi.Device, error) {
	device, err := scsi.OpenDisk(name)
	if err != nil {
		return nil, nil, err
	}
	disk, err := sbc.OpenDisk(e.ctx, device)
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("open %s: %w", name, err), device.Close())
	}
	return disk, device, nil
}

// openCarrier opens a stick that carries a bundle, as openStick does.
func (e *env) openCarrier(name string) (*source, error) {
	disk, device, err := e.openStick(name)
	if err != nil {
		return nil, err
	}
	return &source{
		Source: bundle.Source{ReaderAt: disk, Size: disk.Size(), Medium: true, Gone: stickGone},
		block:  disk.BlockSize(), close: device.Close,
	}, nil
}

// stickGone tells which errors of a disk aren't about the blocks that were to be read: all but a medium error.
func stickGone(err error) bool {
	_, block := errors.AsType[*sbc.MediumError](err)
	return !block
}

// checkBlocks refuses a medium whose blocks are larger than a bundle's: what lies on it was never written as it should be.
func (s *source) checkBlocks() error {
	if s.block > bundle.BlockSize {
		return &carry.RefusedError{Code: carry.CodeBlockSize, Detail: fmt.Sprintf("it has blocks of %d bytes, and a stick that carries a bundle has blocks of 512", s.block)}
	}
	return nil
}

// enrolDir is where a state directory has its enrolments.
const enrolDir = "media"
