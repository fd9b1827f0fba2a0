package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"sallyport/burn/mmc"
)

// serveDrive starts drive serve and returns what it says first.
func serveDrive(t *testing.T, args ...string) (cmd *exec.Cmd, first string, stderr *bytes.Buffer) {
	t.Helper()
	cmd = exec.Command(plainProgram(t), append([]string{"drive", "serve", "--listen", "127.0.0.1:0"}, args...)...)
	stderr = &bytes.Buffer{}
	cmd.Stderr = stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill() })
	first, err = bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("%v: %s", err, stderr)
	}
	return cmd, strings.TrimSuffix(first, "\n"), stderr
}

// TestServe: libiscsi finds each kind of blank, and the program ends when told
// to, or after the first initiator.
func TestServe(t *testing.T) {
	t.Parallel()
	for medium, profile := range servedMedia {
		image := filepath.Join(t.TempDir(), "disc.img")
		cmd, url, stderr := serveDrive(t, "--medium", medium, "--image", image, "--capacity", "4096")
		out, err := exec.Command("iscsi-inq", url).CombinedOutput()
		if err != nil || !strings.Contains(string(out), "Peripheral Device Type:MMC") {
			t.Errorf("%s: iscsi-inq %s: %v\n%s", medium, url, err, out)
		}
		state, err := os.ReadFile(image + ".json")
		if err != nil || !strings.Contains(string(state), "4096") {
			t.Errorf("%s (%v): %v: %s", medium, profile, err, state)
		}
		// An initiator that stays doesn't hold it up.
		idle, err := net.Dial("tcp", strings.Split(url, "/")[2])
		if err != nil {
			t.Fatal(err)
		}
		defer idle.Close()
		cmd.Process.Signal(syscall.SIGINT)
		if err := cmd.Wait(); err != nil || stderr.Len() > 0 {
			t.Errorf("%s: after the signal: %v: %s", medium, err, stderr)
		}
	}
	cmd, line, stderr := serveDrive(t, "--json", "--once", "--medium", "cd-r", "--image", filepath.Join(t.TempDir(), "disc.img"))
	var ready struct{ URL string }
	if err := json.Unmarshal([]byte(line), &ready); err != nil {
		t.Fatalf("%q: %v", line, err)
	}
	if out, err := exec.Command("iscsi-inq", ready.URL).CombinedOutput(); err != nil {
		t.Errorf("iscsi-inq %s: %v\n%s", ready.URL, err, out)
	}
	if err := cmd.Wait(); err != nil || stderr.Len() > 0 {
		t.Errorf("after the first initiator: %v: %s", err, stderr)
	}
	if len(servedMedia) != 4 || servedMedia["bd-r"] != mmc.BDR {
		t.Errorf("media: %v", servedMedia)
	}
}

func TestServeMisuse(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	faults := filepath.Join(dir, "faults")
	if err := os.WriteFile(faults, []byte("nonsense\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for _, tt := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"--listen", "0.0.0.0:0"}, 2, "only on loopback, since whoever can connect can burn"},
		{[]string{"--listen", "[::]:0"}, 2, "only on loopback"},
		{[]string{"--listen", "localhost:0"}, 2, "give a numerical address and a port"},
		{[]string{"--listen", taken.Addr().String()}, 3, "address already in use"},
		{[]string{"--scale", "0"}, 2, "--scale 0: give a positive number"},
		{[]string{"--scale", "NaN"}, 2, "--scale NaN: give a positive number"},
		{[]string{"--speed=-1"}, 2, "--speed -1: give a positive number"},
		{[]string{"--faults", faults}, 2, "--faults " + faults + ": "},
		{[]string{"--faults", dir + "/none"}, 2, "no such file"},
		{[]string{"--image", dir + "/none/disc.img"}, 2, "no such file"},
	} {
		args := append([]string{"drive", "serve", "--medium", "dvd-r", "--image", filepath.Join(dir, "disc.img")}, tt.args...)
		cmd := exec.Command(plainProgram(t), args...)
		out, err := cmd.CombinedOutput()
		if got := exitCode(t, err); got != tt.code || !strings.Contains(string(out), tt.want) || strings.Count(string(out), "\n") != 1 {
			t.Errorf("%v: exit status %d, %s", tt.args, got, out)
		}
	}
}
