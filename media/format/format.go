// Package format makes what a delivery stick holds: a GPT with one partition, and in it a file system that people's
// machines read: FAT32, exFAT or ext4.
//
// It never sees the stick. The whole layout is made in a sparse file, by go-diskfs and by exfatprogs' mkfs.exfat, and
// Copy writes the file's data extents to the medium, whose other blocks a wipe has already made zero. So no program but
// this one needs the device, and the kernel none of its drivers for disks.
package format

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"

	"github.com/diskfs/go-diskfs/backend/file"
	"github.com/diskfs/go-diskfs/filesystem/ext4"
	"github.com/diskfs/go-diskfs/filesystem/fat32"
	"github.com/diskfs/go-diskfs/partition/gpt"
	"github.com/google/uuid"
	"golang.org/x/sys/unix"
)

// Kind is a file system.
type Kind string

// The file systems that Build makes.
const (
	FAT32 Kind = "fat32"
	ExFAT Kind = "exfat"
	Ext4  Kind = "ext4"
)

// Kinds are all of them.
var Kinds = []Kind{FAT32, ExFAT, Ext4}

const (
	// MinSize is the smallest medium, in bytes.
	MinSize = 64 << 20
	// MaxSize is the largest, in bytes: a stick sold as 256 GB, with room for makers who count generously. go-diskfs
	// panics on FAT32 of 512 GB.
	MaxSize = 256 << 30

	align = 1 << 20 // of the partition, in bytes
)

// Volume is what to make.
type Volume struct {
	Kind  Kind
	Label string // at most 11 of A–Z, 0–9, - and _, which all three file systems can hold
	// ID makes the medium's and the partition's GUIDs, and the file system's where its maker takes one. Random, but for
	// tests.
	ID [16]byte
}

// ErrNoTool: mkfs.exfat isn't there.
var ErrNoTool = errors.New("mkfs.exfat is not installed (package exfatprogs)")

// CheckLabel refuses what can't be a label.
func CheckLabel(label string) error {
	if len(label) > 11 {
		return fmt.Errorf("label %q has %d characters, at most 11", label, len(label))
	}
	for _, c := range []byte(label) {
		if (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_' {
			return fmt.Errorf("label %q: only A-Z, 0-9, - and _", label)
		}
	}
	return nil
}

// Partition is where the one partition of a medium of size bytes with blocks of block bytes lies, in bytes: it begins at
// 1 MiB and ends on a MiB before the second copy of the table.
func Partition(size int64, block int) (start, length int64, err error) {
	if block != 512 && block != 4096 {
		return 0, 0, fmt.Errorf("a medium with blocks of %d bytes, neither 512 nor 4096", block)
	}
	if size < MinSize || size > MaxSize {
		return 0, 0, fmt.Errorf("a medium of %d bytes: from %d MiB to %d GiB can be formatted", size, MinSize>>20, MaxSize>>30)
	}
	if size%int64(block) != 0 {
		return 0, 0, fmt.Errorf("a medium of %d bytes isn't a multiple of its blocks of %d", size, block)
	}
	table := int64(block) + 128*128 // header and 128 entries of 128 bytes (UEFI 2.10, 5.3.1)
	return align, (size-table)/align*align - align, nil
}

// Build makes the layout of a medium of size bytes with blocks of block bytes in f, an empty file, which becomes a sparse
// one of that size.
func Build(ctx context.Context, f *os.File, size int64, block int, v Volume) (err error) {
	if err := CheckLabel(v.Label); err != nil {
		return err
	}
	start, length, err := Partition(size, block)
	if err != nil {
		return err
	}
	defer func() {
		if r := recover(); r != nil { // the library's
			err = fmt.Errorf("make %s on %d bytes: %v", v.Kind, size, r)
		}
	}()
	if err := f.Truncate(size); err != nil {
		return err
	}
	switch v.Kind {
	case FAT32:
		if _, err = fat32.Create(file.New(f, false), length, start, int64(block), v.Label, true); err == nil {
			err = v.number(f, start, block)
		}
	case Ext4:
		id := v.uuid("file system")
		_, err = ext4.Create(file.New(f, false), length, start, 512, &ext4.Params{
			UUID: &id, VolumeName: v.Label, SectorsPerBlock: 8,
			InodeRatio: 64 << 10, // the library writes every inode table out
			// Its resize inode is one that e2fsck doesn't take from 30 GB on, and none below some 512 MB.
			Features: []ext4.FeatureOpt{ext4.WithFeatureReservedGDTBlocksForExpansion(false)},
		})
	case ExFAT:
		err = exfat(ctx, f, start, length, block, v.Label)
	default:
		return fmt.Errorf("no file system %q: one of %v", v.Kind, Kinds)
	}
	if err != nil {
		return fmt.Errorf("make %s on %d bytes: %w", v.Kind, size, err)
	}
	if err := table(f, size, block, start, length, v); err != nil {
		return fmt.Errorf("make the partition table: %w", err)
	}
	return nil
}

// uuid is a random-looking GUID (RFC 9562, version 8) for one thing on the medium.
func (v Volume) uuid(of string) uuid.UUID {
	sum := sha256.Sum256(append(v.ID[:], of...))
	id := uuid.UUID(sum[:16])
	id[6], id[8] = id[6]&0x0f|0x80, id[8]&0x3f|0x80
	return id
}

