package importlog

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// The test vectors of the certificate transparency project for RFC 6962, section 2.1.
func TestEdgeVectors(t *testing.T) {
	leaves := []string{"", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"}
	roots := []string{
		"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
		"6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
		"fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
		"aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
		"d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
		"4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
		"76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
		"ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
		"5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
	}
	var e edge
	for i, want := range roots {
		if got := e.root(); hex.EncodeToString(got[:]) != want {
			t.Errorf("%d leaves: root %x, want %s", i, got, want)
		}
		if i < len(leaves) {
			leaf, err := hex.DecodeString(leaves[i])
			check(t, err)
			e.add(tlog.RecordHash(leaf))
		}
	}
}

// x/mod's tree is the same at every size, and the tiles are those of the specification's example, 70,000 entries.
func TestEdgeTiles(t *testing.T) {
	t.Parallel()
	var e edge
	var stored []tlog.Hash
	hashes := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		var out []tlog.Hash
		for _, i := range indexes {
			out = append(out, stored[i])
		}
		return out, nil
	})
	tiles := map[string]newTile{}
	for n := range int64(70_000) {
		leaf := fmt.Appendf(nil, "leaf %d", n)
		more, err := tlog.StoredHashes(n, leaf, hashes)
		check(t, err)
		stored = append(stored, more...)
		added := e.add(tlog.RecordHash(leaf))
		for _, tile := range added {
			tiles[tilePath(tile.level, tile.n, tile.width())] = tile
			if tile.width() > 1 {
				delete(tiles, tilePath(tile.level, tile.n, tile.width()-1))
			}
		}
		if n < 600 || n%997 == 0 || n == 65_535 || n == 69_999 {
			want, err := tlog.TreeHash(n+1, hashes)
			check(t, err)
			if got := e.root(); got != want {
				t.Fatalf("%d leaves: root %v, x/mod has %v", n+1, got, want)
			}
			for _, tile := range added {
				data, err := tlog.ReadTileData(tlog.Tile{H: 8, L: tile.level, N: tile.n, W: tile.width()}, hashes)
				check(t, err)
				if !bytes.Equal(data, tile.data()) {
					t.Fatalf("%d leaves: tile %d/%d differs from x/mod's", n+1, tile.level, tile.n)
				}
			}
		}
	}
	widths := map[string][]string{}
	for p, tile := range tiles {
		level := strings.Split(p, "/")[1]
		widths[level] = append(widths[level], fmt.Sprintf("%04d", len(tile.data())/32))
	}
	for level, want := range map[string]string{"0": strings.Repeat("0256 ", 273) + "0112", "1": "0256 0017", "2": "0001"} {
		slices.SortFunc(widths[level], func(a, b string) int { return strings.Compare(b, a) })
		if got := strings.Join(widths[level], " "); got != want {
			t.Errorf("level %s: widths %s", level, got)
		}
	}
	for p := range tiles {
		if strings.Contains(p, "272") && p != "tile/0/272" {
			t.Errorf("path %s", p)
		}
	}
}

func TestTilePaths(t *testing.T) {
	for want, got := range map[string]string{
		"tile/0/000":                      tilePath(0, 0, 256),
		"tile/0/000.p/1":                  tilePath(0, 0, 1),
		"tile/3/x001/x234/067":            tilePath(3, 1234067, 256),
		"tile/63/x001/x234/067.p/255":     tilePath(63, 1234067, 255),
		"tile/entries/000.p/17":           tilePath(entryLevel, 0, 17),
		"tile/entries/x001/x234/067":      tilePath(entryLevel, 1234067, 256),
		"tile/entries/x001/x234/067.p/80": tilePath(entryLevel, 1234067, 80),
	} {
		if got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

// The files of a small log, as any client of C2SP tlog-tiles finds them; their content is pinned.
func TestLogFiles(t *testing.T) {
	state, l := newLog(t, 258)
	var files []string
	root := filepath.Join(state, "log")
	check(t, filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, p)
		files = append(files, fmt.Sprintf("%s %d %x", rel, len(data), sha256.Sum256(data)))
		return err
	}))
	want := strings.Split(strings.TrimSpace(logFiles), "\n")
	if !slices.Equal(files, want) {
		t.Errorf("files:\n%s", strings.Join(files, "\n"))
	}
	if text := string(l.Head().Note); text != pinnedNote {
		t.Errorf("checkpoint:\n%s", text)
	}
	bundle, err := os.ReadFile(filepath.Join(root, "tile/entries/001.p/1"))
	check(t, err)
	entry := `{"code":"bad-seal","detail":"test 256","kind":"refuse","source":"/dev/sr0","station":"north","time":1800000256,"type":"sallyport-log"}` + "\n"
	if string(bundle) != string([]byte{0, byte(len(entry))})+entry {
		t.Errorf("bundle %q", bundle)
	}
}

