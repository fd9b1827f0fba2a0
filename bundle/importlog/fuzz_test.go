package importlog

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"sallyport/bundle/canonjson"
)

// logParts are the files of a log by name, below its directory.
type logParts map[string][]byte

func (files logParts) write(t testing.TB, stateDir string) {
	t.Helper()
	for name, data := range files {
		name = filepath.Join(stateDir, logDir, name)
		check(t, os.MkdirAll(filepath.Dir(name), 0o755))
		check(t, os.WriteFile(name, data, 0o644))
	}
}

// forgedLog makes the files of a log out of entries, whatever they are, under the station's good signature.
func forgedLog(t testing.TB, signer note.Signer, entries [][]byte) logParts {
	t.Helper()
	files := logParts{}
	var e edge
	var bundle []byte
	for _, entry := range entries {
		for _, tile := range e.add(tlog.RecordHash(entry)) {
			files[tilePath(tile.level, tile.n, tile.width())] = tile.data()
		}
		bundle = appendEntry(bundle, entry)
		n, width := (e.size-1)/tileWidth, int((e.size-1)%tileWidth)+1
		files[tilePath(entryLevel, n, width)] = bundle
		if width == tileWidth {
			bundle = nil
		}
	}
	data, err := signCheckpoint(tlog.Tree{N: e.size, Hash: e.root()}, signer)
	check(t, err)
	files[checkpointName] = data
	return files
}

// fuzzLogs are the entries of logs of a few sizes, one of them larger than a tile.
var fuzzLogs = sync.OnceValue(func() [4][][]byte {
	var logs [4][][]byte
	for i, size := range []int{1, 2, 70, tileWidth + 3} {
		for n := range size {
			entry, err := canonjson.Encode(&RefuseEntry{Kind: KindRefuse, Code: "bad-seal", Detail: fmt.Sprint("test ", n), Station: "north", Time: int64(n), Type: entryType})
			if err != nil {
				panic(err)
			}
			logs[i] = append(logs[i], entry)
		}
	}
	return logs
})

// needed are the files of forgedLog that the head needs: of partial tiles the widest alone.
func (files logParts) needed(size int64) logParts {
	need := logParts{checkpointName: files[checkpointName]}
	for level := entryLevel; level < 2; level++ {
		n := size
		for range max(level, 0) {
			n /= tileWidth
		}
		for i := range n / tileWidth {
			name := tilePath(level, i, tileWidth)
			need[name] = files[name]
		}
		if w := int(n % tileWidth); w > 0 {
			name := tilePath(level, n/tileWidth, w)
			need[name] = files[name]
		}
	}
	return need
}

// spoil changes one file as op says, and reports whether it did.
func (files logParts) spoil(op byte, which byte, at uint32, data []byte) bool {
	names := make([]string, 0, len(files))
	for name := range files {
		names = append(names, name)
	}
	slices.Sort(names)
	name := names[int(which)%len(names)]
	old := bytes.Clone(files[name])
	switch op % 6 {
	case 0: // other bits
		for i, b := range data {
			if p := int(at%uint32(len(old)+1)) + i; p < len(old) {
				files[name][p] ^= b
			}
		}
	case 1: // cut off
		files[name] = old[:int(at)%(len(old)+1)]
	case 2: // longer
		files[name] = append(old[:len(old):len(old)], data...)
	case 3: // something else
		files[name] = data
	case 4: // missing
		delete(files, name)
	case 5: // another one's
		other := names[int(at)%len(names)]
		files[name] = bytes.Clone(files[other])
	}
	return !bytes.Equal(old, files[name]) || op%6 == 4
}

