package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/bundle/verity"
)

const (
	mib        = 1 << 20
	largeFiles = 4
	smallFiles = 5000
	roots      = 24
)

// bench is what all cases work on.
type bench struct {
	opt  options
	dir  string
	cold bool      // the page cache may be dropped
	bin  string    // sallyport
	self string    // this program
	slow *throttle // of reading; nil where there can be none
}

func newBench(opt options) (*bench, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(opt.dir, "sallyport-bench-")
	if err != nil {
		return nil, err
	}
	b := &bench{opt: opt, dir: dir, bin: filepath.Join(dir, "sallyport"), self: self, cold: dropCaches() == nil}
	if b.cold {
		if b.slow, err = newThrottle(dir); err != nil {
			fmt.Fprintf(os.Stderr, "bench: reading can't be held to the rate of a medium: %v\n", err)
		}
	}
	build := exec.Command("go", "build", "-trimpath", "-o", b.bin, "sallyport/cmd/sallyport")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if err := output(build); err != nil {
		os.RemoveAll(dir)
		return nil, err
	}
	return b, nil
}

func (b *bench) in(name string) string { return filepath.Join(b.dir, name) }

// cases makes what the cases read.
func (b *bench) cases() ([]comparison, error) {
	payload := b.in("payload")
	if err := writePayload(payload, b.opt.size*mib); err != nil {
		return nil, err
	}
	source := rand.NewChaCha8([32]byte{2})
	if err := writeRandom(b.in("few/file"), mib, source, make([]byte, mib)); err != nil {
		return nil, err
	}
	for _, args := range [][]string{
		{"demo", "--payload", b.in("few"), "--keep", b.in("keep")}, // for its trust root and keys
		b.prepare("signed.iso", "--fec-roots", "0"),
		b.prepare("parity.iso", "--fec-roots", fmt.Sprint(roots)),
		{"sign", b.in("signed.iso"), "--key", b.in("keep/keys/preparer.key"), "--yes"},
		{"sign", b.in("signed.iso"), "--key", b.in("keep/keys/approver.key"), "--yes"},
		{"sign", b.in("parity.iso"), "--key", b.in("keep/keys/preparer.key"), "--yes"},
		{"sign", b.in("parity.iso"), "--key", b.in("keep/keys/approver.key"), "--yes"},
	} {
		if err := output(exec.Command(b.bin, args...)); err != nil {
			return nil, err
		}
	}
	image, err := fileSize(b.in("signed.iso"))
	if err != nil {
		return nil, err
	}
	withParity, err := fileSize(b.in("parity.iso"))
	if err != nil {
		return nil, err
	}
	if err := os.Rename(b.in("parity.iso"), b.in("damaged.iso")); err != nil {
		return nil, err
	}
	if err := zeroBurst(b.in("damaged.iso"), withParity/3, withParity/20); err != nil {
		return nil, err
	}
	if err := makeTree(b.in("signed.iso")); err != nil {
		return nil, err
	}
	if err := copyHead(b.in("small.img"), b.in("signed.iso"), b.opt.fec*mib); err != nil {
		return nil, err
	}
	sallyport := func(args ...string) []string { return append([]string{b.bin}, args...) }
	format := side{"veritysetup format --fec-device", []string{"veritysetup", "format", "--data-block-size=2048", "--hash-block-size=2048",
		fmt.Sprint("--fec-roots=", roots), "--fec-device=" + b.in("small.fec"), b.in("small.img"), b.in("small.tree")}, b.in("small.fec"), b.opt.fec * mib}
	dd := side{"dd bs=1M of=/dev/null", []string{"dd", "if=" + b.in("damaged.iso"), "of=/dev/null", "bs=1M", "status=none"}, "", withParity}
	repair := side{"sallyport repair", sallyport("repair", b.in("damaged.iso"), "-o", b.in("repaired.iso")), b.in("repaired.iso"), withParity}
	return []comparison{
		{name: "prepare", goal: 0.6, limit: 0.9,
			ours: side{"sallyport prepare", sallyport(b.prepare("ours.iso", "--fec-roots", "0")...), b.in("ours.iso"), b.opt.size * mib},
			peer: side{"xorriso -as mkisofs -R -J", []string{"xorriso", "-as", "mkisofs", "-R", "-J", "-quiet", "-o", b.in("peer.iso"), payload}, b.in("peer.iso"), b.opt.size * mib}},
		{name: "parity", goal: 150, limit: 50, faster: true,
			ours: side{fmt.Sprintf("%d roots of parity over data and tree", roots), []string{b.self, "-parity", b.in("signed.iso")}, b.in("signed.iso.fec"), image / verity.BlockSize * verity.BlockSize},
			peer: format},
		{name: "tree and parity", faster: true,
			ours: side{fmt.Sprintf("hash tree, then %d roots of parity", roots), []string{b.self, "-encode", b.in("signed.iso")}, b.in("signed.iso.fec"), image / verity.BlockSize * verity.BlockSize},
			peer: format},
		{name: "verify", goal: 1.05, limit: 1.3,
			ours: side{"sallyport verify", sallyport("verify", b.in("signed.iso"), "--trust", b.in("keep/trust.json")), "", image},
			peer: side{"openssl dgst -sha256", []string{"openssl", "dgst", "-sha256", b.in("signed.iso")}, "", image}},
		{name: "repair", goal: 1.5, limit: 3, cold: true, slow: true,
			ours: repair,
			peer: dd},
		{name: "repair from a disk", cold: true,
			ours: repair,
			peer: side{"dd bs=1M conv=fsync to a file", []string{"dd", "if=" + b.in("damaged.iso"), "of=" + b.in("copied.iso"), "bs=1M", "conv=fsync", "status=none"}, b.in("copied.iso"), withParity}},
		{name: "verify damaged", cold: true,
			ours: side{"sallyport verify, repairing on the way", sallyport("verify", b.in("damaged.iso"), "--trust", b.in("keep/trust.json")), "", withParity},
			peer: dd},
	}, nil
}

