package sbc

import (
	"errors"
	"testing"

	"sallyport/media/scsi"
	"sallyport/media/wipe"
	"sallyport/qemu-tests/usbredir"
)

// A disk behind a transport is a medium that can be wiped and tested.
var _ wipe.Medium = (*Disk)(nil)

func TestWipe(t *testing.T) {
	const size = 9 << 20
	s := newStick(size/512, 512)
	s.medium, s.max, s.unmap = usbredir.NewMemory(size), 120<<10, true
	rec, err := wipe.Run(t.Context(), s.open(t), wipe.Options{Key: [32]byte{1}, Strict: true, Discard: true})
	if err != nil || rec.Result != wipe.ResultDone || rec.Discard != wipe.DiscardDone || !rec.Capacity.Genuine {
		t.Errorf("%+v, %v", rec, err)
	}
	// A fake of 64 GB with 7 GB in it, blocks of 4,096 bytes.
	const claim, real = 64_000_000_000, 7_000_001_024 / 4096 * 4096
	s = newStick(claim/4096, 4096)
	s.medium, s.max = &usbredir.Fake{Medium: usbredir.NewMemory(real), Claim: claim, Lie: usbredir.Wraparound}, 1<<20
	v, err := wipe.Test(t.Context(), s.open(t), wipe.TestOptions{Key: [32]byte{1}, Flush: 1 << 20})
	if err != nil || v.Kind != wipe.Wraparound || v.RealSize != real {
		t.Errorf("%+v, %v", v, err)
	}
	// U7: write-protected, pulled out, silent, another size in the middle of it.
	for _, tt := range []struct {
		name   string
		change func(s *stick)
		is     error
	}{
		{"write-protected", func(s *stick) { s.protected = true }, ErrWriteProtected},
		{"pulled", func(s *stick) { s.fail = once(0x2A, -1, pulled) }, scsi.ErrGone},
		{"pulled while read back", func(s *stick) { s.fail = once(0x28, -1, pulled) }, scsi.ErrGone},
		{"silent", func(s *stick) { s.fail = once(0x2A, -1, stalled) }, scsi.ErrTimeout},
		{"other size", func(s *stick) {
			s.fail = func(cdb []byte) error {
				if cdb[0] == 0x35 {
					s.blocks++
				}
				return nil
			}
		}, nil},
		{"failed behind its back", func(s *stick) { s.fail = once(0x35, -1, late) }, scsi.WriteError},
	} {
		s := newStick(size/512, 512)
		s.medium = usbredir.NewMemory(size)
		tt.change(s)
		d := s.open(t)
		rec, err := wipe.Run(t.Context(), d, wipe.Options{Key: [32]byte{1}, Strict: true})
		if err == nil || tt.is != nil && !errors.Is(err, tt.is) || rec.Result != wipe.ResultFailed || rec.Capacity != nil {
			t.Errorf("%s: %v, %+v", tt.name, err, rec)
		}
		if c, ok := errors.AsType[*ChangedError](err); ok != (tt.is == nil) {
			t.Errorf("%s: changed: %v", tt.name, c)
		}
		if gone := tt.is == scsi.ErrGone; d.Gone(err) != gone {
			t.Errorf("%s: gone is %v", tt.name, !gone)
		}
	}
}