// FuzzTiles opens, and reads, logs with changed, missing and exchanged files. Nothing comes out but the entries that
// were signed; everything else is damage.
func FuzzTiles(f *testing.F) {
	for size := range byte(4) {
		f.Add(size, false, byte(0), byte(0), uint32(0), []byte{}, byte(0), byte(0), uint32(0), []byte{}, int64(0))
		f.Add(size, true, byte(4), byte(1), uint32(0), []byte{}, byte(4), byte(0), uint32(0), []byte{}, int64(0))
		f.Add(size, true, byte(1), byte(1), uint32(1000), []byte{}, byte(0), byte(2), uint32(32), []byte{1}, int64(0))
		f.Add(size, false, byte(2), byte(1), uint32(0), []byte{0, 2, '{', '}'}, byte(0), byte(0), uint32(0), []byte{}, int64(1))
		f.Add(size, false, byte(0), byte(3), uint32(40), []byte{1}, byte(5), byte(1), uint32(2), []byte{}, int64(-1))
		f.Add(size, false, byte(0), byte(0), uint32(0), []byte{}, byte(0), byte(0), uint32(0), []byte{}, int64(1)<<62)
		f.Add(size, true, byte(3), byte(2), uint32(0), bytes.Repeat([]byte{0xFF}, 100), byte(0), byte(0), uint32(0), []byte{}, int64(0))
	}
	signer, verifier := testKey(f, "north", 1)
	var logs [4]logParts
	for i, entries := range fuzzLogs() {
		logs[i] = forgedLog(f, signer, entries).needed(int64(len(entries)))
	}
	f.Fuzz(func(t *testing.T, which byte, late bool, op1, file1 byte, at1 uint32, data1 []byte, op2, file2 byte, at2 uint32, data2 []byte, grow int64) {
		entries := fuzzLogs()[which%4]
		size := int64(len(entries))
		files := make(logParts)
		for name, data := range logs[which%4] {
			files[name] = bytes.Clone(data)
		}
		stateDir := t.TempDir()
		var l *Log
		if late {
			files.write(t, stateDir)
			var err error
			l, err = OpenReader(t.Context(), stateDir, verifier)
			check(t, err)
			defer l.Close()
		}
		if grow != 0 {
			head, err := ParseCheckpoint(files[checkpointName], verifier)
			check(t, err)
			files[checkpointName], err = signCheckpoint(tlog.Tree{N: max(0, size+grow), Hash: head.Tree.Hash}, signer)
			check(t, err)
		}
		before := len(files)
		changed := files.spoil(op1, file1, at1, data1)
		changed = len(files) > 1 && files.spoil(op2, file2, at2, data2) || changed || grow != 0
		if before != len(files) {
			check(t, os.RemoveAll(filepath.Join(stateDir, logDir)))
			check(t, os.Mkdir(filepath.Join(stateDir, logDir), 0o755))
		}
		files.write(t, stateDir)
		if !late {
			var err error
			if l, err = OpenReader(t.Context(), stateDir, verifier); err != nil {
				wantDamaged(t, err, changed)
				return
			}
			defer l.Close()
			if l.Head().Tree.N != size {
				t.Fatalf("a log of %d entries is taken for one of %d", size, l.Head().Tree.N)
			}
		}
		if _, err := l.Verify(t.Context(), l.Head()); err != nil && (!changed || codeOf(err) != "log-truncated" && codeOf(err) != "log-rewritten") {
			wantDamaged(t, err, changed)
		}
		next := int64(0)
		for e, err := range l.Entries(t.Context(), 0) {
			if err != nil {
				if !changed {
					t.Fatal(err)
				}
				break
			}
			if e.Index != next || !bytes.Equal(e.JSON, entries[next]) {
				t.Fatalf("entry %d is %q, number %d", next, e.JSON, e.Index)
			}
			next++
		}
		if !changed && next != size {
			t.Fatalf("%d entries, want %d", next, size)
		}
		index := int64(at1) % size
		proof, err := l.Proof(index)
		if err == nil {
			err = tlog.CheckRecord(proof, l.Head().Tree.N, l.Head().Tree.Hash, index, tlog.RecordHash(entries[index]))
			if err != nil {
				t.Fatalf("a proof that proves nothing: %v", err)
			}
		} else if !changed {
			t.Fatal(err)
		}
	})
}

func wantDamaged(t testing.TB, err error, changed bool) {
	t.Helper()
	var damaged *DamagedError
	switch {
	case !changed:
		t.Fatalf("nothing was changed: %v", err)
	case errors.Is(err, fs.ErrNotExist) && strings.Contains(err.Error(), checkpointName): // there is no log
	case !errors.As(err, &damaged):
		t.Fatalf("not damage: %v", err)
	}
}

