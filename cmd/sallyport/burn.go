package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"sallyport/bundle"
	"sallyport/bundle/importlog"
	"sallyport/burn"
	"sallyport/burn/drivesim"
)

type burnCmd struct {
	File  string `arg:"" help:"The signed bundle image." type:"path"`
	Drive string `required:"" help:"The recorder: sim:DIR, a simulated DVD-R recorder whose disc lives in DIR." placeholder:"DRIVE"`
	Trust string `help:"Check the signatures against this trust root first." placeholder:"FILE"`
	State string `help:"Number the disc and note the burn in the log of this state directory; needs --trust." type:"path" placeholder:"DIR"`
	stationKeyFlag
	Number   int  `help:"The disc's number, for the record, without --state." default:"1"`
	Speed    int  `help:"Writing speed in kB/s (default: the drive's choice)."`
	Unsigned bool `help:"Burn although nobody has signed: a burnt disc can't be signed any more."`
}

func (c *burnCmd) Help() string {
	return `Checks the image, burns it, finalises the disc so that nothing can be added, reloads it, and compares all of it
with what was burnt. sim:DIR is made with a blank disc when it isn't there.

Example: sallyport burn bundle.iso --drive sim:drive`
}

type burnResult struct {
	Record *burn.Record `json:"record"`
}

func (r *burnResult) text(w io.Writer) {
	rec := r.Record
	fmt.Fprintf(w, "drive        %s %s, serial %s\n", printable(rec.Drive.Vendor), printable(rec.Drive.Product), printable(rec.Drive.Serial))
	fmt.Fprintf(w, "disc         number %d, %s, %s, id %s\n", rec.DiscNumber, printable(rec.Medium.Type), printable(rec.Medium.ID), orUnknown(printable(rec.Medium.UniqueID)))
	fmt.Fprintf(w, "image        %s, SHA-256 %s\n", bytesText(int64(rec.ImageBlocks)*bundle.BlockSize), orUnknown(rec.ImageSHA256))
	for _, warning := range rec.Warnings {
		fmt.Fprintf(w, "warning      %s\n", printable(warning))
	}
	switch {
	case rec.Verified:
		fmt.Fprintf(w, "read back    equal, after reloading; finalised\n")
	case rec.Spoiled:
		fmt.Fprintf(w, "spoiled      this disc is neither blank nor good: destroy it\n")
	}
}

func orUnknown(s string) string {
	if s == "" {
		return "unknown"
	}
	return s
}

func (c *burnCmd) run(e *env) (result, error) {
	switch {
	case c.State != "" && c.Trust == "":
		return nil, usagef("--state needs --trust")
	case c.Number < 1:
		return nil, usagef("--number %d: discs are numbered from 1", c.Number)
	case c.Speed < 0:
		return nil, usagef("--speed %d: a speed is a number of kB/s", c.Speed)
	}
	res, err := c.burn(e)
	if res == nil { // nothing was written
		return nil, leaving("the disc is untouched", err)
	}
	return res, err
}

// burn returns a result once something was written to the disc.
func (c *burnCmd) burn(e *env) (*burnResult, error) {
	src, err := e.openSource(c.File)
	if err != nil {
		return nil, err
	}
	defer src.Close()
	if src.Medium {
		return nil, usagef("%s is not an image file", c.File)
	}
	checked, sum, err := c.check(e, src)
	if err != nil {
		return nil, about(c.File, err)
	}
	var log *importlog.Log
	opt := burn.Options{Number: c.Number, Speed: c.Speed}
	if c.State != "" {
		root, err := loadTrust(c.Trust)
		if err != nil {
			return nil, err
		}
		st, err := e.openOrMakeState(c.State, c.StationKey, root)
		if err != nil {
			return nil, err
		}
		defer st.Close()
		log = st.log
		opt.Begin = func() (int, error) {
			number, err := log.LogBurnBegins(fmt.Sprintf("%x", checked.Digest()), e.now())
			return int(number), err
		}
	}
	drive, err := newDrive(c.Drive)
	if err != nil {
		return nil, err
	}
	defer drive.Close()
	bar := e.progress()
	opt.Progress = func(p burn.Progress) {
		if p.Total > 0 {
			bar.update(string(p.Phase), int64(p.Done)*bundle.BlockSize, int64(p.Total)*bundle.BlockSize)
		}
	}
	rec, err := burn.Disc(e.ctx, drive, burn.Image{Source: checked.Image(), Blocks: uint32(checked.Geometry.ImageBlocks()), SHA256: sum}, opt)
	bar.end(err)
	err = about(c.Drive, err)
	if rec == nil || !rec.Verified && !rec.Spoiled {
		return nil, err
	}
	if log != nil && (rec.Verified || rec.Spoiled) {
		err = errors.Join(err, logBurn(e, log, checked, rec))
	}
	return &burnResult{rec}, err
}

