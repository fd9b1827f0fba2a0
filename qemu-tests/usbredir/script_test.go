package usbredir

import (
	"encoding/binary"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"
)

// TestScriptFaces are descriptors of the devices that scripts describe: classes of all settings, and the endpoints.
func TestScriptFaces(t *testing.T) {
	for _, tt := range []struct{ script, want string }{
		{"", "0.0 08:06:50 [81 01]"},
		{"interface storage\ninterface keyboard", "0.0 08:06:50 [81 01], 1.0 03:01:01 [82]"},
		{"alternate 0 keyboard", "0.0 08:06:50 [81 01], 0.1 03:01:01 [82]"},
		{"interface network", "0.0 02:06:00 [81], 1.0 0a:00:00 [82 01]"},
		{"interface serial\ninterface 08:06:50", "0.0 02:02:01 [81], 1.0 0a:00:00 [82 01], 2.0 08:06:50 [83 02]"},
		{"interface mtp", "0.0 06:01:01 [81 01 82]"},
		{"interface uas\ninterface vendor\ninterface mouse\ninterface e0:01:01", "0.0 08:06:62 [81 01], 1.0 ff:ff:ff [82 02], 2.0 03:01:02 [83], 3.0 e0:01:01 [84 03]"},
		{"class 09:00:01\ninterface hub", "0.0 09:00:00 [81]"},
		{"configuration\ninterface keyboard", "0.0 08:06:50 [81 01]; 0.0 03:01:01 [81]"},
	} {
		stick, err := Parse(strings.NewReader(tt.script), nil)
		if err != nil {
			t.Errorf("%q: %v", tt.script, err)
			continue
		}
		for _, speed := range []Speed{FullSpeed, HighSpeed} {
			f := stick.Face()
			f.Speed = speed
			if got := describe(t, f.Descriptors()); got != tt.want {
				t.Errorf("%q: %s, want %s", tt.script, got, tt.want)
			}
		}
	}
}

// describe reads well-formed descriptors without the code that made them.
func describe(t *testing.T, b []byte) string {
	t.Helper()
	if len(b) < 18 || b[0] != 18 || b[1] != 1 {
		t.Fatalf("device descriptor % x", b)
	}
	configurations := int(b[17])
	b = b[18:]
	var all []string
	for range configurations {
		total := int(binary.LittleEndian.Uint16(b[2:]))
		var settings []string
		ends := []string{}
		flush := func() {
			if n := len(settings); n > 0 {
				settings[n-1] += " [" + strings.Join(ends, " ") + "]"
			}
			ends = nil
		}
		numbers := map[byte]bool{}
		for i := 9; i < total; i += int(b[i]) {
			switch b[i+1] {
			case 4:
				flush()
				numbers[b[i+2]] = true
				settings = append(settings, fmt.Sprintf("%d.%d %02x:%02x:%02x", b[i+2], b[i+3], b[i+5], b[i+6], b[i+7]))
			case 5:
				ends = append(ends, fmt.Sprintf("%02x", b[i+2]))
			}
		}
		flush()
		if int(b[4]) != len(numbers) {
			t.Errorf("bNumInterfaces is %d of %d", b[4], len(numbers))
		}
		all = append(all, strings.Join(settings, ", "))
		b = b[total:]
	}
	if len(b) > 0 {
		t.Errorf("%d bytes more than configurations", len(b))
	}
	return strings.Join(all, "; ")
}

// TestMalformed are the configuration descriptors of devices that get them wrong.
func TestMalformed(t *testing.T) {
	wrong := map[string]string{}
	for how, check := range map[string]func(b []byte) bool{
		ZeroLength:     func(b []byte) bool { return len(b) == 32 && b[2] == 32 && b[9] == 0 && b[10] == 4 },
		TooLong:        func(b []byte) bool { return len(b) == 32 && b[25] == 255 && b[26] == 5 },
		TotalShort:     func(b []byte) bool { return len(b) == 32 && b[2] == 25 },
		TotalLong:      func(b []byte) bool { return len(b) == 32 && b[2] == 96 },
		ManyInterfaces: func(b []byte) bool { return len(b) == 585 && b[4] == 64 && b[2] == 73 && b[3] == 2 && b[578] == 63 },
		CountLies:      func(b []byte) bool { return len(b) == 32 && b[4] == 0 },
		Truncated:      func(b []byte) bool { return len(b) == 29 && b[2] == 29 && b[25] == 7 },
	} {
		stick, err := Parse(strings.NewReader("malformed "+how), nil)
		if err != nil {
			t.Fatal(err)
		}
		f := stick.Face()
		if b := f.ConfigurationDescriptor(0); !check(b) {
			wrong[how] = fmt.Sprintf("% x", b)
		}
		if len(stick.LUNs) != 1 || len(stick.Active()) != 1 {
			t.Errorf("%s: %d logical units behind %d interfaces", how, len(stick.LUNs), len(stick.Active()))
		}
	}
	for how, b := range wrong {
		t.Errorf("%s: %s", how, b)
	}
}