func (b *bench) prepare(image string, args ...string) []string {
	return append([]string{"prepare", b.in("payload"), "-o", b.in(image), "--channel", "demo", "--trust", b.in("keep/trust.json"), "--epoch", "1"}, args...)
}

// output runs a command whose output is told only if it fails.
func output(cmd *exec.Cmd) error {
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", cmd, err, bytes.TrimSpace(out))
	}
	return nil
}

func fileSize(name string) (int64, error) {
	info, err := os.Stat(name)
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// writePayload makes the same files each time: large ones, and small ones of 100 to 50,000 bytes that take 1/16 of
// size at most, a hundred to a folder.
func writePayload(dir string, size int64) error {
	source := rand.NewChaCha8([32]byte{1})
	random := rand.New(source)
	buf := make([]byte, mib)
	small := min(50_000, 2*size/16/smallFiles)
	rest := size
	for i := range smallFiles {
		n := 100 + random.Int64N(small-100)
		if err := writeRandom(filepath.Join(dir, fmt.Sprintf("d%02d", i/100), fmt.Sprintf("f%02d", i%100)), n, source, buf); err != nil {
			return err
		}
		rest -= n
	}
	for i := range largeFiles {
		if err := writeRandom(filepath.Join(dir, fmt.Sprintf("large%d", i)), rest/largeFiles, source, buf); err != nil {
			return err
		}
	}
	return nil
}

func writeRandom(name string, size int64, source *rand.ChaCha8, buf []byte) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	for size > 0 && err == nil {
		b := buf[:min(size, int64(len(buf)))]
		source.Read(b)
		_, err = f.Write(b)
		size -= int64(len(b))
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	then := time.Unix(1_000_000_000, 0)
	return os.Chtimes(name, then, then)
}

// zeroBurst overwrites whole blocks with zeros.
func zeroBurst(name string, off, size int64) error {
	f, err := os.OpenFile(name, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	zeros := make([]byte, verity.BlockSize)
	first := off / verity.BlockSize
	for i := first; i < first+size/verity.BlockSize && err == nil; i++ {
		_, err = f.WriteAt(zeros, i*verity.BlockSize)
	}
	return errors.Join(err, f.Close())
}

func copyHead(to, from string, size int64) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = io.CopyN(out, in, size)
	return errors.Join(err, out.Close())
}

// makeTree writes the hash tree of a file beside it.
func makeTree(name string) error {
	data, err := os.Open(name)
	if err != nil {
		return err
	}
	defer data.Close()
	info, err := data.Stat()
	if err != nil {
		return err
	}
	p := verity.Params{DataBlocks: info.Size() / verity.BlockSize, Salt: make([]byte, 32)}
	tree, err := os.Create(name + ".tree")
	if err != nil {
		return err
	}
	w, err := verity.NewTreeWriter(tree, p)
	if err == nil {
		_, err = io.CopyBuffer(struct{ io.Writer }{w}, io.NewSectionReader(data, 0, p.DataBlocks*verity.BlockSize), make([]byte, mib))
	}
	if err == nil {
		_, err = w.Close()
	}
	return errors.Join(err, tree.Close())
}

// makeParity writes the parity of a file and its tree beside them, as veritysetup format does.
func makeParity(name string) error {
	data, err := os.Open(name)
	if err != nil {
		return err
	}
	defer data.Close()
	tree, err := os.Open(name + ".tree")
	if err != nil {
		return err
	}
	defer tree.Close()
	dataInfo, err := data.Stat()
	if err != nil {
		return err
	}
	treeInfo, err := tree.Stat()
	if err != nil {
		return err
	}
	// Past the page cache where that is possible, as sallyport writes images: syncing at the end would wait for all of it.
	parity, err := os.OpenFile(name+".fec", os.O_WRONLY|os.O_CREATE|os.O_TRUNC|unix.O_DIRECT, 0o644)
	if errors.Is(err, unix.EINVAL) {
		parity, err = os.Create(name + ".fec")
	}
	if err != nil {
		return err
	}
	blocks := dataInfo.Size() / verity.BlockSize
	err = verity.EncodeFEC(context.Background(), twoFiles{data, tree, blocks * verity.BlockSize}, blocks+treeInfo.Size()/verity.BlockSize, roots, parity, nil)
	if err == nil {
		err = unix.Fdatasync(int(parity.Fd()))
	}
	return errors.Join(err, parity.Close())
}

// twoFiles is one behind the other.
type twoFiles struct {
	a, b  *os.File
	split int64
}

func (t twoFiles) ReadAt(p []byte, off int64) (int, error) {
	if off >= t.split {
		return t.b.ReadAt(p, off-t.split)
	}
	head := p[:min(int64(len(p)), t.split-off)]
	n, err := t.a.ReadAt(head, off)
	if err != nil || n == len(p) {
		return n, err
	}
	m, err := t.b.ReadAt(p[n:], 0)
	return n + m, err
}
