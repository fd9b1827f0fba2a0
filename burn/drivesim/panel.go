package drivesim

import (
	"strings"
	"time"

	"sallyport/burn/mmc"
)

func (d *Drive) nothing(*request) (int, error) { return 0, nil }

func (d *Drive) requestSense(r *request) (int, error) {
	b := fixedSense(0x70, 0, nil)
	switch {
	case d.deferred != nil:
		b, d.deferred = d.deferred, nil
	case len(d.attention) > 0:
		b, d.attention = fixedSense(0x70, d.attention[0], nil), d.attention[1:]
	case d.busy():
		b = d.progress()
	}
	return r.reply(b, int(r.cdb[4]))
}

// Identification of the simulated drive.
const (
	Vendor   = "SALLYPRT"
	Product  = "DISC SIMULATOR"
	Revision = "1.0"
)

func (d *Drive) inquiry(r *request) (int, error) {
	if r.cdb[1]&1 != 0 {
		return d.vitalProductData(r)
	}
	if r.cdb[2] != 0 {
		return 0, sense(0x52400)
	}
	b := make([]byte, 36)
	b[0], b[1], b[2], b[3], b[4] = mmc.TypeMMC, 0x80, 0x05, 0x02, 31
	copy(b[8:], pad(Vendor, 8)+pad(Product, 16)+pad(Revision, 4))
	return r.reply(b, r.u16(3))
}

// vitalProductData answers INQUIRY for pages 00h (which there are), 80h (serial
// number) and 83h (identification), SPC-3 7.6.
func (d *Drive) vitalProductData(r *request) (int, error) {
	serial := d.st.Drive.Serial
	var page []byte
	switch r.cdb[2] {
	case 0x00:
		page = []byte{0x00, 0x80, 0x83}
	case 0x80:
		page = []byte(serial)
	case 0x83:
		id := pad(Vendor, 8) + pad(Product, 16) + serial
		page = append([]byte{0x02, 0x01, 0, byte(len(id))}, id...) // T10 vendor identification, in ASCII
	default:
		return 0, sense(0x52400)
	}
	b := append([]byte{mmc.TypeMMC, r.cdb[2], 0, byte(len(page))}, page...)
	return r.reply(b, r.u16(3))
}

func pad(s string, n int) string { return (s + strings.Repeat(" ", n))[:n] }

// Event classes of GET EVENT STATUS NOTIFICATION (MMC-5 6.7).
const (
	eventOperational = 1
	eventPower       = 2
	eventExternal    = 3
	eventMedia       = 4
	eventMultiHost   = 5
	eventBusy        = 6

	eventClasses = 1<<eventOperational | 1<<eventPower | 1<<eventExternal | 1<<eventMedia | 1<<eventMultiHost | 1<<eventBusy
)

// getEventStatus tells the event of the lowest class asked for that has one,
// or that the lowest class has none.
func (d *Drive) getEventStatus(r *request) (int, error) {
	if r.cdb[1]&1 == 0 {
		return 0, sense(0x52400) // polled only
	}
	asked := r.cdb[4] & eventClasses
	if asked == 0 {
		return r.reply([]byte{0, 2, 0x80, eventClasses}, r.u16(7))
	}
	var class byte
	for c := byte(eventOperational); c <= eventBusy; c++ {
		if asked&(1<<c) == 0 {
			continue
		}
		if class == 0 || d.pendingEvent(c) {
			class = c
		}
		if d.pendingEvent(c) {
			break
		}
	}
	b := []byte{0, 6, class, eventClasses, 0, 0, 0, 0}
	switch class {
	case eventPower:
		b[5] = 1 // active
	case eventMedia:
		if d.trayOpen {
			b[5] |= 1
		}
		if d.present() {
			b[5] |= 2
		}
		if len(d.events) > 0 {
			b[4], d.events = d.events[0], d.events[1:]
		}
	case eventBusy:
		if d.busy() {
			b[4], b[5] = 1, 1
			put16(b[6:], uint16(min(d.busyUntil.Sub(d.now)/(100*time.Millisecond), 0xFFFF)))
		}
	}
	return r.reply(b, r.u16(7))
}

func (d *Drive) pendingEvent(class byte) bool {
	return class == eventMedia && len(d.events) > 0 || class == eventBusy && d.busy()
}

// happen queues a media event; one that nobody asks for is forgotten.
func (d *Drive) happen(event byte) {
	if len(d.events) == 4 {
		d.events = d.events[1:]
	}
	d.events = append(d.events, event)
}

func (d *Drive) preventAllow(r *request) (int, error) {
	d.locked = r.cdb[4]&1 != 0
	return 0, nil
}

const trayTime = 2 * time.Second

func (d *Drive) startStop(r *request) (int, error) {
	immed, eject, start := r.cdb[1]&1 != 0, r.cdb[4]&2 != 0, r.cdb[4]&1 != 0
	switch {
	case eject && !start:
		if d.locked {
			return 0, sense(0x55302)
		}
		if !d.trayOpen {
			d.openTray()
			return 0, d.spend(r, trayTime)
		}
	case eject && start:
		if d.st.Drive.NoLoad {
			return 0, sense(0x52400)
		}
		if d.trayOpen {
			d.closeTray()
			if !immed {
				return 0, d.spend(r, trayTime+d.spinUpTime())
			}
			return 0, d.spend(r, commandTime)
		}
	}
	return 0, nil
}

// Eject presses the button on the front. It does nothing but ask when removal
// is prevented; the result says whether the tray is open.
func (d *Drive) Eject() bool {
	d.enter()
	defer d.mu.Unlock()
	switch {
	case d.locked:
		d.happen(mmc.EventEjectRequest)
	case !d.busy():
		d.openTray()
	}
	return d.trayOpen
}

// Load pushes the tray in, with the disc in it.
func (d *Drive) Load() {
	d.enter()
	defer d.mu.Unlock()
	d.st.Disc.Absent = false
	d.closeTray()
}

// Replug brings back a drive that went from the bus, switched off and on.
func (d *Drive) Replug() {
	d.enter()
	defer d.mu.Unlock()
	d.gone = d.lock == nil
	d.powerOn()
}

func (d *Drive) openTray() {
	d.finishLongOperation()
	if d.rec.started {
		d.fail(d.flush())
	}
	d.interrupt()
	if !d.trayOpen {
		d.happen(mmc.EventRemoval)
	}
	d.trayOpen = true
	d.cache = map[uint32][]byte{}
}

func (d *Drive) closeTray() {
	if !d.trayOpen && d.spun {
		return
	}
	d.trayOpen = false
	d.spinUp()
}

func (d *Drive) spinUp() {
	d.spun = false
	d.readyAt = d.now.Add(d.spinUpTime())
}

func (d *Drive) spinUpTime() time.Duration {
	return time.Duration(d.st.Drive.SpinUp) * time.Millisecond
}

func (d *Drive) present() bool { return !d.trayOpen && !d.st.Disc.Absent }
func (d *Drive) busy() bool    { return d.now.Before(d.busyUntil) }
