package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"sallyport/bundle"
	"sallyport/burn"
	"sallyport/burn/drivesim"
	"sallyport/media/scsi"
)

type driveCmd struct {
	List  driveListCmd  `cmd:"" help:"Show this machine's optical drives."`
	Info  driveInfoCmd  `cmd:"" help:"Show what a drive can do, and the disc in it."`
	Serve driveServeCmd `cmd:"" help:"Serve a simulated recorder over iSCSI, for QEMU and for tests."`
}

// recorder is an optical drive, a real or a simulated one.
type recorder interface {
	burn.Drive
	Close() error
}

// realDrive is a drive of this machine, which lives in its time.
type realDrive struct {
	*scsi.Device
	burn.SystemClock
}

// openRecorder opens a drive to burn with: sim:DIR, or a device for this process alone. Close it when done. A simulated
// drive is made only in a directory that is new or empty.
func (e *env) openRecorder(name string) (recorder, error) {
	dir, simulated := strings.CutPrefix(name, "sim:")
	if simulated && !isSimulated(dir) {
		list, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, pathError(err)
		}
		if len(list) > 0 {
			return nil, usagef("%s holds no simulated drive, and other things: name a new directory", dir)
		}
	}
	return openDrive(name)
}

// openDrive opens a drive that is there, to read from it, or to ask it. Close it when done.
func openDrive(name string) (recorder, error) {
	dir, simulated := strings.CutPrefix(name, "sim:")
	switch {
	case name == "":
		return nil, usagef("drive \"\": name a device, as /dev/sr0, or sim:DIR, a simulated recorder")
	case !simulated:
		device, err := scsi.Open(name)
		if err != nil {
			return nil, deviceError(name, err)
		}
		return realDrive{Device: device}, nil
	case dir == "":
		return nil, usagef("drive %q: sim:DIR is a simulated recorder in the directory DIR", name)
	}
	drive, err := drivesim.Open(dir)
	if err != nil {
		return nil, pathError(err)
	}
	return drive, nil
}

// deviceError adds to what is wrong with a device what to do about it.
func deviceError(name string, err error) error {
	_, other := errors.AsType[*scsi.NotOpticalError](err)
	switch {
	case other, errors.Is(err, fs.ErrNotExist):
		return usagef("%v: sallyport drive list shows the drives", err)
	case errors.Is(err, scsi.ErrBusy):
		return fmt.Errorf("%w: end that first", err)
	}
	return pathError(err)
}

// isSimulated tells whether a drive was made in dir before.
func isSimulated(dir string) bool {
	_, err := os.Lstat(filepath.Join(dir, "state.json"))
	return err == nil
}

// openDisc opens the finished disc in a drive. All of it is read through the drive's own commands, so that nothing
// comes out of the kernel's cache.
func (e *env) openDisc(name string) (*source, error) {
	if dir, ok := strings.CutPrefix(name, "sim:"); ok && !isSimulated(dir) {
		return nil, usagef("%q holds no simulated drive: sallyport burn --drive sim:DIR makes one", dir)
	}
	drive, err := openDrive(name)
	if err != nil {
		return nil, err
	}
	disc, err := burn.OpenDisc(e.ctx, drive, burn.ReadOptions{})
	if err != nil {
		return nil, about(name, errors.Join(err, drive.Close()))
	}
	return &source{
		Source: bundle.Source{ReaderAt: disc, Size: disc.Size(), Medium: true, Gone: func(err error) bool {
			_, block := errors.AsType[*burn.ReadError](err)
			return !block
		}},
		close: func() error { return errors.Join(disc.Close(), drive.Close()) },
	}, nil
}
