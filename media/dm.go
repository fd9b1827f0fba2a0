package media

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// The device-mapper's ioctl interface, version 4 (include/uapi/linux/dm-ioctl.h): every call carries one buffer, a
// header of 312 bytes and behind it what the call takes; the answer comes in the same buffer. Numbers are in the
// machine's byte order.
const (
	dmHeaderSize = unix.SizeofDmIoctl      // 312
	dmSpecSize   = unix.SizeofDmTargetSpec // 40
	dmNameSize   = unix.DM_NAME_LEN
	dmUUIDSize   = unix.DM_UUID_LEN

	dmBufferSize = 16 << 10
	dmBufferMax  = 1 << 20 // a list of some 8,000 devices

	dmActivePresent = 1 << 5 // DM_ACTIVE_PRESENT_FLAG
	dmSuspended     = 1 << 1 // DM_SUSPEND_FLAG

	// Where the header's fields stand.
	dmVersionAt     = 0
	dmDataSizeAt    = 12
	dmDataStartAt   = 16
	dmTargetCountAt = 20
	dmFlagsAt       = 28
	dmDevAt         = 40
	dmNameAt        = 48
	dmUUIDAt        = dmNameAt + dmNameSize
)

var native = binary.NativeEndian

// mapper makes device-mapper calls through ioctl, which takes the request and the buffer.
type mapper struct {
	ioctl func(request uint, buf []byte) error
}

// dmCall is what a call says of its device: its name, with the uuid only if it is new, or its number.
type dmCall struct {
	name  string
	uuid  string
	dev   uint64 // see unix.Mkdev
	flags uint32
	// targets and payload stand behind the header.
	targets uint32
	payload []byte
}

// dmState is what a call tells of its device.
type dmState struct {
	name    string
	uuid    string
	dev     uint64 // see unix.Major
	flags   uint32
	targets uint32
	payload []byte
}

func (c *dmCall) encode(bufferSize int) ([]byte, error) {
	if len(c.name) >= dmNameSize || len(c.uuid) >= dmUUIDSize || strings.ContainsAny(c.name+c.uuid, "/\x00") {
		return nil, fmt.Errorf("name %.140q and uuid %.140q of a mapping: at most %d and %d bytes, without a slash", c.name, c.uuid, dmNameSize-1, dmUUIDSize-1)
	}
	buf := make([]byte, max(bufferSize, dmHeaderSize+len(c.payload)))
	native.PutUint32(buf[dmVersionAt:], unix.DM_VERSION_MAJOR) // of minor 0: what is used here was always there
	native.PutUint32(buf[dmDataSizeAt:], uint32(len(buf)))
	native.PutUint32(buf[dmDataStartAt:], dmHeaderSize)
	native.PutUint32(buf[dmTargetCountAt:], c.targets)
	native.PutUint32(buf[dmFlagsAt:], c.flags)
	native.PutUint64(buf[dmDevAt:], c.dev)
	copy(buf[dmNameAt:], c.name)
	copy(buf[dmUUIDAt:], c.uuid)
	copy(buf[dmHeaderSize:], c.payload)
	return buf, nil
}

// decodeState reads an answer, whose every number it holds against the buffer.
func decodeState(buf []byte) (*dmState, error) {
	if len(buf) < dmHeaderSize {
		return nil, fmt.Errorf("device-mapper's answer has %d bytes", len(buf))
	}
	start, end := uint64(native.Uint32(buf[dmDataStartAt:])), uint64(native.Uint32(buf[dmDataSizeAt:]))
	end = max(end, start) // a call without a payload leaves less than the header's length
	if end > uint64(len(buf)) {
		return nil, fmt.Errorf("device-mapper's answer lies at bytes %d to %d of %d", start, end, len(buf))
	}
	return &dmState{
		name:    cString(buf[dmNameAt:][:dmNameSize]),
		uuid:    cString(buf[dmUUIDAt:][:dmUUIDSize]),
		dev:     native.Uint64(buf[dmDevAt:]),
		flags:   native.Uint32(buf[dmFlagsAt:]),
		targets: native.Uint32(buf[dmTargetCountAt:]),
		payload: buf[start:end],
	}, nil
}

func cString(b []byte) string {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	return string(b)
}

// call makes one call, with a larger buffer when the answer didn't fit.
func (m mapper) call(request uint, c dmCall) (*dmState, error) {
	for bufferSize := dmBufferSize; bufferSize <= dmBufferMax; bufferSize *= 8 {
		buf, err := c.encode(bufferSize)
		if err != nil {
			return nil, err
		}
		for err = m.ioctl(request, buf); err == unix.EINTR; err = m.ioctl(request, buf) {
			// The call wasn't made. What it takes is still in the buffer.
		}
		if err != nil {
			return nil, err
		}
		state, err := decodeState(buf)
		if err != nil || state.flags&unix.DM_BUFFER_FULL_FLAG == 0 {
			return state, err
		}
	}
	return nil, fmt.Errorf("device-mapper's answer has more than %d bytes", dmBufferMax)
}