// tileFiles is a tile reader written after the specification alone.
type tileFiles struct {
	t    *testing.T
	root string
}

func (f tileFiles) Height() int                     { return 8 }
func (f tileFiles) SaveTiles([]tlog.Tile, [][]byte) {}
func (f tileFiles) path(level string, n int64) string {
	p := fmt.Sprintf("%03d", n%1000)
	for n /= 1000; n > 0; n /= 1000 {
		p = fmt.Sprintf("x%03d/%s", n%1000, p)
	}
	return filepath.Join(f.root, "tile", level, p)
}

func (f tileFiles) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	var out [][]byte
	for _, tile := range tiles {
		p := f.path(fmt.Sprint(tile.L), tile.N)
		if tile.W < 256 {
			p += fmt.Sprintf(".p/%d", tile.W)
		}
		data, err := os.ReadFile(p)
		if err != nil {
			return nil, err
		}
		out = append(out, data)
	}
	return out, nil
}

// x/mod proves every entry and the continuity of all heads from the files.
func TestPeerReadsLog(t *testing.T) {
	t.Parallel()
	const size = 520
	state, l := newLog(t, 0)
	heads := []tlog.Tree{l.Head().Tree}
	for i := range size {
		addRefusal(t, l, i)
		heads = append(heads, l.Head().Tree)
	}
	_, verifier := testKey(t, "north", 1)
	data, err := os.ReadFile(filepath.Join(state, "log", "checkpoint"))
	check(t, err)
	n, err := note.Open(data, note.VerifierList(verifier))
	check(t, err)
	head := heads[size]
	if want := fmt.Sprintf("sallyport/north\n%d\n%v\n", size, head.Hash); n.Text != want {
		t.Errorf("checkpoint %q, want %q", n.Text, want)
	}
	files := tileFiles{t, filepath.Join(state, "log")}
	hashes := tlog.TileHashReader(head, files)
	for i := range int64(size) {
		p := files.path("entries", i/256)
		if i/256 == size/256 {
			p += fmt.Sprintf(".p/%d", size%256)
		}
		bundle, err := os.ReadFile(p)
		check(t, err)
		for range i % 256 {
			bundle = bundle[2+int(bundle[0])<<8+int(bundle[1]):]
		}
		entry := bundle[2:][:int(bundle[0])<<8+int(bundle[1])]
		proof, err := tlog.ProveRecord(size, i, hashes)
		check(t, err)
		check(t, tlog.CheckRecord(proof, size, head.Hash, i, tlog.RecordHash(entry)))
		own, err := l.Proof(i)
		if err != nil || !slices.Equal(own, proof) {
			t.Fatalf("proof of %d: %v, %v", i, own, err)
		}
		if i > 0 {
			old, err := tlog.ProveTree(size, i, hashes)
			check(t, err)
			check(t, tlog.CheckTree(old, size, head.Hash, i, heads[i].Hash))
		}
	}
}

func TestEntries(t *testing.T) {
	state, l := newLog(t, 300)
	for _, log := range []*Log{l, must(reader(t, state))} {
		for _, from := range []int64{0, 1, 255, 256, 299} {
			next := from
			for e, err := range log.Entries(t.Context(), from) {
				check(t, err)
				if e.Index != next || e.Refuse == nil || e.Refuse.Detail != fmt.Sprintf("test %d", next) || e.Time != when.Unix()+next || e.Station != "north" {
					t.Fatalf("entry %d: %+v", next, e)
				}
				next++
			}
			if next != 300 {
				t.Errorf("from %d: ended at %d", from, next)
			}
		}
		for range log.Entries(t.Context(), 300) {
			t.Error("an entry past the end")
		}
		for _, err := range log.Entries(t.Context(), -1) {
			if err == nil {
				t.Error("entry -1")
			}
		}
	}
	if _, err := must(reader(t, state)).LogRefused(Refusal{Code: "x"}, when); !errors.Is(err, ErrReadOnly) {
		t.Errorf("append to a log for reading: %v", err)
	}
}

func must(l *Log, err error) *Log {
	if err != nil {
		panic(err)
	}
	return l
}

