package bundle

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"sallyport/bundle/trust"
)

// TestReadPlanned: signatures beside a seal are found by name, put into their canonical form and into order.
func TestReadPlanned(t *testing.T) {
	seal, message := planned(t, tiny(), demo())
	dir := t.TempDir()
	path := filepath.Join(dir, "SEAL.json")
	write := func(name string, data []byte) {
		t.Helper()
		must(t, os.WriteFile(filepath.Join(dir, name), data, 0o644))
	}
	write("SEAL.json", message)
	alice := signature(t, "alice", message)
	stock := bytes.Replace(alice, []byte("signature from minisign secret key"), []byte("made by hand"), 1)
	write("SEAL.json.minisig", stock)
	write("SEAL.json.bob.minisig", signature(t, "bob", message))
	write("SEAL.json.x.minisig", signature(t, "carol", message))
	// Another seal beside it, whose signatures are not this one's.
	write("SEAL.json.next", message)
	write("SEAL.json.next.minisig", signature(t, "erin", message))
	write("SEAL.json.next.0123456789ABCDEF.minisig", signature(t, "mallory", message))
	write("SEAL.json..minisig", signature(t, "mallory", message))
	for _, name := range []string{"SEAL.json.bak", "SEAL.jsonx.minisig", "OTHER.json.minisig", "SEAL.json~", "SEAL.json.minisig~", "minisig"} {
		write(name, []byte("something else"))
	}
	must(t, os.Mkdir(filepath.Join(dir, "SEAL.json.d"), 0o755))
	p, err := ReadPlanned(path)
	must(t, err)
	if *p.Seal != *seal || !bytes.Equal(p.Message, message) || len(p.Signatures) != 3 {
		t.Fatalf("%+v", p)
	}
	for i := 1; i < 3; i++ {
		if p.Signatures[i-1].KeyID().String() >= p.Signatures[i].KeyID().String() {
			t.Errorf("key %s comes before %s", p.Signatures[i-1].KeyID(), p.Signatures[i].KeyID())
		}
	}
	for _, s := range p.Signatures {
		if s.File == path+".minisig" && !bytes.Equal(s.Bytes(), alice) {
			t.Errorf("not in canonical form: %q", s.Bytes())
		}
	}
	if got := p.Unsure(); got != path+".bob.minisig" && got != path+".x.minisig" {
		t.Errorf("unsure of %q", got)
	}
	sure := filepath.Join(t.TempDir(), "SEAL.json")
	must(t, os.WriteFile(sure, message, 0o644))
	must(t, os.WriteFile(sure+".minisig", stock, 0o644))
	must(t, os.WriteFile(sure+"."+secretKey("bob").Public().KeyID().String()+".minisig", signature(t, "bob", message), 0o644))
	if p, err := ReadPlanned(sure); err != nil || len(p.Signatures) != 2 || p.Unsure() != "" {
		t.Errorf("%+v, %v, unsure of %q", p, err, p.Unsure())
	}
	missing, err := p.Authorize(testRoot())
	if missing != "" || err != nil {
		t.Errorf("missing %q, %v", missing, err)
	}
	must(t, os.Remove(filepath.Join(dir, "SEAL.json.x.minisig")))
	p, err = ReadPlanned(path)
	must(t, err)
	if missing, err = p.Authorize(testRoot()); !strings.Contains(missing, "2 approvers needed, 1 signed: bob; missing 1 of carol") || err != nil {
		t.Errorf("missing %q, %v", missing, err)
	}
}

