package wipe

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"fmt"
	"unsafe"
)

// SectorSize is what carries its own address in a keyed pattern, in bytes,
// whatever the block size.
const SectorSize = 512

// Pattern is what a pass writes: the content of each byte of a medium, as a
// function of where it is. Its methods may be called from several goroutines.
type Pattern struct {
	key   cipher.Block // nil: every byte is value
	pass  uint64
	value byte
}

// Value returns the pattern that has the byte v everywhere.
func Value(v byte) Pattern { return Pattern{value: v} }

// Keyed returns the pattern that nobody can foretell who doesn't have the key,
// and that differs from sector to sector, from pass to pass and from key to
// key: AES-256 in counter mode, the counter being the pass and the address,
// with the number of the sector (8 bytes, big-endian) over the first bytes of
// each. So data of one place is never right in another, and tells which place
// it was for.
func Keyed(key [32]byte, pass uint64) Pattern {
	block, err := aes.NewCipher(key[:])
	if err != nil {
		panic(err) // of a key of 32 bytes: can't be
	}
	return Pattern{key: block, pass: pass}
}

// String names the pattern as records do: "random", or a byte in hex.
func (p Pattern) String() string {
	if p.key != nil {
		return "random"
	}
	return fmt.Sprintf("%02x", p.value)
}

// Fill makes b what the pattern has from byte off on. Both are whole sectors,
// b has at least one.
func (p Pattern) Fill(b []byte, off int64) {
	if p.key == nil {
		b[0] = p.value
		for n := 1; n < len(b); n *= 2 {
			copy(b[n:], b[:n])
		}
		return
	}
	clear(b)
	var counter [aes.BlockSize]byte
	binary.BigEndian.PutUint64(counter[:], p.pass)
	binary.BigEndian.PutUint64(counter[8:], uint64(off)/aes.BlockSize)
	cipher.NewCTR(p.key, counter[:]).XORKeyStream(b, b)
	for sector := uint64(off) / SectorSize; len(b) >= SectorSize; sector, b = sector+1, b[SectorSize:] {
		binary.BigEndian.PutUint64(b, sector)
	}
}

// origin returns for which sector of a medium of n sectors the data of one
// was written, -1 when for none.
func (p Pattern) origin(sector []byte, n int64) int64 {
	if p.key == nil {
		return -1
	}
	at := binary.BigEndian.Uint64(sector)
	if at >= uint64(n) {
		return -1
	}
	// Its second block of AES tells at once; of a fake there may be a hundred million to be asked for.
	var counter, second [aes.BlockSize]byte
	binary.BigEndian.PutUint64(counter[:], p.pass)
	binary.BigEndian.PutUint64(counter[8:], at*(SectorSize/aes.BlockSize)+1)
	p.key.Encrypt(second[:], counter[:])
	if !bytes.Equal(second[:], sector[aes.BlockSize:2*aes.BlockSize]) {
		return -1
	}
	want := make([]byte, SectorSize)
	p.Fill(want, int64(at)*SectorSize)
	if !bytes.Equal(want, sector[:SectorSize]) {
		return -1
	}
	return int64(at)
}

// alignment is what O_DIRECT asks for at most.
const alignment = 4096

// buffer returns n bytes that begin at a multiple of the alignment in memory.
func buffer(n int) []byte {
	b := make([]byte, n+alignment)
	skip := -uintptr(unsafe.Pointer(unsafe.SliceData(b))) % alignment
	return b[skip : int(skip)+n : int(skip)+n]
}
