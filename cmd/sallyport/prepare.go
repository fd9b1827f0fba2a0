package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/term"

	"sallyport/bundle"
	"sallyport/bundle/canonjson"
	"sallyport/bundle/trust"
	"sallyport/scan"
)

type prepareCmd struct {
	Dir       string `arg:"" help:"The directory to carry." type:"path"`
	Output    string `short:"o" required:"" help:"The image file to write; - for standard output." placeholder:"FILE"`
	Channel   string `required:"" help:"The channel it goes through."`
	Trust     string `required:"" help:"The trust root." placeholder:"FILE"`
	Sequence  *int64 `help:"Its number in the channel (default: one more than --previous, else 1)."`
	Previous  string `help:"The bundle before it in the channel: its image, or its SEAL.json." placeholder:"SEAL"`
	Epoch     *int64 `help:"When it counts as made, in seconds since 1970 (default: SOURCE_DATE_EPOCH, else the newest mtime)."`
	FECRoots  string `help:"Parity bytes a codeword: 0, 2 to 24 (default: what room --medium leaves)." name:"fec-roots" placeholder:"N"`
	Medium    string `help:"What it has to fit on: ${enum}." enum:"dvd-r,dvd+r,cd-r,usb,file" default:"file"`
	LeaveOut  bool   `help:"Leave out what can't be carried instead of refusing, and list it."`
	CaseClash bool   `help:"Let names pass that differ only in case (Linux source trees have some)."`
	State     string `help:"Note the preparation in the log of this state directory." type:"path" placeholder:"DIR"`
	stationKeyFlag
}

func (c *prepareCmd) Help() string {
	return `The same directory and options give the same bytes, whoever prepares, wherever and whenever.

Examples:
  sallyport prepare sources -o bundle.iso --channel news --trust trust.json --medium dvd-r
  sallyport prepare sources -o next.iso --channel news --trust trust.json --previous bundle.iso`
}

// capacity in blocks of 2,048 bytes; 0: no limit. dvd-r and dvd+r as drives report them; cd-r of 80 minutes.
var capacity = map[string]int64{"dvd-r": 2298496, "dvd+r": 2295104, "cd-r": 359846, "usb": 0, "file": 0}

type sealResult struct {
	Image       string       `json:"image,omitempty"`
	Bytes       int64        `json:"bytes"`
	Files       int          `json:"files,omitempty"`
	Payload     int64        `json:"payload_bytes,omitempty"`
	Fingerprint string       `json:"seal_digest"`
	Seal        *bundle.Seal `json:"seal"`
	LeftOut     *scan.Report `json:"left_out,omitempty"`
	Notes       []string     `json:"notes,omitempty"`
}

func (r *sealResult) text(w io.Writer) {
	if r.LeftOut != nil {
		fmt.Fprintln(w, "left out:")
		_ = r.LeftOut.WriteText(w)
	}
	writeSeal(w, r.Seal)
	if r.Files > 0 {
		fmt.Fprintf(w, "payload      %d files, %s\n", r.Files, bytesText(r.Payload))
	}
	fmt.Fprintf(w, "seal digest  %s\n", r.Fingerprint)
	if r.Image != "" {
		fmt.Fprintf(w, "image        %s, %s\n", r.Image, bytesText(r.Bytes))
	}
	for _, n := range r.Notes {
		fmt.Fprintf(w, "note         %s\n", printable(n))
	}
}

// writeSeal shows a seal to people.
func writeSeal(w io.Writer, s *bundle.Seal) {
	previous := "none, the first"
	if s.Previous != "" {
		previous = s.Previous
	}
	fmt.Fprintf(w, "channel      %s\nsequence     %d\nprevious     %s\ndestination  %s\ncreated      %s\nexpires      %s\nbundle id    %s\nroot hash    %s\nparity       %s\n",
		s.Channel, s.Sequence, previous, s.Destination, timeText(s.Created), timeText(s.Expires), s.BundleID, s.Verity.Root, parityText(s))
}

func parityText(s *bundle.Seal) string {
	if s.FEC.Roots == 0 {
		return "none"
	}
	return fmt.Sprintf("%d roots, %s", s.FEC.Roots, bytesText(s.FEC.Blocks*bundle.BlockSize))
}

