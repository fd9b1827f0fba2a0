package main

import (
	"slices"
	"testing"
)

func TestMediaDifferences(t *testing.T) {
	stick := listedDisk{Device: "/dev/sda", Place: "usb1/1-1", Serial: "A", Size: 8e9, BlockSize: 512, Uses: []string{}, Target: true}
	other := stick
	other.Serial = "B"
	mounted := stick
	mounted.Uses, mounted.Target, mounted.Because = []string{"sda1 is mounted on \"/mnt\""}, false, "it is in use"
	held := heldDevice{Name: "1-2", Port: "1-2", Claims: "storage + keyboard"}
	another := held
	another.Claims = "keyboard"
	list := func(d ...listedDisk) *mediaListResult { return &mediaListResult{Disks: d} }
	hold := func(h ...heldDevice) *mediaListResult { return &mediaListResult{Held: h} }
	for _, test := range []struct {
		name          string
		before, after *mediaListResult
		want          []string
	}{
		{"nothing", list(stick), list(stick), nil},
		{"plugged in", list(), list(stick), []string{"added    /dev/sda: -, 8000.0 MB, serial A, to write to"}},
		{"pulled out", list(stick), list(), []string{"removed  /dev/sda: -, 8000.0 MB, serial A, to write to"}},
		{"another at its place", list(stick), list(other), []string{"removed  /dev/sda: -, 8000.0 MB, serial A, to write to", "added    /dev/sda: -, 8000.0 MB, serial B, to write to"}},
		{"mounted", list(stick), list(mounted), []string{"changed  /dev/sda: -, 8000.0 MB, serial A, not to write to: it is in use"}},
		{"held", hold(), hold(held), []string{"added    held at port 1-2: -, claims to be storage + keyboard"}},
		{"let go", hold(held), hold(), []string{"removed  held at port 1-2: -, claims to be storage + keyboard"}},
		{"claims something else", hold(held), hold(another), []string{"removed  held at port 1-2: -, claims to be storage + keyboard", "added    held at port 1-2: -, claims to be keyboard"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			var got []string
			for _, v := range differences(test.before, test.after) {
				got = append(got, v.line())
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}
