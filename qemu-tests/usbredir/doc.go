// Package usbredir plays USB devices to QEMU, any that a script or a few structs describe: honest sticks and hostile
// ones. It is the side of the usbredir protocol 0.7 that has the device; QEMU has the other one:
//
//	-device qemu-xhci,id=xhci -chardev socket,id=u,path=SOCKET,reconnect=1 -device usb-redir,chardev=u,bus=xhci.0
//
// or the same with chardev-add and device_add while the guest runs. A Server plays one Device; Stick is the device that
// scripts describe, a SCSI disk behind the bulk-only transport with what else there is beside it. What a disk's blocks
// lie in is a Medium, honest (Memory, File) or not (Fake, Cache, Changing); media are of use without USB as well.
//
// # Scripts
//
// A line of a script is empty, or a comment after '#', or one of those below. An empty script is an honest stick of
// 64 MiB at high speed. Sizes are in bytes, or with K, M, G or T in powers of 1,024.
//
// What the device says of itself:
//
//	speed low|full|high|super
//	id VVVV:PPPP [RRRR]        idVendor, idProduct and bcdDevice in hex
//	class CC:SS:PP             of the device descriptor, in hex
//	manufacturer TEXT          and product TEXT, serial TEXT; no string without TEXT
//	interface KIND             one interface more; the first one replaces the storage interface that is there without
//	alternate N KIND           one setting more of interface N
//	configuration              interfaces that follow are in a configuration more
//	malformed HOW              the configuration descriptors are wrong
//	turn EVENT [N]             at the N-th EVENT the device turns into what follows. It keeps speed, id, class and
//	                           strings as long as nothing else is said, and has no interfaces but those that follow
//	                           (without any: storage)
//	types TEXT                 what its keyboards type: a to z, digits and spaces, and Enter at the end
//
// KIND is storage, uas, keyboard, mouse, network, serial, mtp, vendor, hub or CC:SS:PP in hex. HOW is zero-length,
// too-long, total-short, total-long, many-interfaces, count-lies or truncated. EVENT is plug (again), reset (of the
// bus), configure (a configuration was set) or descriptor (this read of the device descriptor has the new one).
//
// What is behind it, without any a disk of 64 MiB. Lines that follow a lun line are about that one:
//
//	lun disk|cd SIZE|none      a logical unit that really has SIZE, or no medium
//	block N                    bytes in a block: 512 of a disk, 2048 of a cd
//	fake LIE SIZE [wrap SIZE] [noise]   it says that it has SIZE. LIE is limbo (what is written past the real size
//	                           vanishes), wraparound (addresses count modulo the real size), chain (modulo wrap, and
//	                           what then lies past the real size vanishes) or last (all past the real size is its last
//	                           block). What vanished reads as zeros, or as noise
//	cache SIZE                 what was written last is answered right until it is pushed out, or the stick unplugged
//	change OFFSET LENGTH [N]   from the N-th read of these bytes on (the second) they are others
//	later capacity|plug [N] block N [size SIZE]   from the N-th READ CAPACITY, or plugging in, on it has another geometry
//	protected                  it refuses writes
//	write-back                 it says that it has a write cache
//	fixed                      it says that its medium can't be removed
//
// And faults:
//
//	COMMAND [lba N[-M]] [after N] [nth N|from N|always] ACTION
//
// COMMAND is test-unit-ready, request-sense, inquiry, mode-sense, start-stop-unit, prevent-allow, read-capacity, read,
// write, verify, synchronize-cache, report-luns or any. With lba only commands count that touch blocks N to M, and the
// blocks before are moved; with after the fault waits until N blocks in all were read, or written, and strikes in the
// midst of the command that gets there. It strikes once, at the first command that fits, or at the N-th (nth), or at
// the N-th and all that follow (from), or at all (always). ACTION is
//
//	sense K/AA/QQ     the command ends with this sense, in hex
//	silent            nothing is answered any more, until a reset
//	stall             both bulk endpoints stall, until a reset
//	gone              the device is pulled out
//	slow DURATION     it takes that long (Go syntax)
//	phase             the status is a phase error
//	tag               the status is about another command
//	reply OFFSET HEX  the reply has these bytes from OFFSET on
//	short N           the reply is cut to N bytes
package usbredir
