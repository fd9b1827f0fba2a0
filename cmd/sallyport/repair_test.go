package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// scratchedRoom is a room with a signed image of 20 MB, good.iso, and x.iso, which is that with damage in it.
func scratchedRoom(t *testing.T) string {
	t.Helper()
	dir := room(t)
	in := func(name string) string { return filepath.Join(dir, name) }
	if err := os.Truncate(touch(t, in("payload/large")), 20<<20); err != nil {
		t.Fatal(err)
	}
	must(t, dir, "prepare", "payload", "-o", "good.iso", "--channel", "news", "--trust", "trust.json", "--medium", "cd-r")
	for _, key := range []string{"alice.key", "bob.key"} {
		must(t, dir, "sign", "good.iso", "--key", key)
	}
	copyFile(t, in("good.iso"), in("x.iso"))
	f, err := os.OpenFile(in("x.iso"), os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteAt(bytes.Repeat([]byte{0x55}, 300*2048), 1000*2048)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestRepairStopped: ^C and a full disk leave nothing; who can't be told the result
// doesn't take it for good news.
func TestRepairStopped(t *testing.T) {
	t.Parallel()
	dir := scratchedRoom(t)
	before := names(t, dir)
	t.Run("^C", func(t *testing.T) {
		cmd := exec.Command("sallyport", "repair", "x.iso", "-o", "fixed.iso", "--trust", "trust.json")
		cmd.Dir, cmd.Env = dir, append(os.Environ(), "TERM=xterm")
		var stdout bytes.Buffer
		term := onTerminal(t, &stdout, cmd)
		term.expect("\rsurvey")
		term.typed(ctrlC)
		code, screen := term.wait()
		if code != 130 || !strings.HasSuffix(strings.TrimRight(screen, "\r\n"), "sallyport repair: stopped: interrupt signal received; nothing half-done is left") || stdout.Len() > 0 {
			t.Errorf("exit status %d, on stdout %q\n%s", code, &stdout, screen)
		}
		if now := names(t, dir); now != before {
			t.Errorf("left behind:\n%s", now)
		}
	})
	t.Run("full disk", func(t *testing.T) {
		cmd := exec.Command("sh", "-c", `ulimit -f 2048; exec sallyport repair x.iso -o fixed.iso`)
		cmd.Dir = dir
		var stdout, stderr bytes.Buffer
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		code := exitCode(t, cmd.Run())
		wantFailure(t, code, stdout.String(), stderr.String(), 3, `^sallyport repair: .*fixed\.iso: no room for an image of \d+ bytes: file too large$`)
		if now := names(t, dir); now != before {
			t.Errorf("left behind:\n%s", now)
		}
	})
	t.Run("nobody listens", func(t *testing.T) {
		cmd := exec.Command("sh", "-c", `exec sallyport repair x.iso -o fixed.iso >/dev/full`)
		cmd.Dir = dir
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		code := exitCode(t, cmd.Run())
		wantFailure(t, code, "", stderr.String(), 3, `^sallyport repair: write the result: .*no space left on device$`)
		// The image is there and good: it was made before.
		good, err := os.ReadFile(filepath.Join(dir, "good.iso"))
		if err != nil {
			t.Fatal(err)
		}
		if fixed, err := os.ReadFile(filepath.Join(dir, "fixed.iso")); err != nil || !bytes.Equal(fixed, good) {
			t.Errorf("the repaired image differs, %v", err)
		}
	})
}

// TestScratch: what verify and import mend lies nowhere that somebody could find it, and needs no folder for temporary
// files when there is a spool.
func TestScratch(t *testing.T) {
	t.Parallel()
	dir := scratchedRoom(t)
	cmd := exec.Command("sallyport", "import", "x.iso", "--trust", "trust.json", "--spool", "spool", "--state", "state", "--station-key", "kiosk.key")
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "TMPDIR=/nowhere")
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "repaired     300 blocks: 300 of data\n") {
		t.Errorf("%v\n%s", err, out)
	}
	if left := names(t, filepath.Join(dir, "spool/.incoming")); left != "" {
		t.Errorf("left behind: %s", left)
	}
	cmd = exec.Command("sallyport", "verify", "x.iso", "--trust", "trust.json")
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "TMPDIR=/nowhere")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	code := exitCode(t, cmd.Run())
	wantFailure(t, code, stdout.String(), stderr.String(), 3, `^sallyport verify: make a scratch file for mended blocks: .*/nowhere`)
}

// TestLostDrive: a drive that leaves in the middle of whatever is done with its disc is a fault of the drive's. That
// nothing can be read any more says nothing about the disc: it isn't called damaged, and the log gets no refusal.
func TestLostDrive(t *testing.T) {
	t.Parallel()
	dir := room(t)
	in := func(name string) string { return filepath.Join(dir, name) }
	if err := os.Truncate(touch(t, in("payload/large")), 300_000); err != nil {
		t.Fatal(err)
	}
	must(t, dir, "prepare", "payload", "-o", "good.iso", "--channel", "news", "--trust", "trust.json", "--medium", "cd-r")
	for _, key := range []string{"alice.key", "bob.key"} {
		must(t, dir, "sign", "good.iso", "--key", key)
	}
	must(t, dir, "burn", "good.iso", "--drive", "sim:drive")
	before := names(t, dir)
	for _, args := range [][]string{
		{"verify", "sim:" + in("drive"), "--trust", in("trust.json")},
		{"repair", "sim:" + in("drive"), "-o", in("fixed.iso")},
		{"import", "sim:" + in("drive"), "--trust", in("trust.json"), "--spool", in("spool"), "--state", in("state"), "--station-key", in("kiosk.key")},
	} {
		mending, code := 0, -1
		for nth := 1; code != exitDone; nth += 2 {
			faults := fmt.Sprintf("read lba 24-27 always sense 3/11/05\nread from %d gone\n", nth)
			if err := os.WriteFile(in("drive/faults"), []byte(faults), 0o644); err != nil {
				t.Fatal(err)
			}
			var stdout, stderr bytes.Buffer
			if code = run(t.Context(), args, nil, &stdout, &stderr); code == exitDone {
				continue
			}
			wantFailure(t, code, stdout.String(), stderr.String(), exitFault, `^sallyport `+args[0]+`: .*reading LBA \d+: .*device is gone from the bus$`)
			if strings.Contains(stderr.String(), "the medium was lost") {
				mending++
			}
			if t.Failed() || nth > 1000 {
				t.Fatalf("%s, gone at read %d: %s", args[0], nth, &stderr)
			}
		}
		// Some of the reads must have been those of a repair under way: only there a lost drive can look like damage.
		if mending == 0 {
			t.Errorf("%s was never lost while it mended", args[0])
		}
	}
	if out := must(t, dir, "log", "show", "--state", in("state")); strings.Contains(out, "refuse") || !strings.Contains(out, " accept ") {
		t.Errorf("the log:\n%s", out)
	}
	for _, made := range []string{"fixed.iso", "spool", "state"} {
		if err := os.RemoveAll(in(made)); err != nil {
			t.Fatal(err)
		}
	}
	if now := names(t, dir); now != before {
		t.Errorf("left behind:\n%s", now)
	}
}
