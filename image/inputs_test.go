package image

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

func TestInputs(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "inputs")
	in, err := OpenInputs(dir)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			other, err := OpenInputs(dir)
			if err == nil {
				_, err = other.Add(fmt.Sprintf("thing-%d", i), "1", "", strings.NewReader(strings.Repeat("x", i)))
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	kept, err := in.Add("linux-image-test", "2", "fb5b50bb1fd4ddf0a2f0a8ddb44bdbd1ea41e9fe9b4a36cf54a7d0e4a1c4f1b4", strings.NewReader("kernel"))
	if err == nil || !strings.Contains(err.Error(), "its SHA-256 is ") {
		t.Errorf("a wrong digest: %v, %v", kept, err)
	}
	if kept, err = in.Add("linux-image-test", "2", "", strings.NewReader("kernel")); err != nil {
		t.Fatal(err)
	}
	if again, err := in.Add("linux-image-test", "2", kept.SHA256, strings.NewReader("kernel")); err != nil || again != kept {
		t.Errorf("the same once more: %v, %v", again, err)
	}
	list, err := in.List()
	if err != nil || len(list) != 9 || list[0] != kept {
		t.Errorf("the index has %v, %v", list, err)
	}
	// With a kernel package in the directory nothing is fetched: apt isn't in PATH.
	t.Setenv("PATH", t.TempDir())
	if found, err := in.KernelPackage(context.Background()); err != nil || found != kept {
		t.Errorf("KernelPackage: %v, %v", found, err)
	}
	if _, err := in.Add("linux-image-test", "10", "", strings.NewReader("later")); err != nil {
		t.Fatal(err)
	}
	if _, err := in.KernelPackage(context.Background()); err == nil || !strings.Contains(err.Error(), "2 kernel packages") {
		t.Errorf("KernelPackage of two: %v", err)
	}
	empty, err := OpenInputs(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := empty.KernelPackage(context.Background()); err == nil || !strings.Contains(err.Error(), "apt-cache") {
		t.Errorf("KernelPackage without apt: %v", err)
	}

	f, err := in.Open(kept)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	put(t, in.path(kept.SHA256), []byte("kernal"))
	if _, err := in.Open(kept); err == nil || !strings.Contains(err.Error(), "its SHA-256 isn't the index's") {
		t.Errorf("a changed input: %v", err)
	}
}

func TestIndexErrors(t *testing.T) {
	digest := strings.Repeat("0a", 32)
	for _, tt := range []struct{ index, want string }{
		{`{`, "unexpected EOF"},
		{`{"type":"sallyport-inputs"}{}`, "something follows the index"},
		{`{"type":"else"}`, `its type is "else"`},
		{`{"type":"sallyport-inputs","more":1}`, "unknown field"},
		{`{"type":"sallyport-inputs","inputs":[{"name":"a","sha256":"../../etc/passwd"}]}`, "input 0"},
		{`{"type":"sallyport-inputs","inputs":[{"name":"a","sha256":"` + strings.ToUpper(digest) + `"}]}`, "input 0"},
		{`{"type":"sallyport-inputs","inputs":[{"sha256":"` + digest + `"}]}`, "input 0"},
		{`{"type":"sallyport-inputs","inputs":[{"name":"a","sha256":"` + digest + `","size":-1}]}`, "input 0"},
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "index.json"), []byte(tt.index), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenInputs(dir); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.index, err, tt.want)
		}
	}
}

// TestFetchKernel has stand-ins for apt's programs: lists that lack the package, or name one that is gone, are fetched anew.
func TestFetchKernel(t *testing.T) {
	const show = `case "$*" in
*linux-image-amd64) printf 'Package: linux-image-amd64\nVersion: 6\nSHA256: %064d\nDepends: linux-image-9-amd64 (= 9), other\n' 0 ;;
*linux-image-9-amd64) printf 'Package: linux-image-9-amd64\nVersion: 9\nArchitecture: amd64\nSHA256: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08\n' ;;
esac`
	const download = `case "$*" in *" update") touch "$DONE" ;; *) printf test >"$PWD/k.deb" ;; esac`
	const fresh = `case "$*" in *Dir::State::lists=*) ;; *) echo "no such package" >&2; exit 100 ;; esac
`
	for _, tt := range []struct {
		name, cache, get string
		update           bool
		want             string
	}{
		{"lists are there", show, download, false, ""},
		{"no lists", fresh + show, download, true, ""},
		{"old lists", show, fresh + download, true, ""},
		{"no network", show, "echo 404 >&2; exit 100", false, "404"},
		{"another package", show, strings.Replace(download, "printf test", "printf evil", 1), false, "and should be 9f86d081"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bin, done := t.TempDir(), filepath.Join(t.TempDir(), "updated")
			for name, body := range map[string]string{"apt-cache": tt.cache, "apt-get": tt.get} {
				if err := os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh\n"+body+"\n"), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
			t.Setenv("DONE", done)
			in, err := OpenInputs(t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			got, err := in.KernelPackage(context.Background())
			if tt.want != "" {
				if err == nil || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("KernelPackage: %v, want %q", err, tt.want)
				}
				if list, err := in.List(); err != nil || len(list) > 0 {
					t.Errorf("the index has %v, %v", list, err)
				}
				return
			}
			if err != nil || got.Name != "linux-image-9-amd64" || got.Version != "9" || got.Size != 4 {
				t.Errorf("KernelPackage: %+v, %v", got, err)
			}
			if _, err := os.Stat(done); (err == nil) != tt.update {
				t.Errorf("lists were fetched: %v, want %t", err, tt.update)
			}
			left, err := filepath.Glob(filepath.Join(in.dir, ".*"))
			if err != nil || len(left) > 0 {
				t.Errorf("left behind: %q, %v", left, err)
			}
		})
	}
}
