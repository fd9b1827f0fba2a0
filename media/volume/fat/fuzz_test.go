package fat

import (
	"errors"
	"io"
	"io/fs"
	"strings"
	"testing"
	"time"
)

// seed is a volume small enough for the fuzzer: what lies behind its structures is cut, and read as zeros.
func seed(kind int) []byte {
	v := sample(kind)
	return v.b[:v.data(70)]
}

func FuzzOpen(f *testing.F) {
	for _, kind := range []int{12, 16, 32} {
		f.Add(seed(kind))
	}
	v := sample(12)
	v.put(v.data(50)+96, "LOOP       ", attrDir, 50, 0)
	v.chain(20, 21)
	f.Add(v.b[:v.data(70)])
	f.Fuzz(func(t *testing.T, b []byte) {
		const size = 4 << 20
		if len(b) > size {
			return
		}
		start := time.Now()
		fsys, err := Open(&sparse{b, size}, size)
		if err != nil {
			return
		}
		if !Probe(append(b, make([]byte, 512)...)) {
			t.Error("opened and not recognised")
		}
		read := int64(0)
		fs.WalkDir(fsys, ".", func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return nil
			}
			r, err := fsys.Open(path)
			if err != nil {
				var damage *FormatError
				if !errors.As(err, &damage) && !errors.Is(err, io.ErrUnexpectedEOF) {
					t.Errorf("%q: %v", path, err)
				}
				return nil
			}
			defer r.Close()
			info, err := d.Info()
			if err != nil {
				t.Fatal(err)
			}
			n, err := io.Copy(io.Discard, r)
			if err == nil && n != info.Size() {
				t.Errorf("%q has %d of %d bytes", path, n, info.Size())
			}
			if read += n; read > size {
				t.Errorf("%d bytes were read from a volume of %d", read, size)
			}
			if strings.Contains(path, "//") {
				t.Errorf("path %q", path)
			}
			return nil
		})
		for _, x := range fsys.Findings() {
			if x.Code == "" || x.Detail == "" || x.Offset > size {
				t.Errorf("finding %v", x)
			}
		}
		if d := time.Since(start); d > 10*time.Second {
			t.Errorf("took %v", d)
		}
	})
}
