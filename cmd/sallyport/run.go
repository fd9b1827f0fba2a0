package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/alecthomas/kong"
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

// usageError is a mistake in how the program was called: exit status 2.
type usageError struct{ msg string }

func (e *usageError) Error() string { return e.msg }

func usagef(format string, args ...any) error { return &usageError{fmt.Sprintf(format, args...)} }

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
	var cli grammar
	parser, err := kong.New(&cli,
		kong.Name("sallyport"),
		kong.Description("Carry files across an air gap: seal them, burn them, check them, let them in."),
		kong.UsageOnError(),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 100}),
		kong.Writers(stdout, stderr),
		kong.Exit(func(c int) { panic(exit(c)) }),
		kong.Vars{"version": version()},
	)
	if err != nil {
		fmt.Fprintln(stderr, "sallyport:", err)
		return exitUsage
	}
	k, err := parser.Parse(args)
	if err != nil {
		fmt.Fprintf(stderr, "sallyport: %v (sallyport --help, or sallyport COMMAND --help)\n", err)
		return exitUsage
	}
	e := &env{ctx: ctx, stdin: stdin, stdout: stdout, stderr: stderr, json: cli.JSON, quiet: cli.LogLevel == "error", now: time.Now}
	cmd, ok := k.Selected().Target.Addr().Interface().(command)
	if !ok {
		fmt.Fprintf(stderr, "sallyport: %s: not a command by itself\n", k.Command())
		return exitUsage
	}
	res, err := cmd.run(e)
	if err != nil && ctx.Err() != nil {
		err = fmt.Errorf("stopped: %w", err)
	}
	return e.finish(commandName(k), res, err)
}

// commandName is the command without its arguments' names.
func commandName(k *kong.Context) string {
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
}

// finish prints what came of a command and returns the exit status. It is the only place that decides either.
func (e *env) finish(name string, res result, err error) int {
	code, ref := classify(e.ctx, err)
	if e.json {
		e.printJSON(name, res, err, ref)
		return code
	}
	if res != nil {
		res.text(e.stdout)
	}
	switch {
	case err == nil:
	case ref != nil:
		fmt.Fprintf(e.stderr, "sallyport: refused (%s): %s\n", ref.Code, ref.Detail)
	default:
		fmt.Fprintf(e.stderr, "sallyport: %s\n", oneLine(err))
	}
	return code
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
		return exitRefused, &refusal{Code: code, Detail: strings.TrimPrefix(oneLine(refuser), code+": ")}
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
func (e *env) printJSON(name string, res result, err error, ref *refusal) {
	object := map[string]any{}
	if res != nil {
		b, marshalErr := json.Marshal(res)
		if marshalErr == nil {
			marshalErr = json.Unmarshal(b, &object)
		}
		if marshalErr != nil && err == nil {
			err = marshalErr
		}
	}
	object["command"], object["ok"] = name, err == nil
	if err != nil {
		object["error"] = oneLine(err)
	}
	if ref != nil {
		object["refusal"] = ref
	}
	enc := json.NewEncoder(e.stdout)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(object); err != nil {
		fmt.Fprintln(e.stderr, "sallyport:", err)
	}
}

// pathError turns "no such file" for something the user named into a usage error.
func pathError(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return &usageError{err.Error()}
	}
	return err
}
