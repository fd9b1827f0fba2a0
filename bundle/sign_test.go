package bundle

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"sallyport/bundle/trust"
)

func imageFile(t testing.TB, img []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image")
	must(t, os.WriteFile(path, img, 0o644))
	return path
}

func inspectFile(t testing.TB, path string) (*Claims, error) {
	t.Helper()
	img, err := os.ReadFile(path)
	must(t, err)
	return Inspect(t.Context(), fileSource(img))
}

func mustInspect(t testing.TB, path string) *Claims {
	t.Helper()
	c, err := inspectFile(t, path)
	must(t, err)
	return c
}

// TestAddSignature signs one after the other until the slots are full; nothing else of the image changes.
func TestAddSignature(t *testing.T) {
	original := prepare(t, tiny(), withRoots(2))
	path := imageFile(t, original)
	want := bytes.Clone(original)
	names := []string{"alice", "bob", "carol", "bob2", "erin", "rita", "high", "low"}
	for i, name := range names {
		c := mustInspect(t, path)
		sig := signature(t, name, c.Message)
		must(t, AddSignature(path, c, sig))
		setSlot(t, want, i, sig)
		got, err := os.ReadFile(path)
		must(t, err)
		if !bytes.Equal(got, want) {
			t.Fatalf("signature %d: the image differs at byte %d", i, firstDifference(got, want))
		}
		if _, err := verify(fileSource(got), VerifyOptions{}); (err == nil) != (i == 2 || i == 3) { // erin has no role
			t.Errorf("%d signatures: %v", i+1, err)
		}
		if err := AddSignature(path, mustInspect(t, path), sig); err == nil || !strings.Contains(err.Error(), "has signed it already, in slot") {
			t.Errorf("%s signs again: %v", name, err)
		}
	}
	c, err := inspectFile(t, path)
	must(t, err)
	if err := AddSignature(path, c, signature(t, "mallory", c.Message)); err == nil || !strings.Contains(err.Error(), "all 8 slots are filled") {
		t.Errorf("the ninth signature: %v", err)
	}
}

// TestAddSignatureRefuses: a file that isn't what the signer was shown, or is no file, stays as it is.
func TestAddSignatureRefuses(t *testing.T) {
	img := prepare(t, tiny(), demo())
	g := geometryOf(t, img)
	path := imageFile(t, img)
	c, err := inspectFile(t, path)
	must(t, err)
	sig := signature(t, "alice", c.Message)
	for name, change := range map[string]func(img []byte) []byte{
		"another bundle":       func([]byte) []byte { o := demo(); o.Sequence++; return prepare(t, tiny(), o) },
		"signed since":         func(img []byte) []byte { return sign(t, img, "bob") },
		"seal A changed":       func(img []byte) []byte { img[g.SealA()*BlockSize+100] ^= 1; return img },
		"seal B changed":       func(img []byte) []byte { img[g.SealB()*BlockSize+100] ^= 1; return img },
		"a slot of B changed":  func(img []byte) []byte { img[(g.SealB()+11)*BlockSize] ^= 1; return img },
		"cut behind seal A":    func(img []byte) []byte { return img[:g.Superblock()*BlockSize] },
		"cut in seal A":        func(img []byte) []byte { return img[:g.SealA()*BlockSize+5] },
		"empty":                func([]byte) []byte { return nil },
		"another file's bytes": func(img []byte) []byte { return bytes.Repeat([]byte("x"), len(img)) },
	} {
		changed := change(bytes.Clone(img))
		must(t, os.WriteFile(path, changed, 0o644))
		if err := AddSignature(path, c, sig); err == nil {
			t.Errorf("%s: signed", name)
		}
		if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, changed) {
			t.Errorf("%s: the file was changed, or %v", name, err)
		}
	}
	must(t, os.WriteFile(path, img, 0o644))
	for name, bad := range map[string][]byte{"no signature": nil, "text": []byte("yes\n"), "legacy": rawSignature("alice", "alice", "Ed", c.Message)} {
		err := AddSignature(path, c, bad)
		if got, _ := os.ReadFile(path); !bytes.Equal(got, img) || err == nil {
			t.Errorf("%s: %v, or the file was changed", name, err)
		}
	}
	folder := t.TempDir()
	fifo := filepath.Join(folder, "fifo")
	must(t, unix.Mkfifo(fifo, 0o600))
	for _, path := range []string{"/dev/null", "/dev/zero", fifo, folder, filepath.Join(folder, "missing")} {
		if err := AddSignature(path, c, sig); err == nil {
			t.Errorf("%s was signed", path)
		}
		if mended, err := MendSlots(path); err == nil || mended {
			t.Errorf("%s was mended", path)
		}
	}
}

