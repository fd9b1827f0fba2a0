package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/alecthomas/kong"

	"sallyport/burn"
)

// Exit statuses, and what a shell expects of a program that was interrupted.
const (
	exitDone    = 0
	exitRefused = 1 // the medium, the bundle or the payload is not acceptable
	exitUsage   = 2
	exitFault   = 3 // a device or the file system failed
	exitStopped = 130
)

// env is what a command has of the world.
type env struct {
	ctx    context.Context
	stdin  io.Reader
	stdout io.Writer
	stderr io.Writer
	json   bool
	quiet  bool
	now    func() time.Time
}

// A result is what a command found out: JSON members, and text for people. A command may return one together
// with an error.
type result interface {
	text(w io.Writer)
}

type command interface {
	run(e *env) (result, error)
}

// run is the program; it returns its exit status.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) (code int) {
	// kong ends the program after --help and --version.
	type exit int
	defer func() {
		if r := recover(); r != nil {
			c, ok := r.(exit)
			if !ok {
				panic(r)
			}
			code = int(c)
		}
	}()
	if len(args) > 0 && args[0] == "help" {
		args = append(slices.Clone(args[1:]), "--help")
	}
	var cli grammar
	parser, err := kong.New(&cli,
		kong.Name("sallyport"),
		kong.Description("Carry files across an air gap: seal them, burn them, check them, let them in."),
		kong.UsageOnError(),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 100}),
		kong.Writers(helpWriter{stdout}, stderr),
		kong.Exit(func(c int) { panic(exit(c)) }),
		kong.Vars{"version": version()},
	)
	if err != nil {
		fmt.Fprintln(stderr, "sallyport:", err)
		return exitUsage
	}
	k, err := parser.Parse(args)
	e := &env{ctx: ctx, stdin: stdin, stdout: stdout, stderr: stderr, json: cli.JSON, quiet: cli.LogLevel == "error", now: time.Now}
	if err != nil {
		e.json = e.json || slices.Contains(args, "--json")
		var parse *kong.ParseError
		if errors.As(err, &parse) {
			k = parse.Context
		}
		name := commandName(k)
		return e.finish(name, nil, usagef("%v (see sallyport %s)", err, strings.TrimSpace(name+" --help")))
	}
	cmd, ok := k.Selected().Target.Addr().Interface().(command)
	if !ok {
		return e.finish(commandName(k), nil, usagef("not a command by itself"))
	}
	res, err := cmd.run(e)
	return e.finish(commandName(k), res, err)
}

// helpWriter takes it for no fault when nobody reads help to its end.
type helpWriter struct{ w io.Writer }

func (h helpWriter) Write(p []byte) (int, error) {
	n, err := h.w.Write(p)
	if errors.Is(err, syscall.EPIPE) {
		return len(p), nil
	}
	return n, err
}

// commandName is the command without its arguments' names, as far as it was understood.
func commandName(k *kong.Context) string {
	if k == nil {
		return ""
	}
	var words []string
	for _, w := range strings.Fields(k.Command()) {
		if !strings.HasPrefix(w, "<") {
			words = append(words, w)
		}
	}
	return strings.Join(words, " ")
}

type refusal struct {
	Code   string `json:"code"`
	Detail string `json:"detail"`
	Advice string `json:"advice,omitempty"`
}

// finish prints what came of a command and returns the exit status. It is the only place that decides either.
func (e *env) finish(name string, res result, err error) int {
	code, ref := classify(e.ctx, err)
	if e.json {
		return e.printJSON(name, res, err, ref, code)
	}
	var text bytes.Buffer
	if res != nil {
		res.text(&text)
	}
	if err != nil {
		fmt.Fprintf(e.stderr, "%s: %s\n", strings.TrimSpace("sallyport "+name), e.message(err, ref))
	}
	return e.print(name, text.Bytes(), code)
}

// print writes what came of a command. Who can't be told it must not take the exit status for good news.
func (e *env) print(name string, b []byte, code int) int {
	if _, err := e.stdout.Write(b); err != nil && len(b) > 0 {
		fmt.Fprintf(e.stderr, "sallyport %s: write the result: %s\n", name, oneLine(err))
		return max(code, exitFault)
	}
	return code
}

