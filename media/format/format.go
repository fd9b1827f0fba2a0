// Package format makes what a delivery stick holds: a GPT with one partition, and in it a file system that people's
// machines read: FAT32, exFAT or ext4.
//
// It never sees the stick. The whole layout is made in a sparse file, and Copy writes the file's data extents to the
// medium, whose other blocks a wipe has already made zero. So no program but this one needs the device, and the kernel
// none of its drivers for disks.
//
// An empty FAT32 is go-diskfs' work, an empty exFAT that of exfatprogs' mkfs.exfat, ext4 with all that is in it that of
// e2fsprogs' mke2fs. Files are put into FAT32 and exFAT here: go-diskfs' writer makes directories that fsck.fat doesn't
// take, and takes five seconds for a thousand files; its ext4 has a resize inode that e2fsck doesn't take from 30 GB on,
// and can't write an empty file. For exFAT there is none.
package format

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"

	"github.com/diskfs/go-diskfs/backend/file"
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

// tools are the programs that make what isn't made here, and their packages.
var tools = map[Kind][2]string{ExFAT: {"mkfs.exfat", "exfatprogs"}, Ext4: {"mke2fs", "e2fsprogs"}}

// Ready says whether the program is there that makes a file system, for those that need one.
func Ready(kind Kind) error {
	tool, needed := tools[kind]
	if !needed {
		return nil
	}
	if _, err := exec.LookPath(tool[0]); err != nil {
		return fmt.Errorf("%s is not installed (package %s)", tool[0], tool[1])
	}
	return nil
}

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
// one of that size, with a tree in it. Errors: *UnfitError, *FullError, those of the tree and of the programs.
func Build(ctx context.Context, f *os.File, size int64, block int, v Volume, tree Tree) (err error) {
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
	files, err := tree.plan(ctx, v.Kind)
	if err != nil {
		return err
	}
	switch v.Kind {
	case FAT32:
		if _, err = fat32.Create(file.New(f, false), length, start, int64(block), v.Label, true); err == nil {
			err = v.mend(f, start, block)
		}
		if err == nil {
			err = fillFAT(ctx, f, start, block, tree.FS, files)
		}
	case ExFAT:
		if err = exfat(ctx, f, start, length, block, v.Label); err == nil {
			err = fillExFAT(ctx, f, start, tree.FS, files)
		}
	case Ext4:
		err = v.ext4(ctx, f, start, length, tree.Dir, files)
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

// mend gives FAT32 a volume number (BS_VolID), by which Windows tells volumes apart, where the library leaves it zero, and
// takes from its sectors (BPB_TotSec32) those of a last cluster that the library leaves the FAT no entry for.
func (v Volume) mend(f *os.File, start int64, block int) error {
	const backup = 6 // the sector of the boot sector's copy (BPB_BkBootSec)
	boot, le := make([]byte, 512), binary.LittleEndian
	if _, err := f.ReadAt(boot, start); err != nil {
		return err
	}
	sectors, perCluster, fat := le.Uint32(boot[32:]), uint32(boot[13]), le.Uint32(boot[36:])
	if perCluster == 0 {
		return errors.New("a FAT32 with clusters of nothing")
	}
	meta := uint32(le.Uint16(boot[14:])) + 2*fat
	entries := uint64(fat) * uint64(block) / 4
	if clusters := uint64((sectors - meta) / perCluster); clusters+2 > entries {
		sectors = meta + uint32(entries-2)*perCluster
	}
	id := v.uuid("volume number")
	le.PutUint32(boot[32:], sectors)
	copy(boot[67:], id[:4])
	for _, sector := range []int64{0, backup} {
		if _, err := f.WriteAt(boot, start+sector*int64(block)); err != nil {
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
	if err := Ready(ExFAT); err != nil {
		return err
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
	if err := runTool(ctx, part, ExFAT, args...); err != nil {
		return err
	}
	return extents(part, func(offset, n int64) error {
		_, err := io.Copy(io.NewOffsetWriter(f, start+offset), io.NewSectionReader(part, offset, n))
		return err
	})
}

// runTool runs a file system's program on a file, which it sees as /proc/self/fd/3.
func runTool(ctx context.Context, f *os.File, kind Kind, args ...string) error {
	name := tools[kind][0]
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.ExtraFiles = []*os.File{f}
	cmd.Env = []string{"LC_ALL=C", "PATH=" + os.Getenv("PATH"), "MKE2FS_CONFIG=/dev/null"}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, strings.ReplaceAll(strings.TrimSpace(string(out)), "\n", "; "))
	}
	return nil
}

// ext4Features are those of Linux 4.3 and later, whatever the tool's own are. There is no resize_inode: nothing grows here.
const ext4Features = "none,has_journal,ext_attr,dir_index,filetype,extent,64bit,flex_bg,sparse_super,large_file,huge_file,dir_nlink,extra_isize,metadata_csum"

// ext4 has mke2fs make the file system with all that is in a directory, "" for none.
func (v Volume) ext4(ctx context.Context, f *os.File, start, length int64, dir string, files *node) error {
	const block = 4096
	if err := Ready(Ext4); err != nil {
		return err
	}
	if need := files.bytes(block); need > length {
		return &FullError{Need: need, Have: length}
	}
	// Inode tables and the journal aren't written out: all that isn't data is zero on the medium.
	extended := fmt.Sprintf("offset=%d,nodiscard,lazy_itable_init=1,lazy_journal_init=1,root_owner=0:0,hash_seed=%s", start, v.uuid("hash seed"))
	args := []string{
		"-q", "-F", "-t", "ext4", "-O", ext4Features, "-b", fmt.Sprint(block), "-I", "256", "-m", "0", "-e", "remount-ro",
		"-N", fmt.Sprint(max(length/(64<<10), files.count()*11/10+64)), "-U", v.uuid("file system").String(), "-E", extended,
	}
	if v.Label != "" {
		args = append(args, "-L", v.Label)
	}
	if dir != "" {
		args = append(args, "-d", dir)
	}
	err := runTool(ctx, f, Ext4, append(args, "/proc/self/fd/3", fmt.Sprint(length/block))...)
	if err != nil && strings.Contains(err.Error(), "Could not allocate block") {
		return &FullError{Need: files.bytes(block), Have: length, Err: err}
	}
	return err
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
