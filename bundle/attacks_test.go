package bundle

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"golang.org/x/crypto/blake2b"

	"sallyport/bundle/trust"
)

// slotsOf returns the block of slot i in seal A and in seal B.
func slotsOf(t testing.TB, img []byte, i int) [2][]byte {
	g := geometryOf(t, img)
	at := func(seal int64) []byte { return img[(seal+sealJSONBlocks+int64(i))*BlockSize:][:BlockSize] }
	return [2][]byte{at(g.SealA()), at(g.SealB())}
}

func messageOf(t testing.TB, img []byte) []byte {
	return img[geometryOf(t, img).SealA()*BlockSize:][:sealJSONBytes]
}

func signature(t testing.TB, key string, message []byte) []byte {
	t.Helper()
	sig, err := trust.Sign(secretKey(key), message, "sallyport-seal SEAL.json", time.Unix(1700000000, 0))
	must(t, err)
	return sig
}

// rawSignature is a signature as any program may write it: of another key under a listed id, or of the legacy algorithm.
func rawSignature(keyName, idName, algorithm string, message []byte) []byte {
	seed := blake2b.Sum256([]byte(keyName))
	key := ed25519.NewKeyFromSeed(seed[:])
	signed := message
	if algorithm == "ED" {
		sum := blake2b.Sum512(message)
		signed = sum[:]
	}
	idSeed := blake2b.Sum256([]byte(idName))
	id := blake2b.Sum256(ed25519.NewKeyFromSeed(idSeed[:])[ed25519.SeedSize:])
	sig := ed25519.Sign(key, signed)
	const comment = "sallyport-seal SEAL.json"
	global := ed25519.Sign(key, append(bytes.Clone(sig), comment...))
	raw := append(append([]byte(algorithm), id[:8]...), sig...)
	return []byte("untrusted comment: signature from minisign secret key\n" + base64.StdEncoding.EncodeToString(raw) +
		"\ntrusted comment: " + comment + "\n" + base64.StdEncoding.EncodeToString(global) + "\n")
}