func TestOpen(t *testing.T) {
	signer, verifier := testKey(t, "north", 1)
	state, l := newLog(t, 3)
	if _, err := Open(t.Context(), state, signer, verifier); !errors.Is(err, ErrLocked) {
		t.Errorf("a second Open: %v", err)
	}
	check(t, l.Close())
	if _, err := Create(t.Context(), state, signer, verifier); err == nil {
		t.Error("created over a log")
	}
	l, err := Open(t.Context(), state, signer, verifier)
	check(t, err)
	addRefusal(t, l, 3)
	check(t, l.Close())

	empty := t.TempDir()
	if _, err := Open(t.Context(), empty, signer, verifier); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no log: %v", err)
	}
	otherSigner, otherVerifier := testKey(t, "north", 2)
	if _, err := Open(t.Context(), state, otherSigner, otherVerifier); codeOf(err) != "log-damaged" {
		t.Errorf("another key: %v", err)
	}
	if _, err := Open(t.Context(), state, signer, otherVerifier); err == nil {
		t.Error("signer and verifier differ")
	}
	southSigner, southVerifier := testKey(t, "south", 1)
	if _, err := Open(t.Context(), state, southSigner, southVerifier); codeOf(err) != "log-damaged" {
		t.Errorf("another station: %v", err)
	}
	for _, name := range []string{"example.com/log", "sallyport/", "sallyport/../x", "sallyport/%2e%2e", "sallyport/North", "sallyport/a/b"} {
		if station, err := stationOf(name); err == nil {
			t.Errorf("key name %q is that of station %q", name, station)
		}
		_, vkey, err := note.GenerateKey(nil, name)
		check(t, err)
		v, err := note.NewVerifier(vkey)
		check(t, err)
		if _, err := OpenReader(t.Context(), state, v); err == nil {
			t.Errorf("key name %q was taken", name)
		}
	}
}

// The time of an entry is never less than that of the one before.
func TestTimeIsMonotonic(t *testing.T) {
	state, l := newLog(t, 2)
	for range 2 {
		_, err := l.LogRefused(Refusal{Code: "bad-seal"}, when.Add(-time.Hour))
		check(t, err)
		check(t, l.Close())
		l = reopen(t, state)
	}
	for e, err := range l.Entries(t.Context(), 2) {
		if err != nil || e.Time != when.Unix()+1 {
			t.Errorf("entry %d: time %d, %v", e.Index, e.Time, err)
		}
	}
	// A log that goes back in time is not one of ours.
	forged := forge(t, state, strings.Replace(string(entryAt(t, l, 3)), "1800000001", "1800000000", 1))
	if _, err := reader(t, forged); codeOf(err) != "log-damaged" {
		t.Errorf("time goes back: %v", err)
	}
}

func TestParseCheckpoint(t *testing.T) {
	signer, verifier := testKey(t, "north", 1)
	witness, _ := testKey(t, "witness", 2)
	root := "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="
	sign := func(text string, signers ...note.Signer) []byte {
		data, err := note.Sign(&note.Note{Text: text}, signers...)
		check(t, err)
		return data
	}
	good := sign("sallyport/north\n0\n"+root+"\n", signer, witness)
	if c, err := ParseCheckpoint(good, verifier); err != nil || c.Tree.N != 0 || c.Tree.Hash.String() != root {
		t.Errorf("%v, %v", c, err)
	}
	for what, data := range map[string][]byte{
		"empty":            nil,
		"only a witness":   sign("sallyport/north\n0\n"+root+"\n", witness),
		"other origin":     sign("sallyport/south\n0\n"+root+"\n", signer),
		"leading zero":     sign("sallyport/north\n00\n"+root+"\n", signer),
		"plus":             sign("sallyport/north\n+1\n"+root+"\n", signer),
		"negative":         sign("sallyport/north\n-1\n"+root+"\n", signer),
		"too large":        sign("sallyport/north\n9223372036854775808\n"+root+"\n", signer),
		"short hash":       sign("sallyport/north\n0\nAAAA\n", signer),
		"base64 tail bits": sign("sallyport/north\n0\n"+strings.Replace(root, "FU=", "FV=", 1)+"\n", signer),
		"extension line":   sign("sallyport/north\n0\n"+root+"\nextra\n", signer),
		"two lines":        sign("sallyport/north\n0\n", signer),
		"changed":          bytes.Replace(good, []byte("\n0\n"), []byte("\n1\n"), 1),
		"long":             append(bytes.Repeat([]byte("x\n"), 40_000), good...),
	} {
		if _, err := ParseCheckpoint(data, verifier); err == nil {
			t.Errorf("%s was taken", what)
		}
	}
}
