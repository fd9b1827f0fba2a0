package wipe

import (
	"bytes"
	"encoding/binary"
	"os/exec"
	"testing"
)

func TestKeyed(t *testing.T) {
	p := Keyed(key(1), 7)
	whole := make([]byte, 1<<20)
	p.Fill(whole, 1<<40)
	// AES-256 in counter mode is openssl's too: all but the addresses are its keystream.
	counter := "00000000000000070000001000000000"
	cmd := exec.Command("openssl", "enc", "-aes-256-ctr", "-K", "01aa"+"000000000000000000000000000000000000000000000000000000000000", "-iv", counter)
	cmd.Stdin = bytes.NewReader(make([]byte, len(whole)))
	want, err := cmd.Output()
	if err != nil {
		t.Fatalf("openssl: %v", err)
	}
	for i := 0; i < len(want); i += SectorSize {
		binary.BigEndian.PutUint64(want[i:], (1<<40+uint64(i))/SectorSize)
	}
	if !bytes.Equal(whole, want) {
		t.Error("the pattern isn't AES-256-CTR with addresses over it")
	}
	// In pieces it is the same.
	piece := make([]byte, 3*SectorSize)
	p.Fill(piece, 1<<40+5*SectorSize)
	if !bytes.Equal(piece, whole[5*SectorSize:8*SectorSize]) {
		t.Error("a piece isn't what the whole has there")
	}
	// No other place, pass or key has it.
	for _, other := range []struct {
		p   Pattern
		off int64
	}{{p, 0}, {Keyed(key(1), 8), 1 << 40}, {Keyed(key(2), 7), 1 << 40}} {
		b := make([]byte, SectorSize)
		other.p.Fill(b, other.off)
		if bytes.Equal(b[8:], whole[8:SectorSize]) {
			t.Errorf("%+v has the same data", other)
		}
	}
}

func TestOrigin(t *testing.T) {
	p := Keyed(key(1), 1)
	b := make([]byte, 8*SectorSize)
	p.Fill(b, 1000*SectorSize)
	if got := p.origin(b[3*SectorSize:], 2000); got != 1003 {
		t.Errorf("origin %d, want 1003", got)
	}
	if got := p.origin(b[3*SectorSize:], 1003); got != -1 {
		t.Errorf("origin %d past the end", got)
	}
	b[SectorSize-1] ^= 1
	if got := p.origin(b, 2000); got != -1 {
		t.Errorf("origin %d of a sector with another byte", got)
	}
	if got := Value(0).origin(make([]byte, SectorSize), 2000); got != -1 {
		t.Errorf("origin %d of zeros", got)
	}
	v := Value(0x5A)
	v.Fill(b, 0)
	if !bytes.Equal(b, bytes.Repeat([]byte{0x5A}, len(b))) || v.String() != "5a" || p.String() != "random" {
		t.Errorf("%s, %s", v, p)
	}
}

func TestShuffled(t *testing.T) {
	for n := int64(1); n < 300; n++ {
		order := shuffled(n, key(byte(n)))
		seen := make([]bool, n)
		for i := range n {
			at := order(i)
			if at < 0 || at >= n || seen[at] {
				t.Fatalf("of %d: %d comes to %d", n, i, at)
			}
			seen[at] = true
		}
	}
	// Of a medium of 8 EiB, no step overflows.
	order := shuffled(1<<41, key(1))
	for _, i := range []int64{0, 1, 1<<41 - 1} {
		if at := order(i); at < 0 || at >= 1<<41 {
			t.Errorf("%d comes to %d", i, at)
		}
	}
}