// check reads the whole image before a disc is spent on it, and returns its SHA-256 too: that was taken first, so
// that what doesn't agree with it later on is not what was checked.
func (c *burnCmd) check(e *env, src *source) (*bundle.Contents, []byte, error) {
	claims, err := bundle.Inspect(e.ctx, src.Source)
	if err != nil {
		return nil, nil, err
	}
	bar := e.progress()
	sum, err := burn.Digest(e.ctx, burn.Image{Source: src, Blocks: uint32(claims.Geometry.ImageBlocks())}, func(done, total int64) {
		bar.update("digest", done, total)
	})
	bar.end(err)
	if err != nil {
		return nil, nil, err
	}
	bar = e.progress()
	checked, err := bundle.Check(e.ctx, src.Source, nil, bar.update)
	bar.end(err)
	if err != nil {
		return nil, nil, err
	}
	sigs, err := checked.Signatures()
	if err != nil {
		return nil, nil, err
	}
	if len(sigs) == 0 && !c.Unsigned {
		return nil, nil, usagef("nobody has signed %s, and a burnt disc can't be signed any more: sallyport sign first (or --unsigned)", c.File)
	}
	if c.Trust == "" {
		return checked, sum, nil
	}
	root, err := loadTrust(c.Trust)
	if err != nil {
		return nil, nil, err
	}
	return checked, sum, checked.Authorize(root)
}

func logBurn(e *env, log *importlog.Log, checked *bundle.Contents, rec *burn.Record) error {
	b, err := json.Marshal(rec)
	if err != nil {
		return err
	}
	record := jsontext.Value(b)
	if err := record.Canonicalize(); err != nil {
		return err
	}
	_, err = log.LogBurned(fmt.Sprintf("%x", checked.Digest()), record, e.now())
	return err
}

// openDrive opens a recorder. Close it when done.
func openDrive(name string) (*drivesim.Drive, error) {
	dir, ok := strings.CutPrefix(name, "sim:")
	if !ok || dir == "" {
		return nil, usagef("drive %q: this version burns with sim:DIR, a simulated recorder", name)
	}
	drive, err := drivesim.Open(dir)
	return drive, pathError(err)
}

// isSimulated tells whether a drive was made in dir before.
func isSimulated(dir string) bool {
	_, err := os.Lstat(filepath.Join(dir, "state.json"))
	return err == nil
}

// newDrive opens a recorder to burn with. A simulated one is made only in a directory that is new or empty.
func newDrive(name string) (*drivesim.Drive, error) {
	if dir, ok := strings.CutPrefix(name, "sim:"); ok && !isSimulated(dir) {
		list, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, pathError(err)
		}
		if len(list) > 0 {
			return nil, usagef("%s holds no simulated drive, and other things: name a new directory", dir)
		}
	}
	return openDrive(name)
}

// openSimulated opens the finished disc in a simulated drive.
func (e *env) openSimulated(dir string) (*source, error) {
	if !isSimulated(dir) {
		return nil, usagef("%q holds no simulated drive: sallyport burn --drive sim:DIR makes one", dir)
	}
	drive, err := openDrive("sim:" + dir)
	if err != nil {
		return nil, err
	}
	disc, err := burn.OpenDisc(e.ctx, drive, burn.ReadOptions{})
	if err != nil {
		return nil, about("sim:"+dir, errors.Join(err, drive.Close()))
	}
	return &source{
		Source: bundle.Source{ReaderAt: disc, Size: disc.Size(), Medium: true, Gone: func(err error) bool {
			_, block := errors.AsType[*burn.ReadError](err)
			return !block
		}},
		close: func() error { return errors.Join(disc.Close(), drive.Close()) },
	}, nil
}