// TestSignersInTurn: of people who sign at the same time each is either told that it didn't work, or is there.
func TestSignersInTurn(t *testing.T) {
	path := imageFile(t, prepare(t, tiny(), demo()))
	c, err := inspectFile(t, path)
	must(t, err)
	var wg sync.WaitGroup
	errs := make([]error, 8)
	names := []string{"alice", "bob", "carol", "erin", "bob2", "rita", "high", "low"}
	for i, name := range names {
		wg.Go(func() { errs[i] = AddSignature(path, c, signature(t, name, c.Message)) })
	}
	wg.Wait()
	signed := map[trust.KeyID]bool{}
	c, err = inspectFile(t, path)
	must(t, err)
	sigs, err := c.Signatures()
	must(t, err)
	for _, s := range sigs {
		signed[s.KeyID()] = true
	}
	for i, name := range names {
		if signed[secretKey(name).Public().KeyID()] != (errs[i] == nil) {
			t.Errorf("%s: %v, and the signature is there: %v", name, errs[i], errs[i] != nil)
		}
	}
	if len(sigs) == 0 {
		t.Error("nobody signed")
	}
	// Nobody signs while another program has the file locked.
	f, err := openImage(path)
	must(t, err)
	if _, err := MendSlots(path); err == nil {
		t.Error("two have the image at a time")
	}
	must(t, f.Close())
}

// TestWriteOrder: seal B is written first. A file that can't be written from there on keeps its old state.
func TestWriteOrder(t *testing.T) {
	img := prepare(t, tiny(), demo())
	path := imageFile(t, img)
	child(t, "sign", "BUNDLE_TEST_IMAGE="+path)
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, img) {
		t.Errorf("the file differs at byte %d, or %v", firstDifference(got, img), err)
	}
}

func init() {
	children["sign"] = func(t *testing.T) {
		path := os.Getenv("BUNDLE_TEST_IMAGE")
		c, err := inspectFile(t, path)
		must(t, err)
		must(t, unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: uint64(c.Geometry.SealB() * BlockSize), Max: unix.RLIM_INFINITY}))
		err = AddSignature(path, c, signature(t, "alice", c.Message))
		must(t, unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}))
		if !errors.Is(err, unix.EFBIG) || codeOf(err) != "" {
			t.Errorf("seal B can't be written: %v", err)
		}
	}
}

// TestBurnersCheck: what Check finds consistent is for Authorize to judge, as in Verify.
func TestBurnersCheck(t *testing.T) {
	unsigned := prepare(t, tiny(), demo())
	astray := demo()
	astray.Destination = "low"
	for _, c := range []struct {
		name             string
		img              []byte
		check, authorize string
	}{
		{"signed", sign(t, bytes.Clone(unsigned), "alice", "bob", "carol"), "none", "none"},
		{"unsigned", unsigned, "none", "threshold"},
		{"a foreign key more", sign(t, bytes.Clone(unsigned), "alice", "bob", "carol", "mallory"), "none", "unknown-signer"},
		{"for somewhere else", signed(t, tiny(), astray), "none", "wrong-destination"},
		{"behind an empty slot", func() []byte {
			img := sign(t, bytes.Clone(unsigned), "alice", "bob")
			setSlot(t, img, 3, signature(t, "carol", messageOf(t, img)))
			return img
		}(), "bad-slot", ""},
	} {
		contents, err := Check(t.Context(), fileSource(c.img), nil, nil)
		wantCode(t, err, c.check)
		if err == nil {
			wantCode(t, contents.Authorize(testRoot()), c.authorize)
		}
	}
}