// create makes a device without a table. [unix.EBUSY]: there is one of that name or uuid.
func (m mapper) create(name, uuid string) (*dmState, error) {
	return m.call(unix.DM_DEV_CREATE, dmCall{name: name, uuid: uuid})
}

// load gives a device a read-only table of one target. It takes effect with resume.
func (m mapper) load(name, target, params string, sectors uint64) error {
	_, err := m.call(unix.DM_TABLE_LOAD, dmCall{name: name, flags: unix.DM_READONLY_FLAG, targets: 1, payload: encodeTarget(target, params, sectors)})
	return err
}

// resume makes the loaded table the device's. It succeeds, too, when none was loaded: ask with status.
func (m mapper) resume(name string) (*dmState, error) {
	return m.call(unix.DM_DEV_SUSPEND, dmCall{name: name})
}

// status describes a device by its name. [unix.ENXIO]: there is none.
func (m mapper) status(name string) (*dmState, error) {
	return m.call(unix.DM_DEV_STATUS, dmCall{name: name})
}

// statusOf describes a device by its number. [unix.ENXIO]: it is no device of the device-mapper.
func (m mapper) statusOf(dev uint64) (*dmState, error) {
	return m.call(unix.DM_DEV_STATUS, dmCall{dev: dev})
}

// target returns the type of a device's only target, and what it says of itself.
func (m mapper) target(name string) (kind, says string, err error) {
	state, err := m.call(unix.DM_TABLE_STATUS, dmCall{name: name})
	if err != nil {
		return "", "", err
	}
	if state.targets != 1 || len(state.payload) < dmSpecSize {
		return "", "", fmt.Errorf("device-mapper tells of %d targets in %d bytes, not of one", state.targets, len(state.payload))
	}
	return cString(state.payload[dmSpecSize-16:][:16]), cString(state.payload[dmSpecSize:]), nil
}

// remove takes a device away. [unix.EBUSY]: it is open.
func (m mapper) remove(name string) error {
	_, err := m.call(unix.DM_DEV_REMOVE, dmCall{name: name})
	return err
}

// removeWhenClosed has the kernel take a device away as soon as nothing has it open, at once if nothing has.
func (m mapper) removeWhenClosed(name string) error {
	_, err := m.call(unix.DM_DEV_REMOVE, dmCall{name: name, flags: unix.DM_DEFERRED_REMOVE})
	return err
}

// askTarget has the kernel load the module of a kind of target that it hasn't. [unix.EINVAL]: there is none.
// [unix.ENOTTY]: before Linux 5.4 it can't be asked.
func (m mapper) askTarget(kind string) error {
	_, err := m.call(unix.DM_GET_TARGET_VERSION, dmCall{name: kind})
	return err
}

// targets lists the kinds of targets that the kernel has at the moment.
func (m mapper) targets() ([]string, error) {
	state, err := m.call(unix.DM_LIST_VERSIONS, dmCall{})
	if err != nil {
		return nil, err
	}
	const nameAt = 4 + 3*4 // next, version
	return listNames(state.payload, 0, nameAt)
}

// devices lists the names of all devices.
func (m mapper) devices() ([]string, error) {
	state, err := m.call(unix.DM_LIST_DEVICES, dmCall{})
	if err != nil {
		return nil, err
	}
	const nextAt, nameAt = 8, 12 // dev, next
	return listNames(state.payload, nextAt, nameAt)
}

var errBadList = errors.New("device-mapper's list leads outside the answer")

// listNames walks a list whose elements say at nextAt how many bytes further the next one begins (0: it is the last),
// and have a name at nameAt.
func listNames(b []byte, nextAt, nameAt int) ([]string, error) {
	var names []string
	for len(b) > 0 {
		if len(b) < nameAt {
			return nil, errBadList
		}
		names = append(names, cString(b[nameAt:]))
		next := int64(native.Uint32(b[nextAt:]))
		switch {
		case next == 0:
			return names, nil
		case next < int64(nameAt), next > int64(len(b)):
			return nil, errBadList
		}
		b = b[next:]
	}
	return names, nil
}

// encodeTarget is struct dm_target_spec and its parameters: a target that spans a device from its first sector.
func encodeTarget(kind, params string, sectors uint64) []byte {
	size := (dmSpecSize + len(params) + 1 + 7) / 8 * 8
	b := make([]byte, size)
	native.PutUint64(b[8:], sectors)
	native.PutUint32(b[20:], uint32(size))
	copy(b[24:], kind)
	copy(b[dmSpecSize:], params)
	return b
}
