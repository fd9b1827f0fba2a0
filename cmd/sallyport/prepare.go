package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"sallyport/bundle"
	"sallyport/bundle/canonjson"
	"sallyport/bundle/trust"
	"sallyport/scan"
)

type prepareCmd struct {
	Dir    string `arg:"" help:"The directory to carry." type:"path"`
	Output string `short:"o" required:"" help:"The image file to write; - for standard output." placeholder:"FILE"`
	whatFlags
	Seal  string `help:"Make the image that was planned, with the signatures that lie beside this seal." type:"path" placeholder:"SEAL.json"`
	State string `help:"Note the preparation in the log of this state directory." type:"path" placeholder:"DIR"`
	stationKeyFlag
}

// whatFlags say what a bundle is to be.
type whatFlags struct {
	Channel  string `help:"The channel it goes through; needed, but for prepare --seal." placeholder:"NAME"`
	Trust    string `help:"The trust root; needed, but for prepare --seal." placeholder:"FILE"`
	Sequence *int64 `help:"Its number in the channel (default: one more than --previous, else 1)."`
	Previous string `help:"The bundle before it in the channel: its image, or its SEAL.json." placeholder:"SEAL"`
	Epoch    *int64 `help:"When it counts as made, in seconds since 1970 (default: SOURCE_DATE_EPOCH, else the newest mtime)."`
	FECRoots string `help:"Parity bytes a codeword: 0, 2 to 24 (default: what room a --medium with a size leaves, 24 at most; none for file and usb)." name:"fec-roots" placeholder:"N"`
	Medium   string `help:"What it has to fit on: ${enum}." enum:"dvd-r,dvd+r,cd-r,usb,file" default:"file"`
	scanFlags
}

// scanFlags say what of a directory is carried.
type scanFlags struct {
	LeaveOut  bool `help:"Leave out what can't be carried instead of refusing, and list it."`
	CaseClash bool `help:"Let names pass that differ only in case (Linux source trees have some)."`
}

func (c *prepareCmd) Help() string {
	return `The same directory and options give the same bytes, whoever prepares, wherever and whenever.

Examples:
  sallyport prepare sources -o bundle.iso --channel news --trust trust.json --medium dvd-r
  sallyport prepare sources -o next.iso --channel news --trust trust.json --previous bundle.iso
  sallyport prepare sources -o bundle.iso --seal SEAL.json --trust trust.json

With --seal everything comes from a seal that sallyport plan made. Signatures beside it go into the image's slots:
SEAL.json.minisig, SEAL.json.asc and SEAL.json.sig, and the same with a name between, as in SEAL.json.alice.asc. With
--trust each of them must be good.

An image that nobody has signed is replaced, and so is an empty file; anything else that stands at FILE stays.`
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

	aloud bool // show the seal digest as people read it to each other
}

func (r *sealResult) text(w io.Writer) {
	if r.LeftOut != nil {
		fmt.Fprintln(w, "left out:")
		_ = r.LeftOut.WriteText(w)
	}
	writeSeal(w, r.Seal)
	if r.Files > 0 {
		fmt.Fprintf(w, "payload      %s, %s\n", counted(int64(r.Files), "file"), bytesText(r.Payload))
	}
	if r.aloud {
		fmt.Fprintf(w, "read aloud   %s (the seal digest)\n", readAloud(r.Fingerprint))
	} else {
		fmt.Fprintf(w, "seal digest  %s\n", r.Fingerprint)
	}
	if r.Image != "" {
		fmt.Fprintf(w, "image        %s, %s\n", r.Image, bytesText(r.Bytes))
	}
	for _, n := range r.Notes {
		fmt.Fprintf(w, "note         %s\n", printable(plainNote(n)))
	}
}

// plainNote says what a note means, where its own words are for those who look into it.
func plainNote(note string) string {
	why, ok := strings.CutPrefix(note, "parity-damaged: ")
	if !ok {
		return note
	}
	return "the payload is good; its parity is damaged, so further damage may not heal: make a fresh copy with sallyport repair (parity-damaged: " + why + ")"
}

