package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"sallyport/burn/drivesim"
)

// TestPayloadChangesBeforeBurn: T16, a directory that somebody changes after burn --seal has read it, and before the
// disc is written. The drive's file of faults is a FIFO: opening the drive, which comes between, waits until the change
// is made. A payload that is read before the first write costs no disc, a larger one a disc that was never closed.
func TestPayloadChangesBeforeBurn(t *testing.T) {
	for _, c := range []struct {
		name string
		size int64
		disc string
		says string
	}{
		{"small", 5000, "blank", ``},
		{"large", 5 << 20, "incomplete", `; writing, LBA \d+; the disc is spoiled: mark it, and burn another one`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir := room(t)
			in := func(name string) string { return filepath.Join(dir, name) }
			file := touch(t, in("payload/file"))
			if err := os.Truncate(file, c.size); err != nil {
				t.Fatal(err)
			}
			must(t, dir, "plan", "payload", "-o", "SEAL.json", "--channel", "news", "--trust", "trust.json")
			for _, key := range []string{"alice.key", "bob.key"} {
				must(t, dir, "sign", "SEAL.json", "--key", key, "--reproduce", "payload")
			}
			drive, err := drivesim.New(in("drive"), drivesim.Config{})
			if err == nil {
				err = errors.Join(drive.Close(), syscall.Mkfifo(in("drive/faults"), 0o600))
			}
			if err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command("sallyport", "burn", "payload", "--seal", "SEAL.json", "--drive", "sim:drive", "--trust", "trust.json")
			cmd.Dir = dir
			var stdout, stderr bytes.Buffer
			cmd.Stdout, cmd.Stderr = &stdout, &stderr
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			faults, err := os.OpenFile(in("drive/faults"), os.O_WRONLY, 0) // waits for the drive to be opened
			if err != nil {
				t.Fatal(err)
			}
			info, err := os.Stat(file)
			if err != nil {
				t.Fatal(err)
			}
			f, err := os.OpenFile(file, os.O_WRONLY, 0)
			if err == nil {
				_, err = f.WriteAt([]byte("HELLO"), c.size-100)
				err = errors.Join(err, f.Close(), os.Chtimes(file, info.ModTime(), info.ModTime()), faults.Close())
			}
			if err != nil {
				t.Fatal(err)
			}
			code := exitCode(t, cmd.Wait())
			if code == 0 || strings.Contains(stdout.String(), "read back    equal") {
				t.Fatalf("exit status %d: a disc was burnt from a changed directory\n%s", code, &stdout)
			}
			if want := `refused \(seal-differs\): .*/payload: manifest\.sha256 would be .*` + c.says; !regexp.MustCompile(want).MatchString(stderr.String()) {
				t.Errorf("on stderr: %q, want %q", &stderr, want)
			}
			if err := os.Remove(in("drive/faults")); err != nil {
				t.Fatal(err)
			}
			if drive, err = drivesim.Open(in("drive")); err != nil {
				t.Fatal(err)
			}
			defer drive.Close()
			if s := drive.Status(); s.Disc != c.disc {
				t.Errorf("the disc is %s, want %s", s.Disc, c.disc)
			}
		})
	}
}