// fuzzEntries makes entries out of a program of four bytes each: what, and three operands. It tells what must come of
// them: the state they lead to, or that the log isn't one.
func fuzzEntries(program []byte) (entries [][]byte, channels map[string]ChannelState, good bool) {
	type accepted struct {
		digest, path, channel string
		released              bool
	}
	var list []accepted
	channels = make(map[string]ChannelState)
	good = true
	lastDisc, now, last := int64(0), int64(1000), int64(0)
	for ; len(program) >= 4 && len(entries) < 40; program = program[4:] {
		a, b, c := program[1], program[2], program[3]
		now += int64(int8(c))
		var v any
		channel := []string{"tools", "docs"}[a%2]
		previous := channels[channel].LastSealDigest
		if a&2 != 0 {
			previous = strings.Repeat("ab", 32)
		}
		seal, sum := testSeal(channel, int64(b), previous, fmt.Sprint(channel, b, a>>2))
		digest := hex.EncodeToString(sum[:])
		switch program[0] % 6 {
		case 0:
			v = &PrepareEntry{Kind: KindPrepare, Seal: seal, Station: "north", Time: now, Type: entryType}
			good = good && b > 0
		case 1:
			v = &BeginEntry{Kind: KindBegin, DiscNumber: int64(int8(b)), SealDigest: digest, Station: "north", Time: now, Type: entryType}
			good = good && int64(int8(b)) > lastDisc
			lastDisc = int64(int8(b))
		case 2:
			v = &BurnEntry{Kind: KindBurn, Record: []byte(`{"a":[1,{"b":"c"}]}`), SealDigest: digest, Station: "north", Time: now, Type: entryType}
		case 3:
			v = &AcceptEntry{Kind: KindAccept, Seal: seal, SealDigest: digest, Signers: []Signer{{"ann", "00", "approver"}}, Station: "north", Time: now, Type: entryType}
			good = good && int64(b) > channels[channel].LastSequence
			for _, old := range list {
				good = good && old.digest != digest
			}
			channels[channel] = ChannelState{LastSequence: int64(b), LastSealDigest: digest}
			fields, _, _ := parseSeal(seal)
			list = append(list, accepted{digest, fields.releasePath(), channel, false})
		case 4:
			e := &ReleaseEntry{Kind: KindRelease, Path: "tools/1-x", SealDigest: digest, Station: "north", Time: now, Type: entryType}
			v = e
			if len(list) == 0 {
				good = false
				break
			}
			old := &list[int(a)%len(list)]
			e.SealDigest, e.Path = old.digest, old.path
			if b%8 == 7 {
				e.Path = list[int(b)%len(list)].path
			}
			good = good && !old.released && e.Path == old.path
			old.released = true
			if s := channels[old.channel]; s.LastSealDigest == old.digest {
				s.Released = true
				channels[old.channel] = s
			}
		case 5:
			v = &RefuseEntry{Kind: KindRefuse, Code: "gap", Channel: channel, Sequence: int64(b), Station: "north", Time: now, Type: entryType}
		}
		good = good && now >= last
		last = now
		entry, err := canonjson.Encode(v)
		if err != nil {
			panic(err)
		}
		entries = append(entries, entry)
	}
	return entries, channels, good
}

// FuzzReplay opens logs whose entries are anything, below good tiles and a good signature: those of a program, and raw
// bytes after them. Only what may stand in a log is taken, its state is what the entries say, and it goes on.
func FuzzReplay(f *testing.F) {
	f.Add([]byte{3, 0, 1, 1, 4, 0, 0, 1, 3, 0, 2, 1, 3, 1, 1, 0, 4, 1, 0, 0, 5, 0, 9, 9}, []byte{}, false)
	f.Add([]byte{1, 0, 1, 1, 2, 0, 0, 1, 1, 0, 2, 1, 0, 1, 1, 0}, []byte{}, false)
	f.Add([]byte{3, 0, 1, 1, 3, 0, 1, 1}, []byte{}, false)
	f.Add([]byte{3, 0, 1, 1, 4, 0, 0, 1, 4, 0, 0, 1}, []byte{}, false)
	f.Add([]byte{3, 0, 1, 1, 3, 0, 2, 1, 4, 0, 7, 1}, []byte{}, false)
	f.Add([]byte{5, 0, 1, 0xFF}, []byte{}, false)
	f.Add([]byte{}, []byte("{}\n"), true)
	f.Add([]byte{3, 0, 1, 1}, []byte(`{"code":"gap","detail":"","kind":"refuse","source":"","station":"north","time":2000,"type":"sallyport-log"}`+"\n"), true)
	signer, verifier := testKey(f, "north", 1)
	f.Fuzz(func(t *testing.T, program, raw []byte, withRaw bool) {
		entries, channels, good := fuzzEntries(program)
		if withRaw {
			if len(raw) > maxEntryBytes {
				return
			}
			entries = append(entries, raw)
		}
		stateDir := t.TempDir()
		forgedLog(t, signer, entries).write(t, stateDir)
		l, err := open(t.Context(), stateDir, signer, verifier, false, lazy)
		if err != nil {
			wantDamaged(t, err, !good || withRaw)
			return
		}
		defer l.Close()
		if !good {
			t.Fatalf("a log that can't be is taken: %q", entries)
		}
		if !withRaw {
			for _, name := range []string{"tools", "docs"} {
				if got, err := l.Channel(name); err != nil || got != channels[name] {
					t.Fatalf("channel %s: %+v, %v, want %+v", name, got, err, channels[name])
				}
			}
		} else if e, err := ParseEntry(raw); err != nil || e.Station != "north" {
			t.Fatalf("entry %q is taken: %v", raw, err)
		}
		if _, err := l.LogRefused(Refusal{Code: "bad-seal"}, when); err != nil {
			t.Fatal(err)
		}
		head := l.Head()
		check(t, l.Close())
		if l, err = open(t.Context(), stateDir, signer, verifier, false, lazy); err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		if got, err := l.Verify(t.Context(), head); err != nil || got.Tree.N != int64(len(entries))+1 {
			t.Fatalf("%+v, %v", got, err)
		}
	})
}

