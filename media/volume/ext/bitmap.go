package ext

import (
	"errors"
	"fmt"

	"sallyport/media/volume"
)

// Flags of a group ("Block Group Descriptors", bg_flags).
const groupNoBitmap = 0x2 // the block bitmap isn't there, and nothing but the volume's own is in the group

// free says which of the blocks from at on is the first that is marked as free, if any is ("Block and Inode Bitmaps"). Where
// the bitmap can't be read, none is known to be.
func (f *FS) free(at, count int64) (n int64, found bool, err error) {
	for end := at + count; at < end; {
		group := (at - f.first) / f.perGroup
		start := f.first + group*f.perGroup
		stop := min(end, start+f.perGroup)
		b, err := f.bitmap(group)
		var damage *FormatError
		switch {
		case errors.As(err, &damage):
		case err != nil:
			return 0, false, err
		case b == nil:
			return at, true, nil
		default:
			ratio := f.cluster / f.block
			for n := at; n < stop; n += ratio - (n-start)%ratio {
				if bit := (n - start) / ratio; b[bit/8]>>(bit%8)&1 == 0 {
					return n, true, nil
				}
			}
		}
		at = stop
	}
	return 0, false, nil
}

// bitmap is that of a group's blocks, a bit for each cluster; nil for a group in which all are free.
func (f *FS) bitmap(group int64) ([]byte, error) {
	d, off, err := f.descriptor(group)
	if err != nil {
		return nil, err
	}
	if f.ro&(roGdtCsum|roMetadataCsum) != 0 && le.Uint16(d[18:])&groupNoBitmap != 0 {
		return nil, nil
	}
	b, err := f.get(f.place(d, 0, 32))
	if err != nil || !f.checksums || f.sound.has(group) {
		return b, err
	}
	got, want := sum(f.seed, b[:f.perGroup/(f.cluster/f.block)/8]), uint32(le.Uint16(d[24:]))
	if f.descSize >= 64 {
		want |= uint32(le.Uint16(d[56:])) << 16
	} else {
		got &= 0xFFFF
	}
	if err := f.sound.take(group, 1); err == nil && got != want {
		f.list.Add("bitmap-checksum", off+24, "", "the checksum of group %d's block bitmap is %08x, not %08x", group, got, want)
	}
	return b, nil
}

// checkFree tells of a file whose blocks are marked as free: whoever writes to the volume can give them to another. With a
// journal that wasn't replayed, that is nothing odd.
func (w *walker) checkFree(at, count int64) error {
	if w.warned || w.f.incompat&incompatRecover != 0 {
		return nil
	}
	n, found, err := w.f.free(at, count)
	if err != nil {
		return fmt.Errorf("%q: %w", w.path, err)
	}
	if found {
		w.warned = true
		if w.f.noted <= volume.MaxFindings {
			w.f.noted++
			w.f.list.Add("not-allocated", n*w.f.block, w.path, "block %d belongs to it and is marked as free", n)
		}
	}
	return nil
}
