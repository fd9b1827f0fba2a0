package bundle

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

// peer runs a stock tool. That it is missing is a failure.
func peer(t *testing.T, folder, name string, args ...string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil { // Debian keeps veritysetup where only root's PATH looks
		path, err = exec.LookPath("/usr/sbin/" + name)
	}
	if err != nil {
		t.Fatalf("%s is needed: make tools installs it: %v", name, err)
	}
	cmd := exec.CommandContext(t.Context(), path, args...)
	cmd.Dir = folder
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "TZ=UTC")
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, errs.Bytes())
	}
	return out.String()
}

// TestPeers: stock tools accept an image, and take out what went in.
func TestPeers(t *testing.T) {
	m := hosted()
	for path, f := range m {
		// In a listing bsdtar escapes what can't be printed, and dates before 1970 are the tools' own matter.
		if strings.ContainsAny(path, "\n\x01") {
			delete(m, path)
		}
		if f.ModTime.Unix() < 0 {
			m[path] = dir(f.Mode.Perm(), 100)
		}
		if f.Mode.Type() != fs.ModeSymlink {
			f.Mode |= 0o600 // to be taken out by anybody
		}
		if f.Mode.IsDir() {
			f.Mode |= 0o700
		}
	}
	img := signed(t, m, withRoots(2))
	g, s := geometryOf(t, img), sealOf(t, img)
	folder := t.TempDir()
	must(t, os.WriteFile(filepath.Join(folder, "disc.img"), img, 0o644))

	// Our own superblock, then without one.
	peer(t, folder, "veritysetup", "verify", "disc.img", "disc.img", s.Verity.Root, fmt.Sprintf("--hash-offset=%d", g.Superblock()*BlockSize))
	peer(t, folder, "veritysetup", "verify", "disc.img", "disc.img", s.Verity.Root, "--no-superblock", "--hash=sha256",
		"--data-block-size=2048", "--hash-block-size=2048", fmt.Sprintf("--data-blocks=%d", g.DataBlocks), "--salt="+s.Verity.Salt,
		fmt.Sprintf("--hash-offset=%d", g.Tree()*BlockSize))
	out := peer(t, folder, "veritysetup", "dump", "disc.img", fmt.Sprintf("--hash-offset=%d", g.Superblock()*BlockSize))
	for _, want := range []string{s.Verity.UUID, s.Verity.Salt, fmt.Sprint(g.DataBlocks)} {
		if !strings.Contains(out, want) {
			t.Errorf("veritysetup dump doesn't say %s:\n%s", want, out)
		}
	}
	// It repairs from our parity what is damaged in a copy.
	damaged := bytes.Clone(img)
	for i := range 300 {
		damaged[30*BlockSize+i] ^= 0xff
	}
	must(t, os.WriteFile(filepath.Join(folder, "damaged.img"), damaged, 0o644))
	must(t, os.WriteFile(filepath.Join(folder, "parity"), img[g.FEC()*BlockSize:g.SealB()*BlockSize], 0o644))
	must(t, os.WriteFile(filepath.Join(folder, "tree"), img[g.Superblock()*BlockSize:g.FEC()*BlockSize], 0o644))
	peer(t, folder, "veritysetup", "verify", "damaged.img", "tree", s.Verity.Root, "--fec-device=parity", "--fec-roots=2")

	for i, name := range []string{"alice", "bob", "carol"} {
		slot := slotsOf(t, img, i)[0]
		must(t, os.WriteFile(filepath.Join(folder, "slot"), slot, 0o644))
		must(t, os.WriteFile(filepath.Join(folder, "SEAL.json"), messageOf(t, img), 0o644))
		must(t, os.WriteFile(filepath.Join(folder, "pub"), secretKey(name).Public().File(), 0o644))
		peer(t, folder, "minisign", "-V", "-q", "-p", "pub", "-m", "SEAL.json", "-x", "slot")
	}

	must(t, os.Mkdir(filepath.Join(folder, "bsdtar"), 0o755))
	peer(t, folder, "xorriso", "-osirrox", "on", "-indev", "disc.img", "-extract", "/", "xorriso")
	peer(t, folder, "bsdtar", "-xpf", "disc.img", "-C", "bsdtar")
	for _, tool := range []string{"xorriso", "bsdtar"} {
		base := filepath.Join(folder, tool)
		peer(t, base, "sha256sum", "-c", "--quiet", "--strict", "SHA256SUMS")
		manifest, err := os.ReadFile(filepath.Join(base, manifestName))
		must(t, err)
		if fmt.Sprintf("%x", sha256.Sum256(manifest)) != s.BundleID {
			t.Errorf("%s: MANIFEST.json differs", tool)
		}
		// What sha256sum would write is what is on the disc.
		sums, err := os.ReadFile(filepath.Join(base, sumsName))
		must(t, err)
		files := []string{readmeName}
		for _, e := range plan(t, m, demo()).Entries() {
			if e.Type == File {
				files = append(files, e.Path)
			}
		}
		if want := peer(t, base, "sha256sum", append([]string{"--"}, append(files, manifestName)...)...); string(sums) != want {
			t.Errorf("%s: SHA256SUMS is\n%s\nsha256sum says\n%s", tool, sums, want)
		}
		compareExtracted(t, tool, base, m)
	}

	var want []string
	for path, f := range m {
		if f.Mode.IsDir() && path != "." {
			path += "/"
		}
		want = append(want, strings.TrimSuffix("./"+path, "/."))
	}
	listed := strings.Split(strings.TrimSpace(peer(t, folder, "bsdtar", "-tf", "disc.img")), "\n")
	for i := range listed {
		listed[i] = strings.TrimSuffix("./"+strings.ReplaceAll(strings.TrimPrefix(listed[i], "./"), `\\`, `\`), "/.")
	}
	want = append(want, "./"+readmeName, "./"+manifestName, "./"+sumsName)
	if len(listed) != len(want) {
		t.Errorf("bsdtar lists %d names, want %d", len(listed), len(want))
	}
	for _, name := range want {
		if plain := strings.TrimSuffix(name, "/"); !slices.Contains(listed, plain) && !slices.Contains(listed, plain+"/") {
			t.Errorf("bsdtar doesn't list %q", name)
		}
	}
}

// compareExtracted compares what a tool took out with the payload: kinds, contents, modes, times, targets.
func compareExtracted(t *testing.T, tool, base string, m fstest.MapFS) {
	t.Helper()
	seen := 0
	must(t, filepath.WalkDir(base, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		path, err := filepath.Rel(base, name)
		if err != nil {
			return err
		}
		switch path {
		case readmeName, manifestName, sumsName:
			return nil
		}
		f, ok := m[path]
		if !ok {
			t.Errorf("%s took out %q, which isn't in the payload", tool, path)
			return nil
		}
		seen++
		info, err := os.Lstat(name)
		if err != nil {
			return err
		}
		if info.Mode().Type() != f.Mode.Type() {
			t.Errorf("%s: %q is %v, want %v", tool, path, info.Mode(), f.Mode)
			return nil
		}
		switch f.Mode.Type() {
		case fs.ModeSymlink:
			if target, err := os.Readlink(name); err != nil || target != string(f.Data) {
				t.Errorf("%s: %q leads to %q, want %q, %v", tool, path, target, f.Data, err)
			}
			if tool == "xorriso" {
				return nil // it doesn't set a link's time
			}
		case 0:
			if data, err := os.ReadFile(name); err != nil || !bytes.Equal(data, f.Data) {
				t.Errorf("%s: %q holds something else, or %v", tool, path, err)
			}
		}
		if f.Mode.Type() != fs.ModeSymlink && info.Mode().Perm() != f.Mode.Perm() && path != "." {
			t.Errorf("%s: %q has mode %v, want %v", tool, path, info.Mode(), f.Mode)
		}
		if !info.ModTime().Equal(f.ModTime) && path != "." {
			t.Errorf("%s: %q has mtime %v, want %v", tool, path, info.ModTime().UTC(), f.ModTime.UTC())
		}
		return nil
	}))
	if seen != len(m) {
		t.Errorf("%s took out %d entries, want %d", tool, seen, len(m))
	}
}