func timeText(t int64) string {
	if t == 0 {
		return "never"
	}
	return time.Unix(t, 0).UTC().Format("2006-01-02 15:04:05 UTC")
}

func bytesText(n int64) string {
	switch {
	case n >= 10e9:
		return fmt.Sprintf("%.1f GB", float64(n)/1e9)
	case n >= 1e6:
		return fmt.Sprintf("%.1f MB", float64(n)/1e6)
	}
	return fmt.Sprintf("%d bytes", n)
}

func (c *prepareCmd) run(e *env) (result, error) {
	root, err := loadTrust(c.Trust)
	if err != nil {
		return nil, err
	}
	channel, ok := root.Channel(c.Channel)
	if !ok {
		return nil, usagef("%s has no channel %q; it has %s", c.Trust, c.Channel, channelNames(root))
	}
	opt, err := c.options(channel)
	if err != nil {
		return nil, err
	}
	if err := checkDir(c.Dir); err != nil {
		return nil, err
	}
	if err := c.checkPlaces(e); err != nil {
		return nil, err
	}
	var st *state
	if c.State != "" {
		if st, err = e.openOrMakeState(c.State, c.StationKey, root); err != nil {
			return nil, err
		}
		defer st.Close()
	}
	src, err := bundle.OpenDir(c.Dir)
	if err != nil {
		return nil, err
	}
	defer src.Close()
	report, err := scan.Check(e.ctx, src, scan.Limits{AllowCaseClash: c.CaseClash})
	if err != nil {
		return nil, about(c.Dir, err)
	}
	res := &sealResult{}
	if err := report.Err(); err != nil {
		if !c.LeaveOut {
			return &refusedPayload{report}, about(c.Dir, &adviceError{"sallyport scan lists all there is; --leave-out carries the rest", err})
		}
		opt.LeaveOut, res.LeftOut = report.Refused, report
	}
	plan, err := bundle.NewPlan(e.ctx, src, opt)
	if err != nil {
		return nil, about(c.Dir, err)
	}
	if err := checkAge(opt, plan.Entries(), e.now()); err != nil {
		return nil, err
	}
	bar := e.progress()
	var seal *bundle.Seal
	if c.Output == "-" {
		seal, err = plan.WriteTo(e.ctx, e.stdout, bar.update)
	} else {
		seal, err = plan.WriteFile(e.ctx, c.Output, bar.update)
		res.Image = c.Output
	}
	bar.end(err)
	if err != nil {
		return nil, about(c.Dir, err)
	}
	if err := res.describe(seal, plan.Entries()); err != nil {
		return nil, err
	}
	if st != nil {
		if err := st.logPreparation(e, seal); err != nil {
			return nil, &unfinishedError{"the image is written, and its preparation could not be logged", err}
		}
	}
	if c.Output == "-" {
		res.text(e.stderr)
		return nil, nil
	}
	return res, nil
}

// refusedPayload is the report on a payload that isn't carried: for --json only, beside an image on standard output
// or the line that says why.
type refusedPayload struct {
	Report *scan.Report `json:"report"`
}

func (*refusedPayload) text(io.Writer) {}

// checkPlaces finds what would come to nothing, or would make the payload grow, before it is read.
func (c *prepareCmd) checkPlaces(e *env) error {
	if c.State != "" {
		if err := apart("the state directory", c.State, "the payload", c.Dir); err != nil {
			return err
		}
	}
	switch {
	case c.Output == "-" && e.json:
		return usagef("-o - writes the image to standard output, where --json would go")
	case c.Output == "-":
		if f, ok := e.stdout.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
			return usagef("-o - writes the image to standard output, which is a terminal: redirect it")
		}
		return nil
	}
	if err := apart("the image", c.Output, "the payload", c.Dir); err != nil {
		return err
	}
	return checkOutput(c.Output)
}

// checkAge refuses to make what nobody could import any more, unless the epoch was given: that is how an old bundle
// is made again. The clock serves this check only, and nothing of it gets into the image.
func checkAge(opt bundle.Options, entries []bundle.Entry, now time.Time) error {
	if opt.MaxAge == 0 || opt.Epoch != nil {
		return nil
	}
	var newest int64
	for i := range entries {
		newest = max(newest, entries[i].MTime)
	}
	if newest+opt.MaxAge > now.Unix() {
		return nil
	}
	return usagef("the bundle would have expired at %s, because its newest file is of %s: give --epoch $(date +%%s) to date it today (or --epoch %d)",
		timeText(newest+opt.MaxAge), timeText(newest), newest)
}

