package bundle

import (
	"context"
	crand "crypto/rand"
	"fmt"
	"math/rand/v2"
)

// How the surplus is sampled (VerifyOptions.SampleSurplus), in blocks: all of it next to the image and at the medium's
// end, where partition tables and file systems have their copies and a bundle its locator's, and of each of as many
// parts of equal length as there are samples a run at a random place.
const (
	surplusEdge    = 1024
	surplusSamples = 1024
	surplusRun     = 32
)

// surplusParts is what is read of the blocks first to end-1: all of them when that isn't much more.
func surplusParts(first, end int64, seed [32]byte) []blockRange {
	inner := end - first - 2*surplusEdge
	if inner < 2*surplusSamples*surplusRun {
		return []blockRange{{first, end}}
	}
	random := rand.New(rand.NewChaCha8(seed))
	parts := []blockRange{{first, first + surplusEdge}}
	for i := range int64(surplusSamples) {
		lo, hi := inner*i/surplusSamples, inner*(i+1)/surplusSamples
		at := first + surplusEdge + lo + random.Int64N(hi-lo-surplusRun+1)
		parts = append(parts, blockRange{at, at + surplusRun})
	}
	return append(parts, blockRange{end - surplusEdge, end})
}

// chooseSurplus settles what of the surplus is read.
func (r *reading) chooseSurplus() {
	if !r.src.Medium {
		return
	}
	first, end := r.claims.Geometry.ImageBlocks(), r.src.Size/BlockSize
	r.behind = []blockRange{{first, end}}
	if r.opt.SampleSurplus {
		var seed [32]byte
		_, _ = crand.Read(seed[:]) // it never fails
		r.behind = surplusParts(first, end, seed)
	}
	r.unread = end - first
	for _, part := range r.behind {
		r.unread -= part.end - part.first
	}
}

// surplus checks what of a medium lies behind the image, or samples of it.
func (r *reading) surplus(ctx context.Context) error {
	if err := r.zeroBlocks(ctx, r.behind, "surplus-data", nil); err != nil {
		return err
	}
	if r.unread > 0 {
		behind := r.src.Size/BlockSize - r.claims.Geometry.ImageBlocks()
		r.notes = append(r.notes, fmt.Sprintf("the medium was sampled behind the image: of %d blocks %d were read", behind, behind-r.unread))
	}
	// A stick's sectors may have 512 bytes.
	tail := make([]byte, r.src.Size%BlockSize)
	if len(tail) == 0 {
		return nil
	}
	err := readFull(r.src, tail, r.src.Size-int64(len(tail)))
	switch {
	case r.src.lost(err):
		return err
	case err != nil:
		r.notes = append(r.notes, fmt.Sprintf("the last %d bytes of the medium can't be read: %v", len(tail), err))
	case !allZero(tail):
		return refuse("surplus-data", "LBA %d is not zero", r.src.Size/BlockSize)
	}
	return nil
}
