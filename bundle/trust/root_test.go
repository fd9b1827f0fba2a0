package trust

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
)

func TestAccept(t *testing.T) {
	s := newSite(t)
	sig := func(key string) []byte { return s.sign(t, key, s.data) }
	for _, c := range []struct {
		name string
		code string
		says string
		sigs map[string][]byte
	}{
		{"two of three", "", "", map[string][]byte{"rita": sig("rita"), "rose": sig("rose")}},
		{"all three", "", "", map[string][]byte{"rita": sig("rita"), "ron": sig("ron"), "rose": sig("rose")}},
		{"and one who is no root holder", "", "", map[string][]byte{"rita": sig("rita"), "ron": sig("ron"), "bob": sig("bob2")}},
		{"T1 unsigned", CodeTrustThreshold, "2 root holders needed, 0 signed; missing 2 of rita, ron, rose", nil},
		{"one", CodeTrustThreshold, "2 root holders needed, 1 signed: ron; missing 1 of rita, rose", map[string][]byte{"ron": sig("ron")}},
		{"T2 one, and others who are no root holders", CodeTrustThreshold, "1 signed: ron", map[string][]byte{"ron": sig("ron"), "bob": sig("bob"), "dave": sig("dave")}},
		{"T2 one key for two holders", CodeBadTrust, "none of theirs", map[string][]byte{"rita": sig("rita"), "ron": sig("rita")}},
		{"T1 foreign key", CodeBadTrust, "none of theirs", map[string][]byte{"rita": sig("rita"), "ron": sig("ron"), "rose": sig("foreign")}},
		{"T3 holder unknown", CodeBadTrust, "mallory", map[string][]byte{"rita": sig("rita"), "ron": sig("ron"), "mallory": sig("foreign")}},
		{"T3 a station's key", CodeBadTrust, "high", map[string][]byte{"rita": sig("rita"), "ron": sig("ron"), "high": sig("high")}},
		{"T3 holder with no name", CodeBadTrust, "not among", map[string][]byte{"rita": sig("rita"), "ron": sig("ron"), "": sig("high")}},
		{"T3 two good and a bad one", CodeBadTrust, "rose", map[string][]byte{"rita": sig("rita"), "ron": sig("ron"), "rose": s.sign(t, "rose", testSeal)}},
		{"T3 a bad one of no root holder", CodeBadTrust, "bob", map[string][]byte{"rita": sig("rita"), "ron": sig("ron"), "bob": s.sign(t, "bob", testSeal)}},
		{"T3 two good and rubbish", CodeBadTrust, "rose", map[string][]byte{"rita": sig("rita"), "ron": sig("ron"), "rose": []byte("x")}},
		{"T3 two good and an empty one", CodeBadTrust, "rose", map[string][]byte{"rita": sig("rita"), "ron": sig("ron"), "rose": nil}},
		{"T15 comment altered", CodeBadTrust, "ron", map[string][]byte{"rita": sig("rita"), "ron": edit(sig("ron"), 2, func(l string) string { return l + "x" })}},
		{"T15 not canonical", CodeBadTrust, "ron", map[string][]byte{"rita": sig("rita"), "ron": append(sig("ron"), '\n')}},
	} {
		r, err := Accept(s.data, c.sigs)
		wantCode(t, c.name, c.code, err)
		if (r == nil) != (err != nil) {
			t.Errorf("%s: %v with %v", c.name, r, err)
		}
		if err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %q doesn't say %q", c.name, err, c.says)
		}
	}
	// A threshold may be 1 and the document's own.
	if got := s.root.Signers(); len(got) != 2 || got[0].Holder != "rita" || got[1].Holder != "ron" || got[0].Role != RoleRoot || got[0].KeyID != s.keys["rita"].Public().KeyID() {
		t.Errorf("signers are %v", got)
	}
	changed := bytes.Replace(s.data, []byte(`"max_jump":5`), []byte(`"max_jump":6`), 1)
	_, err := Accept(changed, s.sigs)
	wantCode(t, "T1 a changed byte", CodeBadTrust, err)
	_, err = Accept([]byte("{}\n"), s.sigs)
	wantCode(t, "not a trust root", CodeBadTrust, err)
}

