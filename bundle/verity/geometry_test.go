package verity

import (
	"math"
	"testing"
)

func TestTreeBlocks(t *testing.T) {
	for _, tc := range []struct {
		data, want int64 // want -1: an error
	}{
		{math.MinInt64, -1}, {-1, -1}, {0, -1},
		{1, 0}, {2, 1}, {63, 1}, {64, 1}, {65, 3}, {128, 3},
		{4095, 65}, {4096, 65}, {4097, 65 + 2 + 1},
		{2298496, 35914 + 562 + 9 + 1}, // a DVD-R
		{MaxDataBlocks, 1<<34 + 1<<28 + 1<<22 + 1<<16 + 1<<10 + 1<<4 + 1},
		{MaxDataBlocks + 1, -1}, {math.MaxInt64, -1},
	} {
		got, err := TreeBlocks(tc.data)
		if tc.want < 0 {
			if err == nil {
				t.Errorf("TreeBlocks(%d) = %d, want an error", tc.data, got)
			}
			if _, err := Superblock(Params{DataBlocks: tc.data}); err == nil {
				t.Errorf("Superblock accepts %d data blocks", tc.data)
			}
			if _, err := NewTreeWriter(&memory{}, Params{DataBlocks: tc.data}); err == nil {
				t.Errorf("NewTreeWriter accepts %d data blocks", tc.data)
			}
			if _, err := OpenTree(&empty{}, Params{DataBlocks: tc.data}, [DigestSize]byte{}); err == nil {
				t.Errorf("OpenTree accepts %d data blocks", tc.data)
			}
			continue
		}
		if err != nil || got != tc.want {
			t.Errorf("TreeBlocks(%d) = %d, %v; want %d", tc.data, got, err, tc.want)
		}
	}
}

func TestSaltTooLong(t *testing.T) {
	for _, n := range []int{MaxSaltSize + 1, 1 << 16} {
		p := Params{DataBlocks: 2, Salt: make([]byte, n)}
		if _, err := Superblock(p); err == nil {
			t.Errorf("Superblock accepts a salt of %d bytes", n)
		}
		if _, err := NewTreeWriter(&memory{}, p); err == nil {
			t.Errorf("NewTreeWriter accepts a salt of %d bytes", n)
		}
		if _, err := OpenTree(&empty{}, p, [DigestSize]byte{}); err == nil {
			t.Errorf("OpenTree accepts a salt of %d bytes", n)
		}
	}
}

func TestFECBlocks(t *testing.T) {
	for _, tc := range []struct {
		blocks       int64
		roots        int
		rounds, want int64 // want -1: an error
	}{
		{1, 0, 0, 0}, {1, 2, 1, 2}, {253, 2, 1, 2}, {254, 2, 2, 4},
		{231, 24, 1, 24}, {232, 24, 2, 48},
		{maxFECBlocks, 24, (maxFECBlocks + 230) / 231, (maxFECBlocks + 230) / 231 * 24},
		{1, 1, 0, -1}, {1, 25, 0, -1}, {1, -1, 0, -1}, {1, 255, 0, -1}, {1, math.MinInt, 0, -1},
		{0, 2, 0, -1}, {-1, 2, 0, -1}, {0, 0, 0, -1}, {maxFECBlocks + 1, 2, 0, -1}, {math.MaxInt64, 24, 0, -1},
	} {
		rounds, err := FECRounds(tc.blocks, tc.roots)
		got, err2 := FECBlocks(tc.blocks, tc.roots)
		if tc.want < 0 {
			if err == nil || err2 == nil {
				t.Errorf("%d blocks, %d roots: %d, %d; want an error", tc.blocks, tc.roots, rounds, got)
			}
			continue
		}
		if err != nil || err2 != nil || rounds != tc.rounds || got != tc.want {
			t.Errorf("%d blocks, %d roots: %d, %v and %d, %v; want %d and %d", tc.blocks, tc.roots, rounds, err, got, err2, tc.rounds, tc.want)
		}
	}
	// Data and tree at their largest are within the bound.
	tree, err := TreeBlocks(MaxDataBlocks)
	if err != nil || MaxDataBlocks+tree > maxFECBlocks {
		t.Errorf("%d + %d blocks exceed %d", int64(MaxDataBlocks), tree, int64(maxFECBlocks))
	}
}
