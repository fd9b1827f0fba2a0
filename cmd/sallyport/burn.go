package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"sallyport/bundle"
	"sallyport/bundle/importlog"
	"sallyport/burn"
)

type burnCmd struct {
	File   string `arg:"" help:"The signed bundle image; with --seal the directory." type:"path"`
	Drive  string `required:"" help:"The recorder: /dev/sr0, or sim:DIR, a simulated one whose disc lives in DIR." placeholder:"DRIVE"`
	Copies int    `help:"How many good discs to burn, one after another. A spoiled one is replaced." default:"1" placeholder:"N"`
	Trust  string `help:"Check the signatures against this trust root first." placeholder:"FILE"`
	State  string `help:"Number the discs and note the burns in the log of this state directory; needs --trust." type:"path" placeholder:"DIR"`
	stationKeyFlag
	Number   int    `help:"The first disc's number, for the record, without --state." default:"1"`
	Speed    string `help:"Writing speed: 8x, or a number of kB/s (default: the drive's choice)." placeholder:"SPEED"`
	VerifyIn string `help:"Read each disc back in this second drive, too: somebody carries it over." placeholder:"DRIVE"`
	Seal     string `help:"Burn a directory, without an image of it on a disk: as this seal, which sallyport plan made, with the signatures beside it." type:"path" placeholder:"SEAL.json"`
	scanFlags
	NoPrompt bool `help:"Ask nobody for anything: what needs a person is an error."`
	Unsigned bool `help:"Burn although nobody has signed: a burnt disc can't be signed any more."`
}

func (c *burnCmd) Help() string {
	return `Checks the image, burns it on a blank CD-R, DVD-R, DVD+R or BD-R, finalises the disc so that nothing can be added,
reloads it, and compares all of it with what was burnt. sim:DIR is made with a blank disc when it isn't there; with
--copies the further discs of a simulated drive are in DIR-2, DIR-3 and so on.

With --seal the image is made while it is burnt, and needs no room on a disk but 2 % of it. The directory is read
before, so that one that has changed since sallyport plan costs no disc; one that changes meanwhile leaves a disc
that was never closed.

Examples:
  sallyport burn bundle.iso --drive /dev/sr0 --copies 2 --verify-in /dev/sr1
  sallyport burn sources --seal SEAL.json --trust trust.json --drive /dev/sr0`
}

type burnResult struct {
	Record  *burn.Record   `json:"record"`            // of the last disc
	Records []*burn.Record `json:"records,omitempty"` // of all discs that were written to, when it is more than one
}

func (r *burnResult) text(w io.Writer) {
	records := r.Records
	if records == nil {
		records = []*burn.Record{r.Record}
	}
	for i, rec := range records {
		if i > 0 {
			fmt.Fprintln(w)
		}
		burnText(w, rec)
	}
}

func burnText(w io.Writer, rec *burn.Record) {
	fmt.Fprintf(w, "drive        %s\n", driveText(rec.Drive))
	fmt.Fprintf(w, "disc         number %d, %s, %s, id %s\n", rec.DiscNumber, printable(rec.Medium.Type), orUnknown(printable(rec.Medium.ID)), orUnknown(printable(rec.Medium.UniqueID)))
	fmt.Fprintf(w, "image        %s, SHA-256 %s\n", bytesText(int64(rec.ImageBlocks)*bundle.BlockSize), orUnknown(rec.ImageSHA256))
	if rec.WriteKBs > 0 {
		fmt.Fprintf(w, "written      %s, at %d kB/s\n", rec.WriteMode, rec.WriteKBs)
	}
	for _, warning := range rec.Warnings {
		fmt.Fprintf(w, "warning      %s\n", printable(warning))
	}
	switch {
	case rec.Verified:
		fmt.Fprintf(w, "read back    equal, after reloading; finalised\n")
	case rec.Spoiled && rec.Failure != nil:
		fmt.Fprintf(w, "spoiled      %s, LBA %d: this disc is neither blank nor good: destroy it\n", rec.Failure.Phase, rec.Failure.LBA)
	}
	if s := rec.Second; s != nil && s.Verified {
		fmt.Fprintf(w, "second drive %s: equal, too\n", driveText(s.Drive))
	}
}

func driveText(d burn.DriveInfo) string {
	return fmt.Sprintf("%s %s, serial %s", printable(d.Vendor), printable(d.Product), orUnknown(printable(d.Serial)))
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
	case c.Seal == "" && (c.LeaveOut || c.CaseClash):
		return nil, usagef("--leave-out and --case-clash are for directories: they need --seal")
	case c.Number < 1:
		return nil, usagef("--number %d: discs are numbered from 1", c.Number)
	case c.Copies < 1 || c.Copies > 999:
		return nil, usagef("--copies %d: 1 to 999 discs are burnt in one go", c.Copies)
	}
	if _, _, err := c.speed(); err != nil {
		return nil, err
	}
	if err := c.checkHands(e); err != nil {
		return nil, err
	}
	res, err := c.burn(e)
	if res == nil { // nothing was written
		return nil, leaving("the disc is untouched", err)
	}
	return res, err
}

// speed reads --speed: kB/s, or a multiple of 1×.
func (c *burnCmd) speed() (kbs, times int, err error) {
	if c.Speed == "" {
		return 0, 0, nil
	}
	number, isTimes := strings.CutSuffix(c.Speed, "x")
	n, err := strconv.ParseUint(number, 10, 20)
	switch {
	case err != nil || n == 0 || isTimes && n > 100:
		return 0, 0, usagef("--speed %s: a speed is a number of kB/s, or of times, like 8x", c.Speed)
	case isTimes:
		return 0, int(n), nil
	}
	return int(n), 0, nil
}

// burn returns a result once something was written to a disc.
func (c *burnCmd) burn(e *env) (*burnResult, error) {
	open := c.openImage
	if c.Seal != "" {
		open = c.openPlanned
	}
	img, err := open(e)
	if err != nil {
		return nil, err
	}
	defer img.Close()
	job := burn.Copies{Count: c.Copies, Image: img.image}
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
		job.Begin = func() (int, error) {
			number, err := st.log.LogBurnBegins(img.digest, e.now())
			return int(number), err
		}
		job.Done = func(rec *burn.Record, _ error) error { return logBurn(e, st.log, img.digest, rec) }
	}
	return c.burnDiscs(e, job)
}

// openImage judges an image file.
func (c *burnCmd) openImage(e *env) (*burnable, error) {
	if info, err := os.Stat(c.File); err == nil && info.IsDir() {
		return nil, usagef("%s is a directory: sallyport prepare makes an image of it; or sallyport plan a seal, and burn --seal SEAL.json burns it without one", c.File)
	}
	src, err := e.openSource(c.File)
	if err != nil {
		return nil, err
	}
	if src.Medium {
		src.Close()
		return nil, usagef("%s is not an image file", c.File)
	}
	checked, sum, err := c.check(e, src)
	if err != nil {
		src.Close()
		return nil, about(c.File, err)
	}
	return &burnable{
		image:  burn.Image{Source: checked.Image(), Blocks: uint32(checked.Geometry.ImageBlocks()), SHA256: sum},
		digest: fmt.Sprintf("%x", checked.Digest()),
		close:  src.Close,
	}, nil
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

func logBurn(e *env, log *importlog.Log, digest string, rec *burn.Record) error {
	b, err := json.Marshal(rec)
	if err != nil {
		return err
	}
	record := jsontext.Value(b)
	if err := record.Canonicalize(); err != nil {
		return err
	}
	_, err = log.LogBurned(digest, record, e.now())
	return err
}