// TestSignatures: rows T1, T2, T3 and T15 through Verify.
func TestSignatures(t *testing.T) {
	img := prepare(t, tiny(), demo())
	message := messageOf(t, img)
	other := demo()
	other.Sequence--
	otherMessage := messageOf(t, prepare(t, tiny(), other))
	raw := func(t testing.TB, img []byte, i int, text []byte) {
		for _, slot := range slotsOf(t, img, i) {
			copy(slot, padNewlines(bytes.Clone(text), BlockSize))
		}
	}
	if got, want := rawSignature("bob", "bob", "ED", message), signature(t, "bob", message); !bytes.Equal(got, want) {
		t.Fatalf("rawSignature gives\n%s, want\n%s", got, want)
	}
	for _, c := range []struct {
		name   string
		change func(img []byte)
		code   string
	}{
		{"T1 unsigned", func([]byte) {}, "threshold"},
		{"T1 foreign keys", func(img []byte) { sign(t, img, "mallory", "trudy", "oscar") }, "unknown-signer"},
		{"T1 the stations' keys", func(img []byte) { sign(t, img, "high", "low") }, "unknown-signer"},
		{"T1 a holder of another channel", func(img []byte) { sign(t, img, "alice", "bob", "carol", "erin") }, "wrong-role"},
		{"T1 the root's holder", func(img []byte) { sign(t, img, "alice", "bob", "rita") }, "wrong-role"},
		{"T2 no preparer", func(img []byte) { sign(t, img, "bob", "carol") }, "threshold"},
		{"T2 no approver", func(img []byte) { sign(t, img, "alice") }, "threshold"},
		{"T2 one of two approvers", func(img []byte) { sign(t, img, "alice", "bob") }, "threshold"},
		{"T2 one approver twice", func(img []byte) { sign(t, img, "alice", "bob", "bob") }, "threshold"},
		{"T2 two keys of one approver", func(img []byte) { sign(t, img, "alice", "bob", "bob2") }, "threshold"},
		{"T2 enough", func(img []byte) { sign(t, img, "carol", "bob2", "bob", "alice") }, "none"},
		{"T3 enough and a foreign key", func(img []byte) { sign(t, img, "alice", "bob", "carol", "mallory") }, "unknown-signer"},
		{"T3 enough and a bad one", func(img []byte) {
			sign(t, img, "alice", "bob", "carol")
			setSlot(t, img, 3, signature(t, "bob2", otherMessage))
		}, "bad-signature"},
		{"T3 enough, and one behind an empty slot", func(img []byte) {
			sign(t, img, "alice", "bob", "carol")
			setSlot(t, img, 7, signature(t, "bob2", message))
		}, "bad-slot"},
		{"T3 enough and a remark", func(img []byte) {
			sign(t, img, "alice", "bob", "carol")
			raw(t, img, 3, []byte("seen by carol"))
		}, "bad-slot"},
		{"T3 a byte behind the signature", func(img []byte) {
			sign(t, img, "alice", "bob", "carol")
			for _, s := range slotsOf(t, img, 0) {
				s[2000] = 'x'
			}
		}, "bad-slot"},
		{"T15 another trusted comment", func(img []byte) {
			sign(t, img, "alice", "bob", "carol")
			for _, s := range slotsOf(t, img, 1) {
				copy(s[bytes.Index(s, []byte("SEAL.json")):], "LEAK")
			}
		}, "bad-signature"},
		{"T15 another untrusted comment", func(img []byte) {
			sign(t, img, "alice", "bob", "carol")
			for _, s := range slotsOf(t, img, 1) {
				copy(s[len("untrusted comment: "):], "S")
			}
		}, "bad-slot"},
		{"T15 another key under a listed id", func(img []byte) {
			sign(t, img, "alice", "bob")
			raw(t, img, 2, rawSignature("mallory", "carol", "ED", message))
		}, "bad-signature"},
		{"T15 the legacy algorithm", func(img []byte) {
			sign(t, img, "alice", "bob")
			raw(t, img, 2, rawSignature("carol", "carol", "Ed", message))
		}, "bad-slot"},
		{"T15 legacy signature called ED", func(img []byte) {
			sign(t, img, "alice", "bob")
			sig := rawSignature("carol", "carol", "Ed", message)
			raw(t, img, 2, bytes.Replace(sig, []byte("\nRW"), []byte("\nRU"), 1))
		}, "bad-signature"},
		{"T15 signatures of the bundle before", func(img []byte) {
			for i, name := range []string{"alice", "bob", "carol"} {
				setSlot(t, img, i, signature(t, name, otherMessage))
			}
		}, "bad-signature"},
		{"T15 signatures of the seal without its newlines", func(img []byte) {
			for i, name := range []string{"alice", "bob", "carol"} {
				setSlot(t, img, i, signature(t, name, append(bytes.TrimRight(message, "\n"), '\n')))
			}
		}, "bad-signature"},
		{"T15 signatures of trust.json", func(img []byte) {
			for i, name := range []string{"alice", "bob", "carol"} {
				setSlot(t, img, i, signature(t, name, testRoot().Bytes()))
			}
		}, "bad-signature"},
	} {
		t.Run(c.name, func(t *testing.T) {
			img := bytes.Clone(img)
			c.change(img)
			touched := &recorder{r: bytes.NewReader(img)}
			_, err := verify(Source{ReaderAt: touched, Size: int64(len(img)), Medium: true}, VerifyOptions{Sink: &treeSink{}})
			wantCode(t, err, strings.Fields(c.code)...)
			if c.code != "none" {
				touched.wantOnlySeal(t, geometryOf(t, img))
			}
		})
	}
	t.Run("T3 unknown signers allowed", func(t *testing.T) {
		img := sign(t, bytes.Clone(img), "alice", "mallory", "bob", "carol")
		v, err := verify(fileSource(img), VerifyOptions{AllowUnknownSigners: true})
		must(t, err)
		if a := v.Authorization(); len(a.Signers) != 3 || len(a.Unknown) != 1 || a.Unknown[0] != secretKey("mallory").Public().KeyID() {
			t.Errorf("%+v", a)
		}
		sign(t, img, "alice", "mallory", "trudy", "oscar")
		_, err = verify(fileSource(img), VerifyOptions{AllowUnknownSigners: true})
		wantCode(t, err, "threshold")
		setSlot(t, img, 1, signature(t, "bob", otherMessage))
		_, err = verify(fileSource(img), VerifyOptions{AllowUnknownSigners: true})
		wantCode(t, err, "bad-signature")
	})
}

