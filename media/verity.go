package media

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Verity is a dm-verity volume (format 1, SHA-256, data and hash blocks of [BlockSize]) as a signed seal describes it.
// What the medium's own superblock says of it is not asked.
type Verity struct {
	DataBlocks int64    // blocks from LBA 0 on that are under the tree, and that the volume shows
	Tree       int64    // LBA of the first hash block, which is the one behind the superblock
	Root       [32]byte // the root hash
	Salt       [32]byte
}

const maxBlocks = 1<<32 - 1

func (v Verity) check() error {
	if v.DataBlocks < 1 || v.Tree < v.DataBlocks || v.Tree >= maxBlocks {
		return invalidf("a volume of %d blocks with its hash tree at LBA %d", v.DataBlocks, v.Tree)
	}
	return nil
}

func (v Verity) sectors() uint64 { return uint64(v.DataBlocks) * (BlockSize / sectorSize) }

// params is what the target takes (kernel: admin-guide/device-mapper/verity), and no optional parameter: none of
// parity, which the kernel would take unsigned; not check_at_most_once, after which a medium may answer otherwise; not
// ignore_corruption. What isn't under the root hash is then an I/O error for whoever reads it, each time.
func (v Verity) params(device string) string {
	return fmt.Sprintf("1 %s %s %d %d %d %d sha256 %x %x", device, device, BlockSize, BlockSize, v.DataBlocks, v.Tree, v.Root, v.Salt)
}

// A mapping made here is found again by its name, and is told by its uuid: of the form that cryptsetup gives its own, so
// that "veritysetup status NAME" describes it, but with the name's digits where those have the superblock's.
const (
	namePrefix = "sallyport-"
	uuidPrefix = "CRYPT-VERITY-"
	idDigits   = 32
)

// mappingName identifies a mapping: by the volume, and by the block device that it lies on. Two discs of one bundle can
// be mounted beside each other, one disc only once. Behind it may stand boundSuffix.
func mappingName(id [32]byte, rdev uint64) string {
	return fmt.Sprintf("%s%x-%d-%d", namePrefix, id[:idDigits/2], unix.Major(rdev), unix.Minor(rdev))
}

func mappingUUID(name string) string {
	digits := strings.TrimPrefix(name, namePrefix)
	return uuidPrefix + digits[:min(len(digits), idDigits)] + "-" + name
}

func isOurs(name, uuid string) bool {
	return strings.HasPrefix(name, namePrefix) && uuid == mappingUUID(name)
}

// mapping is a device-mapper device, held open.
type mapping struct {
	mapper mapper
	name   string
	node   *os.File
}

// Close lets go of the device. Nobody else has it open: then it is gone.
func (d *mapping) Close() error { return d.node.Close() }

// makeMapping maps a volume on the block device rdev. As soon as it has the device open it asks the kernel to take it away
// when nothing has: however this process ends from then on, nothing stays behind. For what one leaves that ends before,
// there is removeStale. openNode opens the block device of a number for reading, which it is only once a table is loaded.
func makeMapping(m mapper, name string, rdev uint64, v Verity, openNode func(rdev uint64) (*os.File, error)) (_ *mapping, err error) {
	made, err := m.create(name, mappingUUID(name))
	if err != nil {
		return nil, fmt.Errorf("make the mapping %s: %w", name, err)
	}
	d := &mapping{mapper: m, name: name}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.discard())
		}
	}()
	params := v.params(fmt.Sprintf("%d:%d", unix.Major(rdev), unix.Minor(rdev)))
	if err := m.load(name, "verity", params, v.sectors()); err != nil {
		return nil, explainLoad(m, params, err)
	}
	if d.node, err = openNode(made.dev); err != nil {
		return nil, err
	}
	if err := m.removeWhenClosed(name); err != nil {
		return nil, fmt.Errorf("have the mapping %s go when it is closed: %w", name, err)
	}
	if _, err := m.resume(name); err != nil {
		return nil, fmt.Errorf("start the mapping %s: %w", name, err)
	}
	if err := m.confirm(name); err != nil {
		return nil, fmt.Errorf("start the mapping %s: %w", name, err)
	}
	return d, nil
}

// discard takes away what makeMapping could not finish.
func (d *mapping) discard() error {
	var closed error
	if d.node != nil {
		closed = d.node.Close()
	}
	// Something else may look at it, udev for one. Then the kernel takes it away afterwards.
	if err := d.mapper.removeWhenClosed(d.name); err != nil && err != unix.ENXIO {
		return errors.Join(closed, fmt.Errorf("remove the mapping %s: %w", d.name, err))
	}
	return closed
}

// confirm makes sure that a mapping is what was asked for: resume says nothing when there was no table to take up.
func (m mapper) confirm(name string) error {
	state, err := m.status(name)
	if err != nil {
		return err
	}
	kind, _, err := m.target(name)
	switch {
	case err != nil:
		return err
	case kind != "verity" || state.flags&dmActivePresent == 0 || state.flags&unix.DM_READONLY_FLAG == 0 || state.flags&dmSuspended != 0:
		return fmt.Errorf("the kernel made a %q with flags %#x of it, not a read-only verity", kind, state.flags)
	}
	return nil
}

// explainLoad says why the kernel doesn't take a table. It tells the reason only its log.
func explainLoad(m mapper, params string, err error) error {
	if kinds, listErr := m.targets(); listErr == nil && !slices.Contains(kinds, "verity") {
		return errNoVerity
	}
	return fmt.Errorf("the kernel refuses the dm-verity table %q: %w", params, err)
}

// damaged tells whether the kernel met a block that is not under the root hash, since the mapping was made.
func (m mapper) damaged(name string) (bool, error) {
	kind, says, err := m.target(name)
	if err != nil {
		return false, err
	}
	if kind != "verity" {
		return false, fmt.Errorf("mapping %s is a %q", name, kind)
	}
	return strings.HasPrefix(says, "C"), nil
}

// removeStale takes away what processes left behind that died while they mounted: mappings made here that nothing has
// open. It returns their names. Whoever calls it keeps others from mounting meanwhile.
func (m mapper) removeStale() ([]string, error) {
	names, err := m.devices()
	if err != nil {
		return nil, fmt.Errorf("list the mappings: %w", err)
	}
	var removed []string
	for _, name := range names {
		state, err := m.status(name)
		if err != nil || !isOurs(name, state.uuid) {
			continue // gone meanwhile, or somebody else's
		}
		unit := systemBus.boundUnit(name)
		switch err := m.remove(name); err {
		case nil:
			removed = append(removed, name)
			if unit == "" {
				break
			}
			if err := systemBus.unbind(unit); err != nil {
				return removed, err
			}
		case unix.ENXIO, unix.EBUSY: // gone meanwhile, or mounted
		default:
			return removed, fmt.Errorf("remove the stale mapping %s: %w", name, err)
		}
	}
	return removed, nil
}
