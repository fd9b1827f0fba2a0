package trust

import (
	"bytes"
	"hash"
	"io"

	"aead.dev/minisign"
)

// message is what signatures are over. Each hash of it is taken once for any number of them.
type message struct {
	data    []byte
	blake2b *minisign.Reader
	sums    map[byte]hash.Cloner
}

// prehash returns data's message; data must not change any more.
func prehash(data []byte) *message { return &message{data: data, sums: map[byte]hash.Cloner{}} }

// minisign returns the message with its BLAKE2b-512.
func (m *message) minisign() *minisign.Reader {
	if m.blake2b == nil {
		m.blake2b = minisign.NewReader(bytes.NewReader(m.data))
		// A bytes.Reader and a hash don't fail.
		_, _ = io.Copy(io.Discard, m.blake2b)
	}
	return m.blake2b
}

// sum returns a hash, by its number in OpenPGP, that has taken the message and may go on.
func (m *message) sum(id byte) hash.Hash {
	if m.sums[id] == nil {
		h := cryptoHash(id).New().(hash.Cloner)
		h.Write(m.data)
		m.sums[id] = h
	}
	// SHA-256 and SHA-512 of the standard library are always cloned.
	h, err := m.sums[id].Clone()
	if err != nil {
		panic(err)
	}
	return h
}
