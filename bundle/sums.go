package bundle

import (
	"encoding/hex"
	"io"
	"strings"
)

// writeSums writes SHA256SUMS as coreutils' sha256sum would (docs/format.md, section 6).
func writeSums(w io.Writer, readme, manifest [32]byte, entries []Entry) error {
	buf := appendSum(make([]byte, 0, 64<<10), readme, readmeName)
	for i := range entries {
		if e := &entries[i]; e.Type == File {
			buf = appendSum(buf, e.SHA256, e.Path)
		}
		if len(buf) >= 32<<10 {
			if _, err := w.Write(buf); err != nil {
				return err
			}
			buf = buf[:0]
		}
	}
	_, err := w.Write(appendSum(buf, manifest, manifestName))
	return err
}

func sumsSize(entries []Entry) int64 {
	var n countWriter
	_ = writeSums(&n, [32]byte{}, [32]byte{}, entries) // countWriter never fails
	return int64(n)
}

func appendSum(b []byte, digest [32]byte, path string) []byte {
	if strings.Contains(path, `\`) {
		b = append(b, '\\')
		path = strings.ReplaceAll(path, `\`, `\\`)
	}
	b = hex.AppendEncode(b, digest[:])
	b = append(b, "  "...)
	b = append(b, path...)
	return append(b, '\n')
}