func channelNames(root *trust.Root) string {
	var names []string
	for _, c := range root.Document().Channels {
		names = append(names, c.Name)
	}
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}

func (r *sealResult) describe(seal *bundle.Seal, entries []bundle.Entry) error {
	message, err := seal.Encode()
	if err != nil {
		return err
	}
	r.Seal, r.Bytes, r.Fingerprint = seal, seal.ImageBlocks*bundle.BlockSize, fmt.Sprintf("%x", bundle.Digest(message))
	for i := range entries {
		if entries[i].Type == bundle.File {
			r.Files++
			r.Payload += entries[i].Size
		}
	}
	return nil
}

func (c *prepareCmd) options(channel trust.Channel) (bundle.Options, error) {
	opt := bundle.Options{
		Channel: c.Channel, Destination: channel.Destination, Sequence: 1, Epoch: c.Epoch, MaxAge: channel.MaxAge,
		Capacity: capacity[c.Medium],
	}
	if c.Previous != "" {
		seal, digest, err := readSeal(c.Previous)
		if err != nil {
			return opt, err
		}
		if seal.Channel != c.Channel {
			return opt, usagef("%s belongs to channel %q, not %q", c.Previous, seal.Channel, c.Channel)
		}
		opt.Previous, opt.Sequence = digest, seal.Sequence+1
		if c.Sequence != nil && *c.Sequence <= seal.Sequence {
			return opt, usagef("--sequence %d doesn't come after %d, the sequence of %s", *c.Sequence, seal.Sequence, c.Previous)
		}
	}
	if c.Sequence != nil {
		opt.Sequence = *c.Sequence
	}
	if opt.Sequence < 1 || opt.Sequence > canonjson.MaxInt {
		return opt, usagef("sequence %d: must be 1 to %d", opt.Sequence, int64(canonjson.MaxInt))
	}
	if s := os.Getenv("SOURCE_DATE_EPOCH"); s != "" && opt.Epoch == nil {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			return opt, usagef("SOURCE_DATE_EPOCH is %q: must be a number, of seconds since 1970", s)
		}
		opt.Epoch = &n
	}
	if opt.Epoch != nil && (*opt.Epoch < 0 || *opt.Epoch > lastEpoch) {
		return opt, usagef("epoch %d: must be 0 to %d, in seconds since 1970", *opt.Epoch, int64(lastEpoch))
	}
	switch n, err := strconv.Atoi(c.FECRoots); {
	case c.FECRoots != "" && (err != nil || n < 0 || n == 1 || n > 24):
		return opt, usagef("--fec-roots %s: must be 0, or 2 to 24", c.FECRoots)
	case c.FECRoots != "":
		opt.Roots = n
	case opt.Capacity > 0:
		opt.Roots = bundle.MaxRoots
	}
	return opt, nil
}

// lastEpoch is the end of 2155, the last year of ISO 9660 (docs/format.md, section 4).
const lastEpoch = 5869583999

// readSeal reads a seal from an image or from a SEAL.json, and returns its digest too.
func readSeal(path string) (*bundle.Seal, string, error) {
	f, info, err := openInput(path)
	if err != nil {
		return nil, "", err
	}
	defer f.Close()
	if info.Size() > maxSealBytes {
		c, err := bundle.Inspect(context.Background(), bundle.Source{ReaderAt: f, Size: info.Size()})
		if err != nil {
			return nil, "", usagef("%s: %v", path, err)
		}
		return c.Seal, fmt.Sprintf("%x", c.Digest()), nil
	}
	data, err := io.ReadAll(io.LimitReader(f, maxSealBytes+1))
	if err != nil {
		return nil, "", err
	}
	seal, err := bundle.ParseSeal(data)
	if err != nil {
		return nil, "", usagef("%s: %v", path, err)
	}
	message, err := seal.Encode()
	if err != nil {
		return nil, "", err
	}
	return seal, fmt.Sprintf("%x", bundle.Digest(message)), nil
}

const maxSealBytes = 8192

func loadTrust(path string) (*trust.Root, error) {
	root, err := trust.Load(path)
	return root, pathError(err)
}
