package verity

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"slices"

	"github.com/klauspost/reedsolomon"
)

// dm-verity's forward error correction, as veritysetup writes it. With roots
// parity symbols a codeword has k = 255 − roots data symbols. The protected
// blocks, data then tree, are cut into k consecutive shards of rounds blocks
// each, the last ones made up with zeros; byte i of every shard makes codeword
// i, whose parity stands at byte i × roots of the parity area. The code is
// Reed–Solomon over GF(2^8) with polynomial 0x11d and first root α^0.
//
// So the parity of whole shards is roots linear combinations of k shards, which
// is what package reedsolomon computes fast when it is given the coefficients;
// what remains is a transposition.

const (
	// MinFECRoots and MaxFECRoots bound the number of parity symbols in a
	// codeword of 255; 0 stands for no parity.
	MinFECRoots = 2
	MaxFECRoots = 24

	codeword = 255
	// maxFECBlocks is data and tree at their largest.
	maxFECBlocks = MaxDataBlocks + MaxDataBlocks/32
	// fecMemory is about what EncodeFEC allocates at most, in bytes.
	fecMemory = 16 << 20
)

// FECRounds returns the length of a shard in blocks: the distance of
// neighbouring symbols of a codeword, and how long a burst of lost blocks inside
// the data costs every codeword at most one symbol. blocks counts data and hash
// blocks without the superblock. It is 0 if roots is 0, and it fails unless
// roots is 0 or MinFECRoots to MaxFECRoots and blocks is positive and possible.
func FECRounds(blocks int64, roots int) (int64, error) {
	if blocks < 1 || blocks > maxFECBlocks {
		return 0, fmt.Errorf("parity geometry: %d blocks to protect, want 1 to %d", blocks, int64(maxFECBlocks))
	}
	if roots == 0 {
		return 0, nil
	}
	if roots < MinFECRoots || roots > MaxFECRoots {
		return 0, fmt.Errorf("parity geometry: %d roots, want 0 or %d to %d", roots, MinFECRoots, MaxFECRoots)
	}
	k := int64(codeword - roots)
	return (blocks + k - 1) / k, nil
}

// FECBlocks returns the length of the parity area in blocks, with the arguments
// and errors of [FECRounds].
func FECBlocks(blocks int64, roots int) (int64, error) {
	rounds, err := FECRounds(blocks, roots)
	return rounds * int64(roots), err
}

// EncodeFEC writes the parity area for the blocks in src, data then tree without
// superblock, to dst, whose offset 0 is the first parity block. src is read in
// strips, each block once, and never past blocks × BlockSize bytes; what the
// format wants behind that is zeros. It takes about 16 MiB of memory whatever
// the size, and less for less data. While one strip is encoded the next is read
// and the parity of the one before is written.
//
// progress, unless nil, is called from the caller's goroutine with the number of
// source blocks whose parity has been written; the last call says blocks. With
// roots 0 nothing is read, written or reported.
//
// When it returns, with whatever error, src and dst are idle. It fails with
// the cause when ctx is cancelled, with [*ReadError] when src fails (its Block
// counts the blocks of src), and as [FECRounds] does. It neither syncs nor closes.
func EncodeFEC(ctx context.Context, src io.ReaderAt, blocks int64, roots int, dst io.WriterAt, progress func(done int64)) error {
	rounds, err := FECRounds(blocks, roots)
	if err != nil || rounds == 0 {
		return err
	}
	e, err := newFECEncoder(rounds, roots, fecMemory)
	if err != nil {
		return err
	}
	return e.run(ctx, src, blocks, dst, progress)
}

// fecEncoder holds the buffers of one EncodeFEC. A strip is the same window of
// every shard.
type fecEncoder struct {
	rs     reedsolomon.Encoder
	roots  int
	shard  int64 // length of a shard in bytes
	strip  int64 // length of a strip in each shard, in bytes
	in     [2][]byte
	out    [2][]byte
	parity []byte
	rows   [][]byte // the strip's shards and parity, for rs
}

// newFECEncoder allocates about memory bytes, or less if the shards are short,
// but at least a block of each shard.
func newFECEncoder(rounds int64, roots, memory int) (*fecEncoder, error) {
	k := codeword - roots
	rs, err := reedsolomon.New(k, roots,
		reedsolomon.WithCustomMatrix(parityMatrix(roots)),
		reedsolomon.WithMaxGoroutines(runtime.GOMAXPROCS(0)))
	if err != nil {
		return nil, fmt.Errorf("set up parity encoder: %w", err)
	}
	// Two strips of data, two of parity in its final order, one as encoded.
	perByte := 2*k + 3*roots
	e := &fecEncoder{
		rs:    rs,
		roots: roots,
		shard: rounds * BlockSize,
		strip: min(rounds, int64(max(1, memory/perByte/BlockSize))) * BlockSize,
		rows:  make([][]byte, codeword),
	}
	strips := 1
	if e.strip < e.shard {
		strips = 2
	}
	for i := range strips {
		e.in[i] = make([]byte, int64(k)*e.strip)
		e.out[i] = make([]byte, int64(roots)*e.strip)
	}
	e.parity = make([]byte, int64(roots)*e.strip)
	return e, nil
}

// result is what a read or a write in the background ended with.
type result struct {
	blocks int64
	err    error
}

