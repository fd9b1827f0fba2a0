package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// unpackImage copies an image of the corpus, uncompressed, with holes where it is zero.
func unpackImage(from, to string) error {
	unzip := "cat"
	if strings.HasSuffix(from, ".gz") {
		unzip = "gzip -dc"
	}
	out, err := exec.Command("bash", "-ec", "set -o pipefail; "+unzip+` "$1" | cp --sparse=always /dev/stdin "$2"`, "-", from, to).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", from, err, out)
	}
	return nil
}

// corpusScan is what scan says of an image of the corpus.
type corpusScan struct {
	Refusal struct{ Code, Detail string }
	Medium  struct {
		Volumes  []struct{ Holds string }
		Findings []struct{ Code string }
	}
	Files      []struct{ Files int }
	ConfinedBy []string `json:"confined_by"`
}

// measured has a program scan images and tells what became of each, with the KiB of memory that it, or one of the processes it
// has waited for, had at most. A process starts with what the one that made it had, which may be much of a test.
const measured = `
import json, os, sys, tempfile, time
for image in sys.argv[2:]:
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        begun = time.monotonic()
        pid = os.posix_spawn(sys.argv[1], ["sallyport", "scan", image, "--json"], os.environ,
            file_actions=[(os.POSIX_SPAWN_DUP2, out.fileno(), 1), (os.POSIX_SPAWN_DUP2, err.fileno(), 2)])
        _, status, usage = os.wait4(pid, 0)
        took = time.monotonic() - begun
        out.seek(0)
        err.seek(0)
        print(json.dumps({"image": image, "code": os.waitstatus_to_exitcode(status), "seconds": took, "kib": usage.ru_maxrss,
            "stdout": out.read().decode(), "stderr": err.read().decode(errors="replace")}), flush=True)`

type measuredScan struct {
	Image, Stdout, Stderr string
	Code                  int
	Seconds               float64
	KiB                   int64
}

// TestScanCorpus has scan look at each file-system image of the corpus (F1): it accepts or refuses it, is no more than 10 seconds
// about it, and neither it nor the process without rights that reads the image takes more than 128 MiB of memory, so that both
// have no more than 256.
func TestScanCorpus(t *testing.T) {
	root := os.Getenv("SALLYPORT_CORPUS")
	if root == "" {
		fmt.Fprintln(os.Stderr, "*** NOT RUN: SALLYPORT_CORPUS is not set, so no image of other projects was scanned ***")
		t.Skip("SALLYPORT_CORPUS is not set: NO IMAGE OF THE CORPUS WAS SCANNED")
	}
	t.Parallel()
	program := plainProgram(t)
	for _, tt := range []struct {
		folder string
		least  int      // images
		holds  []string // what most of them are called
		unread bool     // nothing of them is read, which is a finding
	}{
		{"fat", 50, []string{"FAT12", "FAT16", "FAT32"}, false}, {"exfat", 17, []string{"exFAT"}, false}, {"ext", 2, []string{"ext2", "ext3"}, false},
		{"part", 9, nil, false}, {"udf", 20, []string{"UDF"}, true}, {"iso", 30, []string{"ISO 9660"}, true},
	} {
		t.Run(tt.folder, func(t *testing.T) {
			known, seconds, kib := 0, 0.0, int64(0)
			scans := scanImages(t, program, filepath.Join(root, tt.folder))
			for _, s := range scans {
				name := filepath.Base(s.Image)
				seconds, kib = max(seconds, s.Seconds), max(kib, s.KiB)
				if s.Seconds > 10 || s.KiB > 128<<10 {
					t.Errorf("%s: %.1f s, and %d KiB in one process", name, s.Seconds, s.KiB)
				}
				var said corpusScan
				if err := json.Unmarshal([]byte(s.Stdout), &said); err != nil || s.Code != 0 && s.Code != 1 || (s.Code == 1) != (said.Refusal.Code != "") || len(said.ConfinedBy) == 0 || len(said.Medium.Volumes) == 0 {
					t.Errorf("%s: exit status %d, %v\n%s\n%s", name, s.Code, err, s.Stdout, s.Stderr)
					continue
				}
				if slices.Contains(tt.holds, said.Medium.Volumes[0].Holds) {
					known++
				}
				if tt.unread && (s.Code != 1 || said.Refusal.Code != "volume-unread") {
					t.Errorf("%s: exit status %d, %+v", name, s.Code, said.Refusal)
				}
			}
			t.Logf("%d images, %d of them known; %.2f s and %d MiB at most", len(scans), known, seconds, kib>>10)
			if len(scans) < tt.least || tt.holds != nil && known*5 < len(scans)*4 {
				t.Errorf("%d images, of which %d are known as %s", len(scans), known, tt.holds)
			}
		})
	}
}

// scanImages scans all images in a folder.
func scanImages(t *testing.T, program, folder string) []measuredScan {
	t.Helper()
	dir := t.TempDir()
	argv := []string{"-c", measured, program}
	err := filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(folder, path)
		if err != nil {
			return err
		}
		image := filepath.Join(dir, strings.ReplaceAll(strings.TrimSuffix(name, ".gz"), "/", "_"))
		argv = append(argv, image)
		return unpackImage(path, image)
	})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "python3", argv...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("python3: %v\n%s", err, stderr.Bytes())
	}
	var scans []measuredScan
	for d := json.NewDecoder(bytes.NewReader(out)); d.More(); {
		var s measuredScan
		if err := d.Decode(&s); err != nil {
			t.Fatal(err)
		}
		scans = append(scans, s)
	}
	if len(scans) != len(argv)-3 {
		t.Fatalf("%d of %d images were scanned", len(scans), len(argv)-3)
	}
	return scans
}

// TestScanDamaged has scan look at a directory that can't be read: that is the medium's fault and not the machine's, and all the rest
// is looked at.
func TestScanDamaged(t *testing.T) {
	t.Parallel()
	image := filepath.Join(t.TempDir(), "image")
	for _, argv := range [][]string{
		{"mkfs.fat", "-C", image, "8192"}, {"mmd", "-i", image, "::SUB"}, {"mmd", "-i", image, "::OTHER"}, {"mcopy", "-i", image, "corpus_test.go", "::OTHER/FILE.GO"},
	} {
		if out, err := exec.CommandContext(t.Context(), argv[0], argv[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%q: %v\n%s", argv, err, out)
		}
	}
	medium, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	medium[bytes.Index(medium, []byte("SUB        "))+27] = 0xFE // its first cluster, the second byte of two
	if err := os.WriteFile(image, medium, 0o644); err != nil {
		t.Fatal(err)
	}
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(t.Context(), plainProgram(t), "scan", image, "--json")
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	_ = cmd.Run() // its exit status is looked at
	var said corpusScan
	if err := json.Unmarshal(stdout.Bytes(), &said); err != nil || cmd.ProcessState.ExitCode() != 1 || said.Refusal.Code != "directory-unread" || len(said.Files) != 1 || said.Files[0].Files != 1 {
		t.Errorf("exit status %d, %v: %s%s", cmd.ProcessState.ExitCode(), err, stdout.Bytes(), stderr.Bytes())
	}
}