// FuzzSignedCheckpoint signs whatever it is given: what ParseCheckpoint takes is what signCheckpoint signs.
func FuzzSignedCheckpoint(f *testing.F) {
	f.Add("sallyport/north\n5\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n")
	f.Add("sallyport/north\n05\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAB=\n\n")
	f.Add("sallyport/south\n9223372036854775807\n\n")
	signer, verifier := testKey(f, "north", 1)
	f.Fuzz(func(t *testing.T, text string) {
		data, err := note.Sign(&note.Note{Text: text}, signer)
		if err != nil {
			return
		}
		c, err := ParseCheckpoint(data, verifier)
		if err != nil {
			return
		}
		again, err := signCheckpoint(c.Tree, signer)
		if err != nil || !bytes.Equal(again, data) {
			t.Fatalf("%q is taken for %+v: %v", data, c, err)
		}
	})
}

// FuzzSignedReceipt puts receipts together from good and bad parts: an entry, an index and a proof below a signed tree.
// One that is taken says what the entry says, which lies in that tree.
func FuzzSignedReceipt(f *testing.F) {
	seal, d := testSeal("tools", 1, "", "x")
	accept, err := canonjson.Encode(&AcceptEntry{Kind: KindAccept, Seal: seal, SealDigest: hex.EncodeToString(d[:]), Signers: []Signer{{"ann", "00", "approver"}}, Station: "north", Time: 1, Type: entryType})
	check(f, err)
	refusal := fuzzLogs()[0][0]
	f.Add(accept, int64(2), int64(5), int64(2), []byte{}, byte(0))
	f.Add(accept, int64(2), int64(5), int64(3), []byte{}, byte(0))
	f.Add(accept, int64(2), int64(5), int64(2), []byte{1}, byte(33))
	f.Add(refusal, int64(0), int64(1), int64(0), []byte{}, byte(0))
	f.Add(accept, int64(0), int64(1), int64(-1), []byte{}, byte(0))
	signer, verifier := testKey(f, "north", 1)
	f.Fuzz(func(t *testing.T, entry []byte, at, size, index int64, xor []byte, where byte) {
		if size < 1 || size > 70 || at < 0 || at >= size || len(entry) > 1<<16 {
			return
		}
		entry = append(bytes.TrimRight(entry, "\n"), '\n')
		var stored []tlog.Hash
		read := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
			hashes := make([]tlog.Hash, len(indexes))
			for i, n := range indexes {
				hashes[i] = stored[n]
			}
			return hashes, nil
		})
		for n := range size {
			record := fuzzLogs()[2][n]
			if n == at {
				record = entry
			}
			hashes, err := tlog.StoredHashes(n, record, read)
			check(t, err)
			stored = append(stored, hashes...)
		}
		root, err := tlog.TreeHash(size, read)
		check(t, err)
		head, err := signCheckpoint(tlog.Tree{N: size, Hash: root}, signer)
		check(t, err)
		proof, err := tlog.ProveRecord(size, at, read)
		check(t, err)
		changed := index != at
		r := receiptJSON{Checkpoint: string(head), Entry: trimNewlines(entry), Index: index, Proof: []string{}, Type: receiptType}
		for i := range proof {
			for j, b := range xor {
				if p := int(where) + j - i*hashBytes; p >= 0 && p < hashBytes {
					proof[i][p] ^= b
					changed = changed || b != 0
				}
			}
			r.Proof = append(r.Proof, proof[i].String())
		}
		data, err := canonjson.Encode(r)
		if err != nil {
			return // no JSON
		}
		s, err := VerifyReceipt(data, verifier)
		e, entryErr := ParseEntry(entry)
		good := entryErr == nil && e.Accept != nil && e.Station == "north" && !changed
		switch {
		case good != (err == nil):
			t.Fatalf("good %v, and VerifyReceipt says %v", good, err)
		case err != nil && codeOf(err) != "bad-receipt":
			t.Fatalf("not a refusal: %v", err)
		case err == nil && (s.Index != at || s.Time != e.Time || s.SealDigest != e.Accept.SealDigest):
			t.Fatalf("%q gives %+v", data, s)
		}
	})
}
