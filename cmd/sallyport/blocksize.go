package main

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// blockSize is how many bytes a block of a block device has (BLKSSZGET).
func blockSize(name string) (int, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return 0, pathError(err)
	}
	defer f.Close()
	n, err := unix.IoctlGetInt(int(f.Fd()), unix.BLKSSZGET)
	if err != nil {
		return 0, fmt.Errorf("block size of %s: %w", name, err)
	}
	return n, nil
}
