package usb

import (
	"bufio"
	"bytes"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestLsusb compares what Parse says with what lsusb says, which shows each device on a mock of sysfs.
func TestLsusb(t *testing.T) {
	names := slices.Sorted(maps.Keys(samples))
	var record bytes.Buffer
	for i, name := range names {
		d, err := Parse(samples[name].descriptors)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&record, "P: /devices/pci0000:00/0000:00:14.0/usb1/1-%d\nE: SUBSYSTEM=usb\nE: DEVTYPE=usb_device\nE: DEVNAME=/dev/bus/usb/001/%03[1]d\nE: BUSNUM=001\nE: DEVNUM=%03[1]d\nN: bus/usb/001/%03[1]d\n", i+1)
		fmt.Fprintf(&record, "H: descriptors=%x\n", samples[name].descriptors)
		fmt.Fprintf(&record, "A: busnum=1\\n\nA: devnum=%d\\n\nA: speed=480\\n\nA: bConfigurationValue=%d\\n\nA: bNumConfigurations=%d\\n\n\n", i+1, d.Configurations[0].Value, len(d.Configurations))
	}
	file := filepath.Join(t.TempDir(), "devices.umockdev")
	if err := os.WriteFile(file, record.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	c := exec.Command("umockdev-run", "-d", file, "--", "lsusb", "-v")
	var stderr bytes.Buffer
	c.Stderr = &stderr
	out, err := c.Output() // it also asks the devices, which don't answer
	if len(out) == 0 {
		t.Fatalf("umockdev-run lsusb: %v\n%s", err, &stderr)
	}
	shown := parseLsusb(t, string(out))
	for i, name := range names {
		d, err := Parse(samples[name].descriptors)
		if err != nil {
			t.Fatal(err)
		}
		want := &Device{USB: d.USB, Function: d.Function, Vendor: d.Vendor, Product: d.Product, Release: d.Release, Configurations: d.Configurations}
		for _, c := range want.Configurations {
			for j := range c.AltSettings {
				c.AltSettings[j].Offset = 0 // lsusb doesn't say
			}
		}
		if got := shown[i+1]; !reflect.DeepEqual(got, want) {
			t.Errorf("%s:\nlsusb %+v\nhere  %+v", name, got, want)
		}
	}
	t.Logf("%d devices", len(shown))
}

// parseLsusb reads back what lsusb -v shows, by device number.
func parseLsusb(t *testing.T, out string) map[int]*Device {
	list := make(map[int]*Device)
	var d *Device
	number := func(s string) uint64 {
		n, err := strconv.ParseUint(s, 0, 16)
		if err != nil {
			t.Fatalf("lsusb shows %q", s)
		}
		return n
	}
	bcd := func(s string) uint16 {
		n, err := strconv.ParseUint(strings.Replace(s, ".", "", 1), 16, 16)
		if err != nil {
			t.Fatalf("lsusb shows %q", s)
		}
		return uint16(n)
	}
	for lines := bufio.NewScanner(strings.NewReader(out)); lines.Scan(); {
		f := strings.Fields(lines.Text())
		if len(f) == 6 && f[0] == "Bus" || len(f) > 6 && f[0] == "Bus" && f[2] == "Device" {
			n, err := strconv.Atoi(strings.TrimSuffix(f[3], ":"))
			if err != nil {
				t.Fatal(err)
			}
			d = new(Device)
			list[n] = d
			continue
		}
		if len(f) < 2 || d == nil {
			continue
		}
		var c *Configuration
		if n := len(d.Configurations); n > 0 {
			c = &d.Configurations[n-1]
		}
		setting := func() *AltSetting { return &c.AltSettings[len(c.AltSettings)-1] }
		function := func() *Association { return &c.Associations[len(c.Associations)-1] }
		endpoint := func() *Endpoint { s := setting(); return &s.Endpoints[len(s.Endpoints)-1] }
		switch f[0] {
		case "bcdUSB":
			d.USB = bcd(f[1])
		case "bcdDevice":
			d.Release = bcd(f[1])
		case "idVendor":
			d.Vendor = uint16(number(f[1]))
		case "idProduct":
			d.Product = uint16(number(f[1]))
		case "bDeviceClass":
			d.Function.Class = uint8(number(f[1]))
		case "bDeviceSubClass":
			d.Function.SubClass = uint8(number(f[1]))
		case "bDeviceProtocol":
			d.Function.Protocol = uint8(number(f[1]))
		case "bConfigurationValue":
			d.Configurations = append(d.Configurations, Configuration{Value: uint8(number(f[1]))})
		case "bFirstInterface":
			c.Associations = append(c.Associations, Association{First: uint8(number(f[1]))})
		case "bInterfaceCount":
			function().Count = uint8(number(f[1]))
		case "bFunctionClass":
			function().Function.Class = uint8(number(f[1]))
		case "bFunctionSubClass":
			function().Function.SubClass = uint8(number(f[1]))
		case "bFunctionProtocol":
			function().Function.Protocol = uint8(number(f[1]))
		case "bInterfaceNumber":
			c.AltSettings = append(c.AltSettings, AltSetting{Interface: uint8(number(f[1]))})
		case "bAlternateSetting":
			setting().Alternate = uint8(number(f[1]))
		case "bInterfaceClass":
			setting().Function.Class = uint8(number(f[1]))
		case "bInterfaceSubClass":
			setting().Function.SubClass = uint8(number(f[1]))
		case "bInterfaceProtocol":
			setting().Function.Protocol = uint8(number(f[1]))
		case "bEndpointAddress":
			s := setting()
			s.Endpoints = append(s.Endpoints, Endpoint{Address: uint8(number(f[1]))})
		case "bmAttributes":
			if c != nil && len(c.AltSettings) > 0 && len(setting().Endpoints) > 0 && endpoint().MaxPacket == 0 {
				endpoint().Attributes = uint8(number(f[1]))
			}
		case "wMaxPacketSize":
			endpoint().MaxPacket = uint16(number(f[1]))
		}
	}
	return list
}
