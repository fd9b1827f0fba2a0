package importlog

import (
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"sallyport/bundle/trust"
)

const (
	originPrefix       = "sallyport/"
	maxCheckpointBytes = 64 << 10
)

// Origin returns the checkpoint origin, and name of the note key, of a station's log.
func Origin(station string) string { return originPrefix + station }

// stationOf is the reverse of Origin.
func stationOf(origin string) (string, error) {
	station, ok := strings.CutPrefix(origin, originPrefix)
	if !ok {
		return "", fmt.Errorf("the key's name %.100q is not sallyport/STATION", origin)
	}
	if err := trust.CheckName(station); err != nil {
		return "", fmt.Errorf("station: %w", err)
	}
	return station, nil
}

// A Checkpoint is the head of a log, as its station signed it (C2SP tlog-checkpoint).
type Checkpoint struct {
	Origin string
	Tree   tlog.Tree // size and root hash
	Note   []byte    // the signed note
}

// ParseCheckpoint verifies a checkpoint under the station's key, whose name is the log's origin. Signatures of
// others, such as witnesses, may stand beside it and count for nothing here.
func ParseCheckpoint(data []byte, verifier note.Verifier) (*Checkpoint, error) {
	if len(data) > maxCheckpointBytes {
		return nil, fmt.Errorf("checkpoint: %d bytes, the limit is %d", len(data), maxCheckpointBytes)
	}
	n, err := note.Open(data, note.VerifierList(verifier))
	if err != nil {
		return nil, fmt.Errorf("checkpoint: %w", err)
	}
	for _, s := range n.Sigs {
		if _, err := base64.StdEncoding.Strict().DecodeString(s.Base64); err != nil {
			return nil, fmt.Errorf("checkpoint: signature: %w", err)
		}
	}
	lines := strings.Split(n.Text, "\n")
	if len(lines) != 4 || lines[3] != "" {
		return nil, fmt.Errorf("checkpoint: %d lines of text, it has 3", len(lines)-1)
	}
	if lines[0] != verifier.Name() {
		return nil, fmt.Errorf("checkpoint: origin %.100q, the key is %q's", lines[0], verifier.Name())
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil || size < 0 || strconv.FormatInt(size, 10) != lines[1] {
		return nil, fmt.Errorf("checkpoint: bad tree size %.40q", lines[1])
	}
	hash, err := base64.StdEncoding.Strict().DecodeString(lines[2])
	if err != nil || len(hash) != hashBytes {
		return nil, fmt.Errorf("checkpoint: bad root hash %.80q", lines[2])
	}
	return &Checkpoint{Origin: lines[0], Tree: tlog.Tree{N: size, Hash: tlog.Hash(hash)}, Note: data}, nil
}

func signCheckpoint(tree tlog.Tree, signer note.Signer) ([]byte, error) {
	text := fmt.Sprintf("%s\n%d\n%s\n", signer.Name(), tree.N, tree.Hash)
	data, err := note.Sign(&note.Note{Text: text}, signer)
	if err != nil {
		return nil, fmt.Errorf("sign checkpoint: %w", err)
	}
	return data, nil
}