// TestMixedBundles: row T7, the seal of one bundle over the payload of another, of equal length.
func TestMixedBundles(t *testing.T) {
	payload := func(text string) fstest.MapFS {
		m := tiny()
		m["a.txt"].Data = []byte(text)
		return m
	}
	a := signed(t, payload("good contents"), demo())
	g := geometryOf(t, a)
	for _, c := range []struct {
		name string
		opt  func(*Options)
		code string
	}{
		{"same sequence", func(*Options) {}, "bad-tree"},
		{"another sequence", func(o *Options) { o.Sequence++ }, "bad-superblock"},
		{"another predecessor", func(o *Options) { o.Previous = "" }, "bad-superblock"},
		{"another channel", func(o *Options) { o.Channel = "other" }, "bad-superblock"},
	} {
		opt := demo()
		c.opt(&opt)
		b := prepare(t, payload("evil contents"), opt)
		if geometryOf(t, b) != g {
			t.Fatalf("%s: another geometry", c.name)
		}
		mixed := bytes.Clone(b)
		for _, lba := range []int64{g.SealA(), g.SealB()} {
			copy(mixed[lba*BlockSize:][:sealBlocks*BlockSize], a[lba*BlockSize:])
		}
		_, err := verify(fileSource(mixed), VerifyOptions{})
		wantCode(t, err, c.code)
		// With A's superblock and tree too, B's data give it away.
		copy(mixed[g.SealA()*BlockSize:], a[g.SealA()*BlockSize:])
		_, err = verify(fileSource(mixed), VerifyOptions{})
		wantCode(t, err, "damaged")
	}
	// A volume of a set, which this version doesn't read.
	f := forge(t, a)
	f.reseal = func(s *Seal) { s.Set.Of = 2 }
	_, err := verify(fileSource(f.image(t)), VerifyOptions{})
	wantCode(t, err, "bad-seal")
	f.reseal = func(s *Seal) { s.Set.Digest = strings.Repeat("0", 64) }
	_, err = verify(fileSource(f.image(t)), VerifyOptions{})
	wantCode(t, err, "bad-seal")
}

// TestDestination: row T8.
func TestDestination(t *testing.T) {
	img := signed(t, tiny(), demo())
	vault := demo()
	vault.Channel, vault.Destination = "vault", "vaults"
	group := sign(t, prepare(t, tiny(), vault), "alice", "bob")
	astray := demo()
	astray.Destination = "low"
	stray := signed(t, tiny(), astray)
	unlisted := demo()
	unlisted.Channel = "nobody-has"
	unknown := signed(t, tiny(), unlisted)
	for _, c := range []struct {
		name    string
		img     []byte
		station string
		code    string
	}{
		{"this station", img, "high", "none"},
		{"another station", img, "low", "wrong-destination"},
		{"a station of a group", img, "vault-a", "wrong-destination"},
		{"an unlisted station", img, "nowhere", "wrong-destination"},
		{"a station of the group", group, "vault-a", "none"},
		{"the other station of the group", group, "vault-b", "none"},
		{"a station outside the group", group, "high", "wrong-destination"},
		{"an unlisted station for the group", group, "nowhere", "wrong-destination"},
		{"not where the channel leads to", stray, "low", "wrong-destination"},
		{"not where the channel leads to, seen from there", stray, "high", "wrong-destination"},
		{"an unknown channel", unknown, "high", "unknown-channel"},
	} {
		r := &recorder{r: bytes.NewReader(c.img)}
		_, err := Verify(t.Context(), Source{ReaderAt: r, Size: int64(len(c.img))}, testRoot(), VerifyOptions{Station: c.station})
		if codeOf(err) != c.code {
			t.Errorf("%s: %v, want %s", c.name, err, c.code)
		}
		if c.code != "none" {
			r.wantOnlySeal(t, geometryOf(t, c.img))
		}
	}
	// Without a station, the trust root alone is asked.
	if _, err := Verify(t.Context(), fileSource(group), testRoot(), VerifyOptions{}); err != nil {
		t.Errorf("no station: %v", err)
	}
	_, err := Verify(t.Context(), fileSource(stray), testRoot(), VerifyOptions{})
	wantCode(t, err, "wrong-destination")
	_, err = Verify(t.Context(), fileSource(img), &trust.Root{}, VerifyOptions{})
	if code := codeOf(err); code == "" || code == "none" {
		t.Errorf("a trust root that nobody signed: %v", err)
	}
}

// TestFresh: it is asked behind the signatures and before anything else is read, and its word counts.
func TestFresh(t *testing.T) {
	img := signed(t, tiny(), demo())
	r := &recorder{r: bytes.NewReader(img)}
	stale := refuse("stale-sequence", "7 was seen")
	_, err := verify(Source{ReaderAt: r, Size: int64(len(img))}, VerifyOptions{Fresh: func(c *Claims) error {
		if c.Seal.Sequence != 7 || len(c.Slots) != 8 {
			t.Errorf("%+v", c)
		}
		return stale
	}})
	if !errors.Is(err, stale) {
		t.Errorf("%v", err)
	}
	r.wantOnlySeal(t, geometryOf(t, img))
	_, err = verify(fileSource(prepare(t, tiny(), demo())), VerifyOptions{Fresh: func(*Claims) error {
		t.Error("asked about an unsigned bundle")
		return nil
	}})
	wantCode(t, err, "threshold")
	named := refuse("bad-name", "no")
	_, err = verify(fileSource(img), VerifyOptions{
		Entries: func([]Entry) error { return named },
		Sink:    sinkFunc(func(*Entry, io.Reader) error { t.Error("something arrived"); return nil }),
	})
	if !errors.Is(err, named) {
		t.Errorf("%v", err)
	}
}

