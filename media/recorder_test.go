package media

import (
	"io/fs"
	"slices"
	"testing"
	"testing/fstest"
)

func TestRecorders(t *testing.T) {
	file := func(s string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(s)} }
	link := func(to string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(to), Mode: fs.ModeSymlink} }
	const usb = "devices/pci0000:00/0000:00:14.0/usb2/2-1/2-1:1.0/host6/target6:0:0/6:0:0:0"
	const ata = "devices/pci0000:00/0000:00:1f.2/ata2/host1/target1:0:0/1:0:0:0"
	sys := fstest.MapFS{
		"class/block/sr10":                link("../../" + usb + "/block/sr10"),
		"class/block/sr2":                 link("../../" + ata + "/block/sr2"),
		"class/block/sda":                 link("../../devices/x/host9/block/sda"),
		"class/block/srx":                 link("../../devices/x/host9/block/srx"),
		"class/block/sr3":                 link("../../devices/gone/block/sr3"),
		"class/block/sr4":                 link("../../devices/disk/host8/4:0:0:0/block/sr4"),
		usb + "/block/sr10/device":        link("../../../6:0:0:0"),
		usb + "/type":                     file("5\n"),
		usb + "/vendor":                   file("HL-DT-ST\n"),
		usb + "/model":                    file("DVDRAM GP65NB60 \n"),
		usb + "/rev":                      file("1.00\n"),
		usb + "/scsi_generic/sg4/dev":     file("21:4\n"),
		ata + "/block/sr2/device":         link("../../../1:0:0:0"),
		ata + "/type":                     file("5\n"),
		ata + "/vendor":                   file("QEMU    \n"),
		"devices/disk/host8/4:0:0:0/type": file("0\n"),
		"devices/disk/host8/4:0:0:0/block/sr4/device": link("../../../4:0:0:0"),
	}
	got, err := recorders(sys)
	if err != nil {
		t.Fatal(err)
	}
	want := []Recorder{
		{Device: "/dev/sr2", Vendor: "QEMU", Bus: "pci0000:00/0000:00:1f.2/ata2"},
		{Device: "/dev/sr10", Generic: "/dev/sg4", Vendor: "HL-DT-ST", Model: "DVDRAM GP65NB60", Rev: "1.00", Bus: "pci0000:00/0000:00:14.0/usb2/2-1/2-1:1.0", USB: true},
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if got, err := recorders(fstest.MapFS{}); len(got) != 0 || err != nil {
		t.Errorf("without any: %v, %v", got, err)
	}
	if _, err := Recorders(); err != nil {
		t.Error(err)
	}
}