func (e *fecEncoder) run(ctx context.Context, src io.ReaderAt, blocks int64, dst io.WriterAt, progress func(int64)) error {
	var reading, writing chan result
	// Whatever is under way ends before src and dst go back to the caller.
	defer func() {
		if reading != nil {
			<-reading
		}
		if writing != nil {
			<-writing
		}
	}()
	read := func(at int64, buf []byte) {
		c := make(chan result, 1)
		reading = c
		go func() {
			n, err := e.read(src, blocks*BlockSize, at, buf)
			c <- result{n, err}
		}()
	}
	var done int64
	written := func() error {
		if writing == nil {
			return nil
		}
		r := <-writing
		writing = nil
		if r.err != nil {
			return fmt.Errorf("write parity: %w", r.err)
		}
		done += r.blocks
		if progress != nil {
			progress(done)
		}
		return nil
	}

	if ctx.Err() != nil {
		return fmt.Errorf("compute parity: %w", context.Cause(ctx))
	}
	read(0, e.in[0])
	for i, at := 0, int64(0); at < e.shard; i, at = 1-i, at+e.strip {
		got := <-reading
		reading = nil
		if got.err != nil {
			return got.err
		}
		if ctx.Err() != nil {
			return fmt.Errorf("compute parity: %w", context.Cause(ctx))
		}
		if next := at + e.strip; next < e.shard {
			read(next, e.in[1-i])
		}
		n := min(e.strip, e.shard-at)
		if err := e.encode(e.in[i], e.out[i], n); err != nil {
			return fmt.Errorf("compute parity: %w", err)
		}
		if err := written(); err != nil {
			return err
		}
		c := make(chan result, 1)
		writing = c
		go func() {
			c <- result{got.blocks, writeFull(dst, e.out[i][:int64(e.roots)*n], at*int64(e.roots))}
		}()
	}
	return written()
}

// read fills buf with the strip at byte offset at of every shard, one after the
// other, and returns how many blocks of it came from src, which has size bytes.
func (e *fecEncoder) read(src io.ReaderAt, size, at int64, buf []byte) (blocks int64, err error) {
	n := min(e.strip, e.shard-at)
	pieces, span := int64(codeword-e.roots), n
	if n == e.shard {
		pieces, span = 1, n*pieces // the strip is all there is
	}
	for j := range pieces {
		off := j*e.shard + at
		p := buf[j*span : (j+1)*span]
		have := max(0, min(span, size-off))
		got, err := readFull(src, p[:have], off)
		if err != nil {
			first := int64(got) / BlockSize
			return 0, fmt.Errorf("compute parity: %w", &ReadError{
				Block: off/BlockSize + first, Count: have/BlockSize - first, Err: err,
			})
		}
		clear(p[have:])
		blocks += have / BlockSize
	}
	return blocks, nil
}

// encode computes the parity of a strip of n bytes a shard into out.
func (e *fecEncoder) encode(in, out []byte, n int64) error {
	k := int64(codeword - e.roots)
	for j := range k {
		e.rows[j] = in[j*n : (j+1)*n]
	}
	for p := range int64(e.roots) {
		e.rows[k+p] = e.parity[p*n : (p+1)*n]
	}
	if err := e.rs.Encode(e.rows); err != nil {
		return err
	}
	transpose(out, e.rows[k:])
	return nil
}

// transpose puts the rows' bytes in the order of the codewords: byte i of row p
// goes to out[i*len(rows)+p].
func transpose(out []byte, rows [][]byte) {
	// A piece of every row and its place in out stay in the first-level cache.
	const piece = 512
	roots, n := len(rows), len(rows[0])
	for at := 0; at < n; at += piece {
		end := min(at+piece, n)
		dst := out[at*roots : end*roots]
		for p, row := range rows {
			o := p
			for _, b := range row[at:end] {
				dst[o] = b
				o += roots
			}
		}
	}
}

// parityMatrix returns the coefficients that make parity of data: row p, column
// j is the coefficient of x^(roots−1−p) in x^(254−j) mod g(x), where g is the
// product of (x − α^i) for i from 0 to roots−1.
func parityMatrix(roots int) [][]byte {
	g := []byte{1} // g[i] belongs to x^i
	alpha := byte(1)
	for range roots {
		next := make([]byte, len(g)+1)
		for i, c := range g {
			next[i] ^= gfMul(c, alpha)
			next[i+1] ^= c
		}
		g = next
		alpha = gfMul(alpha, 2)
	}

	k := codeword - roots
	m := make([][]byte, roots)
	for p := range m {
		m[p] = make([]byte, k)
	}
	rem := slices.Clone(g[:roots]) // x^e mod g, where e = 254 − j, from roots on
	for j := k - 1; j >= 0; j-- {
		for p := range m {
			m[p][j] = rem[roots-1-p]
		}
		top := rem[roots-1]
		for i := roots - 1; i > 0; i-- {
			rem[i] = rem[i-1] ^ gfMul(top, g[i])
		}
		rem[0] = gfMul(top, g[0])
	}
	return m
}

// gfMul multiplies in GF(2^8) with polynomial 0x11d.
func gfMul(a, b byte) byte {
	var product byte
	for ; b > 0; b >>= 1 {
		if b&1 != 0 {
			product ^= a
		}
		carry := a & 0x80
		a <<= 1
		if carry != 0 {
			a ^= 0x1d
		}
	}
	return product
}
