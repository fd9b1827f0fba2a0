package burn

import (
	"encoding/binary"
	"os"
	"testing"
	"time"

	"sallyport/burn/drivesim"
)

// numbered is an image as large as wanted: each block carries its LBA.
type numbered struct{}

func (numbered) ReadAt(p []byte, off int64) (int, error) {
	for i := 0; i < len(p); i += BlockSize {
		binary.BigEndian.PutUint64(p[i:], uint64(off)+uint64(i)+1)
	}
	return len(p), nil
}

// A whole DVD-R goes into the simulator and back. It takes 4.7 GB of disk, so
// it wants SALLYPORT_BIG=1; without it a disc of 64 MiB has to do.
func TestFullDisc(t *testing.T) {
	blocks, dir := uint32(32768), tempDir(t)
	if os.Getenv("SALLYPORT_BIG") == "1" {
		blocks, dir = drivesim.DVDRBlocks, t.TempDir()
	} else {
		t.Log("SALLYPORT_BIG is not 1: burning 64 MiB instead of a full disc of 4.7 GB")
	}
	d, err := drivesim.Open(dir + "/sim")
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	begun := time.Now()
	var phase Phase
	rec, err := Disc(t.Context(), d, Image{Source: numbered{}, Blocks: blocks}, Options{Progress: func(p Progress) {
		if p.Phase != phase {
			t.Logf("%5.1f s: %s", time.Since(begun).Seconds(), p.Phase)
			phase = p.Phase
		}
	}})
	if err != nil || !rec.Verified {
		t.Fatalf("%+v, %v", rec, err)
	}
	took := time.Since(begun)
	t.Logf("%d blocks burnt and read back in %.1f s of real time (%.2f GB/s each way), %d s of the drive's; %d commands",
		blocks, took.Seconds(), 2*float64(blocks)*BlockSize/1e9/took.Seconds(), rec.End-rec.Start, d.Commands())
	// 16x is 22.16 MB/s: a drive that isn't kept busy takes longer.
	if least := int64(blocks) * BlockSize / 22_160_000; rec.End-rec.Start > 3*least+120 {
		t.Errorf("the burn took %d s of the drive's time, %d s at 16x would do", rec.End-rec.Start, least)
	}
}