// writeSeal shows a seal to people.
func writeSeal(w io.Writer, s *bundle.Seal) {
	previous := s.Previous
	switch {
	case previous != "":
	case s.Sequence == 1:
		previous = "none, the first"
	default:
		previous = "none named"
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
	opt, root, planned, err := c.what()
	if err != nil {
		return nil, err
	}
	if err := checkDir(c.Dir); err != nil {
		return nil, err
	}
	if c.State != "" {
		if err := apart("the state directory", c.State, "the payload", c.Dir); err != nil {
			return nil, err
		}
	}
	if err := checkPlaces(e, c.Output, "image", c.Dir); err != nil {
		return nil, err
	}
	res := &prepareResult{sealResult: &sealResult{}}
	if planned != nil {
		if err := res.takeOver(e, planned, root); err != nil {
			return nil, err
		}
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
	plan, refused, err := c.plan(e, src, c.Dir, opt, res.sealResult)
	if err != nil {
		return refused, err
	}
	if planned != nil {
		if err := plan.Expect(planned.Seal, planned.Texts()); err != nil {
			return nil, about(c.Dir, err)
		}
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
	res.noteGap()
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

// what finds out from the flags, or from a planned seal, what the bundle is to be. Without --trust, which only
// --seal allows, root is nil.
func (c *prepareCmd) what() (opt bundle.Options, root *trust.Root, planned *bundle.Planned, err error) {
	if c.Seal == "" {
		opt, root, err = c.options()
		return opt, root, nil, err
	}
	if c.Channel != "" || c.Sequence != nil || c.Previous != "" || c.Epoch != nil || c.FECRoots != "" {
		return opt, nil, nil, usagef("--seal says all that --channel, --sequence, --previous, --epoch and --fec-roots could: leave them out")
	}
	if c.State != "" && c.Trust == "" {
		return opt, nil, nil, usagef("--state needs --trust")
	}
	if planned, err = readPlanned(c.Seal); err != nil {
		return opt, nil, nil, err
	}
	if c.Trust != "" {
		if root, err = loadTrust(c.Trust); err != nil {
			return opt, nil, nil, err
		}
	}
	opt = planned.Seal.Options()
	opt.Capacity = capacity[c.Medium]
	return opt, root, planned, nil
}

func readPlanned(path string) (*bundle.Planned, error) {
	planned, err := bundle.ReadPlanned(path)
	return planned, about(path, pathError(err))
}

type prepareResult struct {
	*sealResult
	Signatures []takenOver `json:"signatures,omitempty"`
}

type takenOver struct {
	File  string `json:"file"`
	KeyID string `json:"key_id"`
	Slot  int    `json:"slot"`
}

func (r *prepareResult) text(w io.Writer) {
	r.sealResult.text(w)
	for _, s := range r.Signatures {
		fmt.Fprintf(w, "signed       slot %d, key %s, from %s\n", s.Slot, s.KeyID, printable(s.File))
	}
}

// takeOver judges what lies beside a planned seal before any long work, and says of it what should be known.
func (r *prepareResult) takeOver(e *env, planned *bundle.Planned, root *trust.Root) error {
	for i, s := range planned.Signatures {
		r.Signatures = append(r.Signatures, takenOver{File: s.File, KeyID: s.KeyID().String(), Slot: i})
	}
	if expires := planned.Seal.Expires; expires != 0 && e.now().Unix() >= expires {
		r.Notes = append(r.Notes, "by this machine's clock it has expired: nobody can import it")
	}
	if root == nil {
		if file := planned.Unsure(); file != "" {
			return usagef("%s may be a signature of another seal, and would spoil the image: give --trust to have it checked, or move it away", file)
		}
		if len(r.Signatures) > 0 {
			r.Notes = append(r.Notes, "the signatures were taken over UNCHECKED: give --trust, or look with sallyport verify before you burn it")
		} else {
			r.Notes = append(r.Notes, "nobody has signed the seal yet: there is no signature beside it")
		}
		return nil
	}
	missing, err := planned.Authorize(root)
	if missing != "" {
		r.Notes = append(r.Notes, "it still needs signatures: "+missing)
	}
	return err
}

// plan scans a directory and lays it out. What is left out stands in res; with a refusal of the scan comes its report.
func (c *scanFlags) plan(e *env, src *bundle.SourceDir, dir string, opt bundle.Options, res *sealResult) (*bundle.Plan, result, error) {
	report, err := scan.Check(e.ctx, src, scan.Limits{AllowCaseClash: c.CaseClash})
	if err != nil {
		return nil, nil, about(dir, err)
	}
	if err := report.Err(); err != nil {
		if !c.LeaveOut {
			return nil, &refusedPayload{report}, about(dir, &adviceError{"sallyport scan lists all there is; --leave-out carries the rest", err})
		}
		opt.LeaveOut, res.LeftOut = report.Refused, report
	}
	plan, err := bundle.NewPlan(e.ctx, src, opt)
	if err != nil {
		return nil, nil, about(dir, err)
	}
	return plan, nil, checkAge(opt, plan.Entries(), e.now())
}

// refusedPayload is the report on a payload that isn't carried: for --json only, beside an image on standard output
// or the line that says why.
type refusedPayload struct {
	Report *scan.Report `json:"report"`
}

func (*refusedPayload) text(io.Writer) {}

// checkPlaces finds what would come to nothing, or would make the payload grow, before it is read.
// what is an image or a seal, and what of that kind stands at output in the way of nobody is replaced.
func checkPlaces(e *env, output, what, dir string) error {
	switch {
	case output == "-" && e.json:
		return usagef("-o - writes the %s to standard output, where --json would go", what)
	case output == "-":
		if e.onTerminal() {
			return usagef("-o - writes the %s to standard output, which is a terminal: redirect it", what)
		}
		return nil
	}
	if err := apart("the "+what, output, "the payload", dir); err != nil {
		return err
	}
	if err := checkOutput(output); err != nil {
		return err
	}
	return mayReplace(output, what)
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

// noteGap warns of what an import will not let in just so.
func (r *sealResult) noteGap() {
	if r.Seal.Sequence > 1 && r.Seal.Previous == "" {
		r.Notes = append(r.Notes, fmt.Sprintf("sequence %d without --previous is a gap: import refuses it, or wants a --gap-reason", r.Seal.Sequence))
	}
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

// options makes of the flags what a plan needs.
func (c *whatFlags) options() (bundle.Options, *trust.Root, error) {
	var missing []string
	for _, f := range []struct{ value, flag string }{{c.Channel, "--channel=NAME"}, {c.Trust, "--trust=FILE"}} {
		if f.value == "" {
			missing = append(missing, f.flag)
		}
	}
	if len(missing) > 0 {
		return bundle.Options{}, nil, usagef("missing flags: %s", strings.Join(missing, ", "))
	}
	root, err := loadTrust(c.Trust)
	if err != nil {
		return bundle.Options{}, nil, err
	}
	channel, ok := root.Channel(c.Channel)
	if !ok {
		return bundle.Options{}, nil, usagef("%s has no channel %q; it has %s", c.Trust, c.Channel, channelNames(root))
	}
	opt, err := c.channelOptions(channel)
	return opt, root, err
}

func (c *whatFlags) channelOptions(channel trust.Channel) (bundle.Options, error) {
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