// TestScript reads every word that a script may have.
func TestScript(t *testing.T) {
	stick, err := Parse(strings.NewReader(`# all of it
		speed full
		id 0781:5567 0126   # SanDisk's
		class 00:00:00
		manufacturer Sandy Disk Ltd.
		product A  Stick
		serial 4C53
		types whoami
		lun disk 7M
		block 512
		fake chain 64M wrap 16M noise
		cache 1M
		change 4K 512 3
		protected
		write-back
		fixed
		later capacity 2 block 4096 size 128M
		later plug block 512
		lun cd none
		turn reset 2
		serial
		interface keyboard
		read lba 10-19 after 1000 from 2 sense 3/11/00
		any always slow 20ms
		write lba 7 gone
		inquiry nth 3 reply 8 4142
		inquiry short 5
	`), nil)
	if err != nil {
		t.Fatal(err)
	}
	if f := stick.Faces[0]; len(stick.Faces) != 2 || f.Speed != FullSpeed || f.Vendor != 0x781 || f.Product != 0x5567 || f.Version != 0x126 ||
		f.Manufacturer != "Sandy Disk Ltd." || f.Name != "A  Stick" || f.Serial != "4C53" || stick.Faces[1].Serial != "" || stick.Faces[1].Vendor != 0x781 {
		t.Errorf("faces %+v", stick.Faces)
	}
	if stick.Types != "whoami\n" || !reflect.DeepEqual(stick.Turns, []Turn{{OnReset, 2}}) {
		t.Errorf("types %q, turns %+v", stick.Types, stick.Turns)
	}
	l := stick.LUNs[0]
	change, ok1 := l.Medium.(*Changing)
	cache, ok2 := change.Medium.(*Cache)
	fake, ok3 := cache.Medium.(*Fake)
	if len(stick.LUNs) != 2 || !ok1 || !ok2 || !ok3 || fake.Real() != 7<<20 || fake.Claim != 64<<20 || fake.Wrap != 16<<20 || !fake.Noise || fake.Lie != Chain ||
		cache.Bytes != 1<<20 || change.Offset != 4096 || change.Length != 512 || change.From != 3 {
		t.Errorf("medium %+v", l.Medium)
	}
	if !l.Protected || !l.WriteBack || !l.Fixed || l.BlockSize != 512 || l.Serial != "4C53" || stick.LUNs[1].Type != CD || stick.LUNs[1].Medium != nil {
		t.Errorf("logical units %+v, %+v", l, stick.LUNs[1])
	}
	if want := []Geometry{{Turn{OnCapacity, 2}, 4096, 128 << 20}, {Turn{On: OnPlug}, 512, 0}}; !reflect.DeepEqual(l.Later, want) {
		t.Errorf("later %+v", l.Later)
	}
	if want := []Fault{
		{Command: "read", LBA: 10, Blocks: 10, After: 1000, Nth: 2, On: true, Action: Sense, Sense: 0x31100},
		{On: true, Action: Slow, Delay: 20 * time.Millisecond},
		{Command: "write", LBA: 7, Blocks: 1, Action: Pulled},
		{Command: "inquiry", Nth: 3, Action: Reply, N: 8, Data: "AB"},
		{Command: "inquiry", Action: Short, N: 5},
	}; !reflect.DeepEqual(stick.Faults, want) {
		t.Errorf("faults %+v", stick.Faults)
	}
}