// message is an error for people, on one line: what was refused or went wrong, of what, why, and what to do.
func (e *env) message(err error, ref *refusal) string {
	if ref == nil {
		if e.ctx.Err() != nil {
			return stoppedText(e.ctx, err)
		}
		return oneLine(err)
	}
	about := ""
	if s, ok := errors.AsType[*subjectError](err); ok && s.subject != "" {
		about = printable(s.subject) + ": "
	}
	text := fmt.Sprintf("refused (%s): %s%s", ref.Code, about, ref.Detail)
	if ref.Advice != "" {
		text += "; " + ref.Advice
	}
	if s, ok := errors.AsType[*burn.SpoiledError](err); ok {
		text += "; " + oneLine(&burn.SpoiledError{Phase: s.Phase, LBA: s.LBA})
	}
	if u, ok := errors.AsType[*unloggedError](err); ok {
		text += "; and the refusal could not be logged: " + oneLine(u.log)
	}
	return text
}

// stoppedText says what a signal stopped. Nothing takes up its name before it is complete, so that nothing is
// left behind, unless the error says so.
func stoppedText(ctx context.Context, err error) string {
	why := "stopped: " + oneLine(context.Cause(ctx))
	// That the command was stopped need not be said twice, and in the words of a library.
	byStop := func(err error) bool { return errors.Is(err, context.Canceled) || errors.Is(err, context.Cause(ctx)) }
	text := oneLine(err)
	if s, ok := errors.AsType[*burn.SpoiledError](err); ok {
		if byStop(s.Err) {
			text = strings.Replace(text, oneLine(s), oneLine(&burn.SpoiledError{Phase: s.Phase, LBA: s.LBA}), 1)
		}
		return why + ": " + text
	}
	if u, ok := errors.AsType[*unfinishedError](err); ok {
		if byStop(u.err) {
			text = strings.Replace(text, oneLine(u), printable(u.done), 1)
		}
		return why + ": " + text
	}
	if !byStop(err) {
		return text
	}
	if l, ok := errors.AsType[*leavingError](err); ok {
		return why + "; " + l.left
	}
	return why + "; nothing half-done is left"
}

func classify(ctx context.Context, err error) (int, *refusal) {
	if err == nil {
		return exitDone, nil
	}
	var refuser interface {
		error
		RefusalCode() string
	}
	if errors.As(err, &refuser) {
		code := refuser.RefusalCode()
		detail := strings.TrimPrefix(oneLine(refuser), code+": ")
		ref := &refusal{Code: code, Detail: strings.TrimPrefix(detail, "refused ("+code+"): "), Advice: advice[code]}
		if a, ok := errors.AsType[*adviceError](err); ok {
			ref.Advice = a.advice
		}
		return exitRefused, ref
	}
	var usage *usageError
	switch {
	case errors.As(err, &usage):
		return exitUsage, nil
	case ctx.Err() != nil:
		return exitStopped, nil
	default:
		return exitFault, nil
	}
}

// oneLine is an error's text with everything escaped that could deceive on a terminal.
func oneLine(err error) string { return printable(strings.ReplaceAll(err.Error(), "\n", "; ")) }

// printable escapes whatever isn't an ordinary printed character.
func printable(s string) string {
	var b strings.Builder
	for _, r := range s {
		if strconv.IsPrint(r) {
			b.WriteRune(r)
		} else {
			b.WriteString(strings.Trim(strconv.QuoteRuneToASCII(r), "'"))
		}
	}
	return b.String()
}

// printJSON prints one object: the result's members, and what became of the command.
func (e *env) printJSON(name string, res result, err error, ref *refusal, code int) int {
	object := map[string]any{}
	if res != nil {
		b, marshalErr := json.Marshal(res)
		if marshalErr == nil {
			marshalErr = json.Unmarshal(b, &object)
		}
		if marshalErr != nil && err == nil {
			err, code = marshalErr, exitFault
		}
	}
	object["command"], object["ok"] = name, err == nil
	if err != nil {
		object["error"] = e.message(err, nil)
	}
	if ref != nil {
		object["error"], object["refusal"] = ref.Code+": "+ref.Detail, ref
		if u, ok := errors.AsType[*unloggedError](err); ok {
			object["error"] = fmt.Sprintf("%s: %s; and the refusal could not be logged: %s", ref.Code, ref.Detail, oneLine(u.log))
		}
	}
	var text bytes.Buffer
	enc := json.NewEncoder(&text)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(object); err != nil {
		fmt.Fprintf(e.stderr, "sallyport %s: write the result: %s\n", name, oneLine(err))
		return max(code, exitFault)
	}
	return e.print(name, text.Bytes(), code)
}