// TestReadPlannedRefuses: what lies there and is wrong is named.
func TestReadPlannedRefuses(t *testing.T) {
	_, message := planned(t, tiny(), demo())
	opt := demo()
	opt.Sequence++
	_, other := planned(t, tiny(), opt)
	legacy := rawSignature("alice", "alice", "Ed", message)
	for name, test := range map[string]struct {
		seal  []byte
		files map[string][]byte
		code  string
		want  string
		late  bool // by Authorize
	}{
		"no newlines":      {seal: bytes.TrimRight(message, "\n"), code: "bad-seal", want: "newlines at its end were cut off"},
		"one more newline": {seal: append(bytes.Clone(message), '\n'), code: "bad-seal", want: "more than 8192 bytes"},
		"not a seal":       {seal: []byte("hello\n"), code: "bad-seal", want: "SEAL.json"},
		"not a signature":  {files: map[string][]byte{"bob.asc": []byte("hello\n")}, code: "bad-slot", want: "SEAL.json.bob.asc"},
		"empty":            {files: map[string][]byte{"minisig": nil}, code: "bad-slot", want: "SEAL.json.minisig"},
		"legacy":           {files: map[string][]byte{"minisig": legacy}, code: "bad-slot", want: "SEAL.json.minisig"},
		"endless":          {files: map[string][]byte{"sig": make([]byte, 1<<20)}, code: "bad-slot", want: "SEAL.json.sig"},
		"twice":            {files: map[string][]byte{"a.minisig": signature(t, "bob", message), "b.minisig": signature(t, "bob", message)}, code: "bad-slot", want: "SEAL.json.b.minisig are both signed with key"},
		"another seal's":   {files: map[string][]byte{"minisig": signature(t, "bob", other)}, code: "bad-signature", want: "SEAL.json.minisig: the signature does not verify", late: true},
		"a stranger's":     {files: map[string][]byte{"minisig": signature(t, "mallory", message)}, code: "unknown-signer", want: "SEAL.json.minisig: signed with key", late: true},
		"without a role":   {files: map[string][]byte{"minisig": signature(t, "erin", message)}, code: "wrong-role", want: "SEAL.json.minisig: signed by erin", late: true},
		"a station's":      {files: map[string][]byte{"minisig": signature(t, "high", message)}, code: "unknown-signer", want: "SEAL.json.minisig: signed with key", late: true},
		"good, then bad":   {files: map[string][]byte{"a.minisig": signature(t, "alice", message), "b.minisig": signature(t, "bob", other)}, code: "bad-signature", want: "SEAL.json.b.minisig", late: true},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "SEAL.json")
			if test.seal == nil {
				test.seal = message
			}
			must(t, os.WriteFile(path, test.seal, 0o644))
			for name, data := range test.files {
				must(t, os.WriteFile(path+"."+name, data, 0o644))
			}
			p, err := ReadPlanned(path)
			if test.late {
				must(t, err)
				_, err = p.Authorize(testRoot())
			}
			wantCode(t, err, test.code)
			if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "slot 0") {
				t.Errorf("%v, want %q", err, test.want)
			}
		})
	}
	path := filepath.Join(t.TempDir(), "SEAL.json")
	must(t, os.WriteFile(path, message, 0o644))
	must(t, unix.Mkfifo(path+".bob.minisig", 0o644)) // nobody writes to it
	if _, err := ReadPlanned(path); err == nil || codeOf(err) != "" || !strings.Contains(err.Error(), "SEAL.json.bob.minisig: not a regular file") {
		t.Errorf("a FIFO: %v", err)
	}
	must(t, os.Remove(path+".bob.minisig"))
	for i := range 9 {
		must(t, os.WriteFile(fmt.Sprintf("%s.%d.minisig", path, i), signature(t, fmt.Sprint(i), message), 0o644))
	}
	_, err := ReadPlanned(path)
	wantCode(t, err, "bad-slot")
	if _, err := ReadPlanned(path + ".none"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no such file: %v", err)
	}
}

// TestAuthorizePlannedChannel: a seal that no signature could make acceptable is refused before it is signed.
func TestAuthorizePlannedChannel(t *testing.T) {
	for code, change := range map[string]func(o *Options){
		"wrong-destination": func(o *Options) { o.Destination = "low" },
		"expires-too-late":  func(o *Options) { o.Channel = "brief" },
		"unknown-channel":   func(o *Options) { o.Channel = "nowhere" },
	} {
		opt := demo()
		change(&opt)
		seal, message := planned(t, tiny(), opt)
		_, err := (&Planned{Seal: seal, Message: message}).Authorize(testRoot())
		wantCode(t, err, code)
	}
	seal, message := planned(t, tiny(), demo())
	sig, err := trust.ParseSignature(signature(t, "alice", message))
	must(t, err)
	must(t, JudgeSignature(testRoot(), seal, message, "x.sig", sig))
	wantCode(t, JudgeSignature(testRoot(), seal, append(bytes.Clone(message), '!'), "x.sig", sig), "bad-signature")
}

// TestReadManifest: of an image, the manifest that its seal names, and no other.
func TestReadManifest(t *testing.T) {
	img := prepare(t, rich(), demo())
	c, err := Inspect(t.Context(), fileSource(img))
	must(t, err)
	entries, err := ReadManifest(fileSource(img), c)
	must(t, err)
	want := digested(t, rich())
	if got := changesOf(want, entries); got != nil {
		t.Errorf("differs: %q", got)
	}
	m := c.Seal.Manifest
	text := bytes.Clone(img[m.LBA*BlockSize:][:m.Bytes])
	entries, err = ParseManifest(bytes.NewReader(text), m.Bytes)
	must(t, err)
	if got := changesOf(want, entries); got != nil {
		t.Errorf("differs: %q", got)
	}
	i := bytes.Index(text, []byte(`"mode":420`))
	img[m.LBA*BlockSize+int64(i)+9] = '1'
	text[i+9] = '1'
	_, err = ReadManifest(fileSource(img), c)
	wantCode(t, err, "bad-manifest")
	_, err = ParseManifest(bytes.NewReader(text), m.Bytes) // whoever signs nothing of it can't tell
	must(t, err)
	_, err = ParseManifest(bytes.NewReader(text), m.Bytes-1)
	wantCode(t, err, "bad-manifest")
	_, err = ParseManifest(bytes.NewReader(nil), MaxManifestBytes+1)
	wantCode(t, err, "bad-manifest")
	_, err = ParseManifest(bytes.NewReader(nil), 0)
	wantCode(t, err, "bad-manifest")
}