type sinkFunc func(*Entry, io.Reader) error

func (f sinkFunc) Put(e *Entry, r io.Reader) error { return f(e, r) }

// brokenAt is a medium whose blocks from first to end-1 can't be read.
type brokenAt struct {
	r          io.ReaderAt
	first, end int64
}

var errMedium = errors.New("medium error 3/11/00")

func (b *brokenAt) ReadAt(p []byte, off int64) (int, error) {
	if off < b.end*BlockSize && off+int64(len(p)) > b.first*BlockSize {
		return 0, errMedium
	}
	return b.r.ReadAt(p, off)
}

// TestMaxAge: row T5, the channel's max_age is the receiver's rule, not the preparer's word.
func TestMaxAge(t *testing.T) {
	for age, code := range map[int64]string{99: "none", 100: "none", 101: "expires-too-late", 0: "expires-too-late"} {
		opt := demo()
		opt.Channel, opt.MaxAge = "brief", age
		_, err := verify(fileSource(signed(t, tiny(), opt)), VerifyOptions{})
		if codeOf(err) != code {
			t.Errorf("good for %d seconds (0: for ever): %v, want %s", age, err, code)
		}
	}
}

// TestSurplus: row T9, what lies behind the image.
func TestSurplus(t *testing.T) {
	img := signed(t, tiny(), demo())
	end := int64(len(img))
	blocks := end / BlockSize
	for _, n := range []int64{1, 512, 2048, 2049, 32 * 2048, 2000 * 2048} {
		longer := append(bytes.Clone(img), make([]byte, n)...)
		_, err := verify(fileSource(longer), VerifyOptions{})
		wantCode(t, err, "wrong-size")
		if _, err := verify(mediumSource(longer), VerifyOptions{}); err != nil {
			t.Errorf("a medium with %d zeros more: %v", n, err)
		}
		for _, at := range []int64{end, end + n/2, end + n - 1} {
			longer[at] = 1
			_, err := verify(mediumSource(longer), VerifyOptions{})
			wantCode(t, err, "surplus-data")
			longer[at] = 0
		}
	}
	// A second session behind a gap that can't be read.
	longer := append(bytes.Clone(img), make([]byte, 1000*BlockSize)...)
	longer[end+900*BlockSize] = 1
	_, err := verify(Source{ReaderAt: &brokenAt{bytes.NewReader(longer), blocks + 100, blocks + 250}, Size: int64(len(longer)), Medium: true}, VerifyOptions{})
	wantCode(t, err, "surplus-data")

	longer[end+900*BlockSize] = 0
	// Behind a gap so long that nobody can say what lies there.
	for _, gap := range []int64{301, 1000} {
		_, err := verify(Source{ReaderAt: &brokenAt{bytes.NewReader(longer), blocks, blocks + gap}, Size: int64(len(longer)), Medium: true}, VerifyOptions{})
		wantCode(t, err, "surplus-data")
	}
	for _, c := range []struct {
		name       string
		first, end int64
		medium     bool
		notes      int
		fault      bool
	}{
		{"run-out", blocks + 998, blocks + 1000, true, 1, false},
		{"300 blocks behind the image", blocks, blocks + 300, true, 1, false},
		{"the padding's last block", blocks - 1, blocks, true, 1, false},
		{"the padding's last block of a file", blocks - 1, blocks, false, 0, true},
		{"the locator's copy", geometryOf(t, img).LocatorCopy(), geometryOf(t, img).LocatorCopy() + 1, true, 1, false},
		{"the locator's copy in a file", geometryOf(t, img).LocatorCopy(), geometryOf(t, img).LocatorCopy() + 1, false, 0, true},
		{"seal B", geometryOf(t, img).SealB() + 11, geometryOf(t, img).SealB() + 12, true, 1, false},
		{"seal A", geometryOf(t, img).SealA(), geometryOf(t, img).SealA() + 1, true, 1, false},
		{"both seals", geometryOf(t, img).SealA(), geometryOf(t, img).SealB() + 1, true, 0, true},
		{"the locator", 0, 1, true, 0, true},
		{"the superblock", geometryOf(t, img).Superblock(), geometryOf(t, img).Superblock() + 1, true, 0, true},
		{"the tree", geometryOf(t, img).Tree(), geometryOf(t, img).Tree() + 1, true, 0, true},
		{"the payload", 20, 21, true, 0, true},
		{"the manifest", sealOf(t, img).Manifest.LBA, sealOf(t, img).Manifest.LBA + 1, true, 0, true},
	} {
		src := Source{ReaderAt: &brokenAt{bytes.NewReader(longer), c.first, c.end}, Size: int64(len(longer)), Medium: true}
		if !c.medium {
			src = Source{ReaderAt: &brokenAt{bytes.NewReader(img), c.first, c.end}, Size: int64(len(img))}
		}
		v, err := verify(src, VerifyOptions{})
		switch {
		case c.fault && (codeOf(err) != "" || !errors.Is(err, errMedium)):
			t.Errorf("%s unreadable: %v, want a fault", c.name, err)
		case !c.fault && (err != nil || len(v.Notes()) != c.notes):
			t.Errorf("%s unreadable: %v, %v", c.name, v, err)
		}
	}
	// A medium that is too short, and one that ends before it says.
	_, err = verify(mediumSource(img[:end-BlockSize]), VerifyOptions{})
	wantCode(t, err, "wrong-size")
	for _, lba := range []int64{1, 20, sealOf(t, img).Manifest.LBA, geometryOf(t, img).Tree()} {
		_, err := verify(Source{ReaderAt: bytes.NewReader(img[:lba*BlockSize]), Size: end, Medium: true}, VerifyOptions{})
		if codeOf(err) != "" || !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("a medium that ends at LBA %d: %v, want a fault", lba, err)
		}
	}
}