// TestMendSlots takes every state in which AddSignature can stop: before and behind each of its two writes, and in
// the middle of them, sector by sector and byte by byte.
func TestMendSlots(t *testing.T) {
	unsigned := prepare(t, tiny(), demo())
	g := geometryOf(t, unsigned)
	before := sign(t, bytes.Clone(unsigned), "alice")
	after := sign(t, bytes.Clone(unsigned), "alice", "bob")
	at := func(seal int64) int64 { return (seal + sealJSONBlocks + 1) * BlockSize }
	length := int64(len(signature(t, "bob", messageOf(t, unsigned))))
	torn := func(seal, n int64) []byte { // n bytes of the slot were written
		img := bytes.Clone(before)
		if seal == g.SealA() {
			copy(img[at(g.SealB()):][:BlockSize], after[at(g.SealB()):])
		}
		copy(img[at(seal):][:n], after[at(seal):])
		return img
	}
	type state struct {
		img, want []byte
		mended    bool
	}
	states := []state{{before, before, false}, {after, after, false}}
	for n := int64(1); n <= BlockSize; n += 41 {
		states = append(states, state{torn(g.SealB(), n), before, true})
		whole := n >= length // all that isn't a newline
		states = append(states, state{torn(g.SealA(), n), after, !whole})
	}
	states = append(states, state{torn(g.SealA(), 0), before, true}, state{torn(g.SealB(), BlockSize), before, true})
	path := imageFile(t, nil)
	for i, s := range states {
		must(t, os.WriteFile(path, s.img, 0o644))
		mended, err := MendSlots(path)
		must(t, err)
		got, err := os.ReadFile(path)
		must(t, err)
		if mended != s.mended || !bytes.Equal(got, s.want) {
			t.Errorf("state %d: mended %v, want %v; the file differs at byte %d of %d", i, mended, s.mended, firstDifference(got, s.want), len(got))
		}
		if _, err := inspectFile(t, path); err != nil {
			t.Errorf("state %d: %v", i, err)
		}
	}

	// What no interruption leaves stays as it is, for Inspect to refuse.
	change := func(img []byte, edit func(a, b []byte)) []byte {
		img = bytes.Clone(img)
		edit(img[g.SealA()*BlockSize:][:sealBlocks*BlockSize], img[g.SealB()*BlockSize:][:sealBlocks*BlockSize])
		return img
	}
	slot := func(seal []byte, i int) []byte { return seal[(sealJSONBlocks+i)*BlockSize:][:BlockSize] }
	other := signature(t, "carol", messageOf(t, unsigned))
	for name, img := range map[string][]byte{
		"empty":           nil,
		"no locator":      make([]byte, 1<<20),
		"cut":             before[:g.SealB()*BlockSize],
		"another seal":    change(before, func(a, b []byte) { b[100] ^= 1 }),
		"two slots":       change(before, func(a, b []byte) { copy(slot(b, 1), other); copy(slot(b, 2), other) }),
		"only in seal A":  change(before, func(a, b []byte) { copy(slot(a, 1), other) }),
		"two signatures":  change(after, func(a, b []byte) { copy(slot(b, 1), padNewlines(bytes.Clone(other), BlockSize)) }),
		"both torn":       change(before, func(a, b []byte) { slot(a, 1)[0] = 'u'; slot(b, 1)[0] = 'v' }),
		"A torn, B empty": change(before, func(a, b []byte) { slot(a, 1)[0] = 'u' }),
	} {
		must(t, os.WriteFile(path, img, 0o644))
		if mended, err := MendSlots(path); mended || err != nil {
			t.Errorf("%s: mended %v, %v", name, mended, err)
		}
		if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, img) {
			t.Errorf("%s: the file was changed, or %v", name, err)
		}
		if _, err := inspectFile(t, path); codeOf(err) == "none" || codeOf(err) == "" {
			t.Errorf("%s: Inspect says %v", name, err)
		}
	}
}