// What an accepted root hands out is a copy: changing it doesn't change whom the root trusts.
func TestRootIsFixed(t *testing.T) {
	s := newSite(t)
	data := bytes.Clone(s.data)
	r, err := Accept(data, s.sigs)
	must(t, err)
	data[0] = 'x'
	r.Bytes()[0] = 'x'
	d := r.Document()
	d.Channels[0].Approvers.Holders[0], d.Holders[0].Keys[0] = "mallory", Key{}
	c, _ := r.Channel("demo")
	c.Preparers.Holders[0] = "mallory"
	r.Stations()[0].Name = "mallory"
	r.Signers()[0].Holder = "mallory"
	again, err := r.Document().Encode()
	if err != nil || string(again) != string(s.data) || string(r.Bytes()) != string(s.data) || r.Signers()[0].Holder != "rita" {
		t.Errorf("the root became %s (%v)", again, err)
	}
	if _, ok := r.Channel("demo"); !ok {
		t.Error("no channel demo")
	}
	if _, ok := r.Channel("nope"); ok {
		t.Error("there is a channel nope")
	}
	if st, ok := r.StationByKey(s.keys["high"].Public()); !ok || st.Name != "high" {
		t.Errorf("station %v, %v", st, ok)
	}
	for _, p := range []PublicKey{s.keys["bob"].Public(), withID(s.keys["high"].Public(), "0000000000000001"), withID(s.keys["bob"].Public(), s.keys["high"].Public().KeyID()), {}} {
		if st, ok := r.StationByKey(p); ok {
			t.Errorf("key %s is of station %s", p, st.Name)
		}
	}
	if h, ok := r.HolderOf(s.keys["bob2"].Public().KeyID()); !ok || h != "bob" {
		t.Errorf("holder %v, %v", h, ok)
	}
	for _, id := range []KeyID{s.keys["high"].Public().KeyID(), s.keys["foreign"].Public().KeyID(), ""} {
		if h, ok := r.HolderOf(id); ok {
			t.Errorf("key %s is of holder %s", id, h)
		}
	}
}

// A Root that Accept didn't make authorises nothing.
func TestZeroRoot(t *testing.T) {
	s := newSite(t)
	var r Root
	if _, ok := r.Channel("demo"); ok || len(r.Stations()) > 0 || len(r.Document().Holders) > 0 || len(r.Bytes()) > 0 || len(r.Signers()) > 0 {
		t.Error("a zero root lists something")
	}
	_, err := r.Authorize("demo", testSeal, fill(t), AuthorizeOptions{})
	wantCode(t, "nothing signed", CodeUnknownChannel, err)
	_, err = r.Authorize("demo", testSeal, s.slots(t, testSeal, "alice", "bob", "carol"), AuthorizeOptions{})
	wantCode(t, "signed", CodeUnknownSigner, err)
	_, err = r.Authorize("demo", testSeal, s.slots(t, testSeal, "alice", "bob", "carol"), AuthorizeOptions{AllowUnknownSigners: true})
	wantCode(t, "signed, all allowed", CodeUnknownChannel, err)
}

