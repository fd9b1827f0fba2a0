package mmc

import (
	"context"
	"encoding/binary"
	"fmt"

	"sallyport/media/scsi"
)

// Manufacturer reads the manufacturer's identification from pre-recorded
// information (format 0Eh): fields 3 and 4 of the pre-pit blocks, 6
// characters each (ECMA-359). It is empty when they are not there.
func Manufacturer(b []byte) string {
	var id []byte
	for field := byte(3); field <= 4; field++ {
		off := (int(field) - 1) * 8
		if off+7 > len(b) || b[off] != field {
			break
		}
		id = append(id, b[off+1:off+7]...)
	}
	return ascii(id)
}

// UniqueID reads the unique disc identifier (format 0Fh, MMC-5 6.23.3): a
// random number and the time of the first recording, as the drive wrote it. It
// is empty on a disc that has none yet.
func UniqueID(b []byte) string {
	if len(b) < 18 {
		return ""
	}
	random := binary.BigEndian.Uint16(b[2:])
	when := ascii(b[4:18]) // YYYYMMDDhhmmss
	if random == 0 && when == "" {
		return ""
	}
	return fmt.Sprintf("%04x-%s", random, when)
}

// PlusManufacturer reads the code of a DVD+R's manufacturer from its ADIP
// information (format 11h, ECMA-349 14.4.2): manufacturer, medium type and
// product revision, as "MKM/A02/0". It is empty when the bytes are all zero.
func PlusManufacturer(b []byte) string {
	if len(b) < 31 {
		return ""
	}
	return identity(b[19:27], b[27:30], b[30])
}

// BDManufacturer reads the code of a BD-R's manufacturer from its disc
// information (format 00h, media type BD): the first unit's manufacturer,
// medium type, and the version, as "VERBAT/IMe/0".
func BDManufacturer(b []byte) string {
	if len(b) < 112 || string(b[:2]) != "DI" {
		return ""
	}
	return identity(b[100:106], b[106:109], b[111])
}

func identity(maker, kind []byte, revision byte) string {
	m, k := ascii(maker), ascii(kind)
	if m == "" && k == "" {
		return ""
	}
	return fmt.Sprintf("%s/%s/%d", m, k, revision)
}

// ReadATIP reads a CD's absolute time in pre-groove (READ TOC/PMA/ATIP,
// format 0100b, MMC-5 6.26.3.7), without the 4 bytes of header.
func ReadATIP(ctx context.Context, t scsi.Transport) ([]byte, error) {
	c := ReadTOC{Format: 4, MSF: true, AllocationLength: 4 + 24}
	b, err := query(ctx, t, c, 4+24, 4)
	if err != nil {
		return nil, err
	}
	return trim(b, max(4, 2+uint64(binary.BigEndian.Uint16(b))))[4:], nil
}

// CDManufacturer reads the code of a CD-R's manufacturer from its ATIP: the
// start of the lead-in, by which the makers are known, as "97:26:66".
func CDManufacturer(b []byte) string {
	if len(b) < 7 || b[4] == 0 && b[5] == 0 && b[6] == 0 {
		return ""
	}
	return fmt.Sprintf("%02d:%02d:%02d", b[4], b[5], b[6])
}
