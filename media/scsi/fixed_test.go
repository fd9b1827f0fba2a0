package scsi

import "testing"

func TestFixed(t *testing.T) {
	for _, want := range []SenseError{
		{Key: MediumError, ASC: 0x11, ASCQ: 0x05, Info: 12345, InfoValid: true},
		{Key: MediumError, ASC: 0x0C, Deferred: true},
		{Key: NotReady, ASC: 0x04, ASCQ: 0x08, Progress: 0x1234, ProgressValid: true},
		{Key: RecoveredError, ASC: 0x73, ASCQ: 0x01, Info: 1<<32 - 1, InfoValid: true, Deferred: true},
	} {
		got, err := ParseSense(want.Fixed())
		if err != nil || *got != want {
			t.Errorf("%+v came back as %+v, %v", want, got, err)
		}
	}
	far := SenseError{Key: MediumError, ASC: 0x11, Info: 1 << 32, InfoValid: true}
	if got, err := ParseSense(far.Fixed()); err != nil || got.InfoValid {
		t.Errorf("an LBA of 33 bits came back as %+v, %v", got, err)
	}
}