func TestLoad(t *testing.T) {
	s := newSite(t)
	put := func(t *testing.T, files map[string][]byte) string {
		dir := t.TempDir()
		write(t, dir, "trust.json", s.data)
		for name, data := range s.sigs {
			write(t, dir, "trust.json."+name+".minisig", data)
		}
		for name, data := range files {
			write(t, dir, name, data)
		}
		return filepath.Join(dir, "trust.json")
	}
	for _, c := range []struct {
		name, code string
		files      map[string][]byte
	}{
		{"good", "", nil},
		{"unrelated files", "", map[string][]byte{"trust.json.bak": nil, "trust.json.minisig": nil, "trust.json~": nil, "other.json.bob.minisig": nil, "x.trust.json.bob.minisig": nil}},
		{"a third signature", "", map[string][]byte{"trust.json.rose.minisig": s.sign(t, "rose", s.data)}},
		{"a bad one beside", CodeBadTrust, map[string][]byte{"trust.json.rose.minisig": s.sign(t, "rose", testSeal)}},
		{"one of a stranger beside", CodeBadTrust, map[string][]byte{"trust.json.mallory.minisig": s.sign(t, "foreign", s.data)}},
		{"T13 %2e%2e", CodeBadTrust, map[string][]byte{"trust.json.%2e%2e.minisig": s.sign(t, "rose", s.data)}},
		{"T13 dots", CodeBadTrust, map[string][]byte{"trust.json....minisig": s.sign(t, "rose", s.data)}},
		{"T13 no name", CodeBadTrust, map[string][]byte{"trust.json..minisig": s.sign(t, "rose", s.data)}},
		{"T13 upper case", CodeBadTrust, map[string][]byte{"trust.json.Rose.minisig": s.sign(t, "rose", s.data)}},
		{"huge signature", CodeBadTrust, map[string][]byte{"trust.json.rose.minisig": bytes.Repeat([]byte("x"), 1<<20)}},
		{"huge trust.json", CodeBadTrust, map[string][]byte{"trust.json": bytes.Repeat([]byte("\n"), MaxDocument+1)}},
		{"empty trust.json", CodeBadTrust, map[string][]byte{"trust.json": nil}},
		{"one signature lost", CodeTrustThreshold, map[string][]byte{"trust.json.rita.minisig": nil}},
	} {
		path := put(t, c.files)
		if c.code == CodeTrustThreshold {
			must(t, os.Remove(path+".rita.minisig"))
		}
		r, err := Load(path)
		wantCode(t, c.name, c.code, err)
		if (r == nil) != (err != nil) {
			t.Errorf("%s: %v with %v", c.name, r, err)
		}
		if err != nil && !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %q doesn't name the file", c.name, err)
		}
	}

	path := put(t, nil)
	must(t, os.Rename(path, path+"x"))
	for name, make := range map[string]func() error{
		"missing":   func() error { return nil },
		"directory": func() error { return os.Mkdir(path, 0o700) },
		"FIFO":      func() error { return syscall.Mkfifo(path, 0o600) },
	} {
		must(t, make())
		var refused *RefusedError
		if _, err := Load(path); err == nil || errors.As(err, &refused) || name == "missing" && !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v, want a plain error", name, err)
		}
		_ = os.Remove(path)
	}

	// T10: no more is read of a file than it may hold.
	sparse := put(t, map[string][]byte{"trust.json": nil})
	must(t, os.Truncate(sparse, 64<<20))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := Load(sparse)
	runtime.ReadMemStats(&after)
	wantCode(t, "64 MiB", CodeBadTrust, err)
	if err == nil || !strings.Contains(err.Error(), "more than 1048576 bytes") {
		t.Errorf("64 MiB: %v", err)
	}
	if n := after.TotalAlloc - before.TotalAlloc; n > 16<<20 {
		t.Errorf("64 MiB: %d bytes were allocated before it was refused", n)
	}

	many := put(t, nil)
	for i := range maxHolders {
		write(t, filepath.Dir(many), "trust.json."+strings.Repeat("a", 1+i%60)+string(rune('a'+i/60))+".minisig", nil)
	}
	_, err = Load(many)
	wantCode(t, "too many files", CodeBadTrust, err)
	if err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("too many files: %v", err)
	}
}

// Stock minisign signs a trust root: as trust.json.HOLDER.minisig, its signature is as good as ours.
func TestLoadStock(t *testing.T) {
	s := newSite(t)
	dir := t.TempDir()
	write(t, dir, "trust.json", s.data)
	for _, name := range []string{"rita", "rose"} {
		write(t, dir, name+".key", s.keys[name].Encode())
		mustStock(t, dir, "", "-S", "-s", name+".key", "-m", "trust.json", "-x", "trust.json."+name+".minisig")
	}
	r, err := Load(filepath.Join(dir, "trust.json"))
	must(t, err)
	if got := r.Signers(); len(got) != 2 || !strings.Contains(got[0].Comment, "file:trust.json") {
		t.Errorf("signers are %v", got)
	}
}
