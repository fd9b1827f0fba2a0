package drivesim

import (
	"bytes"
	"testing"
	"time"

	"sallyport/burn/mmc"
)

// Plain sequential writing, closing and reading back on each medium.
func TestProfiles(t *testing.T) {
	for _, tt := range []struct {
		profile  mmc.Profile
		capacity uint32
		page     byte // write type, where page 05h says it; FFh: it doesn't
		close    []byte
		last     uint32 // LBA that the capacity says
	}{
		{mmc.DVDR, 2298496, mmc.WriteIncremental, []byte{1, 2}, 95},
		{mmc.DVDPlusR, 2295104, 0xFF, []byte{1, 6}, 95},
		{mmc.CDR, 359844, mmc.WriteTAO, []byte{1, 2}, 97},
		{mmc.BDR, 12219392, 0xFF, []byte{1, 6}, 95},
	} {
		t.Run(tt.profile.String(), func(t *testing.T) {
			d, _ := newDrive(t, Config{Profile: tt.profile, SpinUp: time.Second})
			settle(t, d)
			config, err := mmc.GetConfiguration{}.Send(t.Context(), d)
			if err != nil || config.Profile != tt.profile {
				t.Fatalf("%+v, %v", config, err)
			}
			track, err := mmc.ReadTrackInformation{AddressType: 1, Address: 1}.Send(t.Context(), d)
			if err != nil || track.Free != tt.capacity || !track.Blank {
				t.Fatalf("%+v, %v", track, err)
			}
			if tt.page != 0xFF {
				setup(t, d, tt.page, 0, true)
			}
			p := payload(96)
			for lba := 0; lba < 96; lba += 32 {
				if got := write(d, uint32(lba), p[lba*blockSize:(lba+32)*blockSize]); got != "" {
					t.Fatal(got)
				}
			}
			for _, function := range tt.close {
				if err := (mmc.CloseTrackSession{Function: function, Track: 1}).Send(t.Context(), d); err != nil {
					t.Fatal(err)
				}
			}
			disc, err := mmc.ReadDiscInformation{}.Send(t.Context(), d)
			if err != nil || disc.Status != mmc.DiscComplete || disc.LastSession != mmc.SessionComplete || disc.Sessions != 1 {
				t.Errorf("%+v, %v", disc, err)
			}
			if c, err := (mmc.ReadCapacity{}).Send(t.Context(), d); err != nil || c.LastLBA != tt.last {
				t.Errorf("%+v, %v", c, err)
			}
			if b, got := read(d, 0, 96); got != "" || !bytes.Equal(b, p) {
				t.Errorf("reads differently: %q", got)
			}
		})
	}
}