// TestSecondAnswer: row T19. A source that changes an answer, at any block and any number of reads, gives an error
// or exactly the payload.
func TestSecondAnswer(t *testing.T) {
	fsys := tiny()
	for _, roots := range []int{0, 2} {
		img := signed(t, fsys, withRoots(roots))
		g := geometryOf(t, img)
		for lba := range g.ImageBlocks() {
			for lieFrom := range 2 {
				if roots > 0 && (lba < g.FEC() || lieFrom > 0) {
					continue
				}
				src := &liar{img: img, lba: lba, from: lieFrom}
				var sink treeSink
				v, err := verify(Source{ReaderAt: src, Size: int64(len(img)), Medium: true}, VerifyOptions{Sink: &sink})
				if err == nil {
					sink.compare(t, fsys)
				}
				for path, got := range sink.data {
					if !bytes.HasPrefix(fsys[path].Data, got) {
						t.Errorf("LBA %d, a lie from reading %d on: %s arrived with it in it", lba, lieFrom, path)
					}
				}
				parity := lba >= g.FEC() && lba < g.SealB()
				if src.lied && err == nil && !parity && (roots == 0 || v.Repaired().Blocks() != 1) {
					t.Errorf("LBA %d, a lie from reading %d on: accepted", lba, lieFrom)
				}
				if !src.lied && err != nil {
					t.Errorf("LBA %d: %v", lba, err)
				}
			}
		}
	}
	// A file that was checked and changes before it is read again.
	img := signed(t, fsys, demo())
	g := geometryOf(t, img)
	changed := bytes.Clone(img)
	c, err := Check(t.Context(), fileSource(changed), nil, nil)
	must(t, err)
	again := c.Image()
	got := make([]byte, len(img))
	if _, err := again.ReadAt(got, 0); err != nil || !bytes.Equal(got, img) {
		t.Fatalf("the image reads differently: %v", err)
	}
	for lba := range g.DataBlocks {
		changed[lba*BlockSize+lba] ^= 1
		if _, err := again.ReadAt(got, 0); err == nil && !bytes.Equal(got, img) {
			t.Errorf("LBA %d changed after the check and can be read", lba)
		}
		changed[lba*BlockSize+lba] ^= 1
	}
}

// liar gives another byte in one block, from its read number from on.
type liar struct {
	img   []byte
	lba   int64
	from  int
	reads int
	lied  bool
}

func (l *liar) ReadAt(p []byte, off int64) (int, error) {
	n := copy(p, l.img[off:])
	if at := l.lba*BlockSize + 1000; at >= off && at < off+int64(n) {
		if l.reads >= l.from {
			p[at-off] ^= 1
			l.lied = true
		}
		l.reads++
	}
	return n, nil
}