// number gives FAT32 a volume number (BS_VolID), by which Windows tells volumes apart: the library leaves it zero.
func (v Volume) number(f *os.File, start int64, block int) error {
	const place, backup = 67, 6 // bytes into the boot sector, and the sector of its copy (BPB_BkBootSec)
	id := v.uuid("volume number")
	for _, sector := range []int64{0, backup} {
		if _, err := f.WriteAt(id[:4], start+sector*int64(block)+place); err != nil {
			return err
		}
	}
	return nil
}

func table(f *os.File, size int64, block int, start, length int64, v Volume) error {
	kind := gpt.MicrosoftBasicData
	if v.Kind == Ext4 {
		kind = gpt.LinuxFilesystem
	}
	first := uint64(start / int64(block))
	t := &gpt.Table{
		LogicalSectorSize: block, PhysicalSectorSize: block, ProtectiveMBR: true, GUID: v.uuid("disk").String(),
		Partitions: []*gpt.Partition{{
			Index: 1, Start: first, End: first + uint64(length/int64(block)) - 1, Size: uint64(length), Type: kind,
			Name: v.Label, GUID: v.uuid("partition").String(),
		}},
	}
	return t.Write(f, size)
}

// exfat has mkfs.exfat make the file system in a file of its own, since it takes no offset.
func exfat(ctx context.Context, f *os.File, start, length int64, block int, label string) error {
	if block != 512 {
		return fmt.Errorf("mkfs.exfat makes blocks of 512 bytes in a file, and the medium's are of %d: take fat32", block)
	}
	program, err := exec.LookPath("mkfs.exfat")
	if err != nil {
		return ErrNoTool
	}
	part, err := os.CreateTemp("", "sallyport-exfat-*")
	if err != nil {
		return err
	}
	defer part.Close()
	if err := os.Remove(part.Name()); err != nil { // reached by its descriptor from now on
		return err
	}
	if err := part.Truncate(length); err != nil {
		return err
	}
	args := []string{"/proc/self/fd/3"}
	if label != "" {
		args = append([]string{"-L", label}, args...)
	}
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.ExtraFiles = []*os.File{part}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("mkfs.exfat: %w: %s", err, strings.ReplaceAll(strings.TrimSpace(string(out)), "\n", "; "))
	}
	return extents(part, func(offset, n int64) error {
		_, err := io.Copy(io.NewOffsetWriter(f, start+offset), io.NewSectionReader(part, offset, n))
		return err
	})
}

// extents calls visit for each run of data in f: SEEK_DATA and SEEK_HOLE of lseek(2).
func extents(f *os.File, visit func(offset, n int64) error) error {
	for at := int64(0); ; {
		data, err := unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("seek data from %d: %w", at, err)
		}
		if at, err = unix.Seek(int(f.Fd()), data, unix.SEEK_HOLE); err != nil {
			return fmt.Errorf("seek the end of data from %d: %w", data, err)
		}
		if err := visit(data, at-data); err != nil {
			return err
		}
	}
}

// pieceSize is what Copy writes at a time, in bytes; a multiple of every block size.
const pieceSize = 1 << 20

// Medium is what is formatted. Offsets and lengths are multiples of its blocks.
type Medium interface {
	io.ReaderAt
	io.WriterAt
	Sync() error
}

// Copy writes the data extents of f, which Build made, to a medium with blocks of block bytes, syncs it and reads all of
// them back. progress, which may be nil, is told the bytes that were written and then read back, of all that will be.
// Everything else on the medium must be zero already. It returns the bytes written.
func Copy(ctx context.Context, f *os.File, m Medium, block int, progress func(done, total int64)) (int64, error) {
	type piece struct{ at, n int64 }
	var pieces []piece
	total := int64(0)
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, err
	}
	if err := extents(f, func(at, n int64) error {
		end := min((at+n+int64(block)-1)/int64(block)*int64(block), size)
		for at -= at % int64(block); at < end; at += pieceSize {
			p := piece{at, min(pieceSize, end-at)}
			pieces, total = append(pieces, p), total+p.n
		}
		return nil
	}); err != nil {
		return 0, err
	}
	if progress == nil {
		progress = func(int64, int64) {}
	}
	want, got := make([]byte, pieceSize), make([]byte, pieceSize)
	written := int64(0)
	for _, p := range pieces {
		if err := ctx.Err(); err != nil {
			return written, err
		}
		if _, err := f.ReadAt(want[:p.n], p.at); err != nil {
			return written, err
		}
		if _, err := m.WriteAt(want[:p.n], p.at); err != nil {
			return written, fmt.Errorf("write %d bytes at %d: %w", p.n, p.at, err)
		}
		written += p.n
		progress(written, 2*total)
	}
	if err := m.Sync(); err != nil {
		return written, fmt.Errorf("sync: %w", err)
	}
	read := int64(0)
	for _, p := range pieces {
		if err := ctx.Err(); err != nil {
			return written, err
		}
		if _, err := f.ReadAt(want[:p.n], p.at); err != nil {
			return written, err
		}
		if _, err := m.ReadAt(got[:p.n], p.at); err != nil {
			return written, fmt.Errorf("read back %d bytes at %d: %w", p.n, p.at, err)
		}
		for i := range p.n {
			if want[i] != got[i] {
				return written, fmt.Errorf("read back: byte %d is %#02x, and %#02x was written", p.at+i, got[i], want[i])
			}
		}
		read += p.n
		progress(total+read, 2*total)
	}
	return written, nil
}