// TestScriptErrors names the line.
func TestScriptErrors(t *testing.T) {
	for script, want := range map[string]string{
		"speed warp":                             "line 1: unknown speed",
		"\n\nspeed":                              "line 3: speed: too few or too many words",
		"id 12345:1":                             "bad id",
		"id 1:2 x":                               "bad version",
		"class 1:2":                              "bad class",
		"interface printer":                      "unknown interface",
		"alternate 5 storage":                    "no interface 5",
		"alternate x storage":                    "bad interface",
		"malformed very":                         "line 2: unknown malformation",
		"turn around":                            "unknown event",
		"turn reset 0":                           "bad count",
		"turn capacity":                          "unknown event",
		"protected":                              "protected before the first lun",
		"lun tape 1M":                            "want lun disk|cd SIZE|none",
		"lun disk 1X":                            "bad size",
		"lun disk 1KK":                           "bad size",
		"lun disk K":                             "bad size",
		"lun disk -1":                            "bad size",
		"lun disk 1025T":                         "bad size",
		"lun disk 9223372036854775807T":          "bad size",
		"lun disk none\nfake limbo 1G":           "line 2: fake of a unit without a medium",
		"lun disk 1M\nfake news 1G":              "unknown lie",
		"lun disk 1M\nfake limbo 1G loud":        "unknown words",
		"lun disk 1M\nfake chain 1G":             "a chain wraps behind its real size",
		"lun disk 100\nfake wraparound 1G":       "which has no block",
		"lun disk 1M\nblock 1000":                "bad block size",
		"lun disk 1M\ncache 2G":                  "bad size",
		"lun disk 1M\nchange 1 2 0":              "bad count",
		"lun disk 1M\nlater soon block 512":      "unknown event",
		"lun disk 1M\nlater plug 1 size 3":       "too few or too many words",
		"lun disk 1M\nlater plug block 512 at 3": "unknown word",
		"lun disk 1M\nprotected now":             "protected: too few or too many words",
		"write":                                  "no action",
		"write burn":                             "unknown action",
		"write sense":                            "unknown action",
		"write sense 3/11":                       "bad sense",
		"write sense 10/11/00":                   "bad sense",
		"write lba 5-4 gone":                     "bad lba",
		"write after 0 gone":                     "bad number of blocks",
		"write nth 0 gone":                       "bad count",
		"write slow 2h":                          "bad duration",
		"write short 70000":                      "bad number",
		"write reply 1 xx":                       "bad bytes",
		"format gone":                            "unknown word or command",
		"serial " + strings.Repeat("x", 127):     "serial of 127 bytes, at most 126",
		strings.Repeat("lun disk 1\n", 17):       "line 17: more than 16 logical units",
		strings.Repeat("turn plug\n", 64):        "line 64: more than 64 faces",
		strings.Repeat("configuration\n", 8):     "line 8: more than 8 configurations",
		strings.Repeat("interface hub\n", 64):    "line 64: more than 64 interfaces",
		strings.Repeat("any phase\n", 1001):      "line 1001: more than 1000 faults",
		strings.Repeat("x", 1<<17):               "line 1: bufio.Scanner: token too long",
		"lun disk 1M\n" + strings.Repeat("later plug block 512\n", 65): "line 66: more than 64 geometries",
	} {
		if _, err := Parse(strings.NewReader(script), nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60q: %v, want %s", script, err, want)
		}
	}
}

// FuzzScript parses any text. What comes of it can be asked for everything that a device is asked for.
func FuzzScript(f *testing.F) {
	for _, s := range []string{"", "interface storage\ninterface keyboard\ntypes a", "lun disk 7M\nfake chain 64M wrap 16M noise\ncache 1M\nchange 4K 512 3",
		"turn reset 2\nalternate 0 hub\nmalformed too-long", "read lba 10-19 after 1000 from 2 sense 3/11/00\nany always slow 1ms", "lun cd 10K\nblock 512\nlater plug block 4096 size 1T"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if strings.Contains(s, "slow") {
			return // it takes the time that it says
		}
		stick, err := Parse(strings.NewReader(s), nil)
		if err != nil {
			return
		}
		stick.Plugged()
		for range len(stick.Faces) {
			face := stick.Face()
			_ = face.Descriptors()
			_, _ = interfaceInfo(stick.Active()), epInfo(stick.Active())
			for _, l := range stick.LUNs {
				for _, cdb := range [][]byte{make([]byte, 6), append([]byte{0x25}, make([]byte, 9)...), cdb10(0x28, 0, 8), cdb10(0x2A, 8, 8), cdb10(0x28, 1<<31, 1)} {
					task := &task{lun: l, cdb: cdb, length: 4096}
					stick.mu.Lock()
					stick.execute(task)
					if task.left > 0 {
						if b, err := stick.give(t.Context(), task, 4096); err == nil && len(b) > 4096 {
							t.Errorf("%d bytes instead of 4096", len(b))
						}
					}
					stick.mu.Unlock()
				}
			}
			stick.Reset()
			stick.Plugged()
		}
	})
}
