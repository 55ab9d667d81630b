package vault

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"sync"

	"claudepool/infra/archive"
)

// Body is what is kept of a conversation beside its manifest.
type Body struct {
	Settings *Settings // nil where the manifest has them

	transcript []byte // compressed
}

// NewBody is that of a transcript.
func NewBody(transcript []byte) Body { return Body{transcript: compress("", transcript)} }

// Transcript returns what the body was made of. The error is archive.ErrPermanent.
func (b Body) Transcript() ([]byte, error) {
	r, err := gzip.NewReader(bytes.NewReader(b.transcript))
	var text []byte
	if err == nil {
		text, err = io.ReadAll(r)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", archive.ErrPermanent, err)
	}
	return text, nil
}

// TranscriptSize is how many bytes Transcript returns, as the end of what is compressed tells (RFC 1952, ISIZE).
func (b Body) TranscriptSize() int64 {
	const size = 4
	if len(b.transcript) < size {
		return 0
	}
	return int64(binary.LittleEndian.Uint32(b.transcript[len(b.transcript)-size:]))
}

// settingsName marks settings before a transcript.
const settingsName = "settings"

// pack puts settings before a compressed transcript, each compressed by itself.
func pack(s Settings, transcript []byte) []byte {
	text, _ := json.Marshal(s) // of texts and valid JSON: can't fail
	// A line of their own: a release that knows no settings in bodies takes them for one of the transcript's.
	return append(compress(settingsName, append(text, '\n')), transcript...)
}

// unpack undoes pack, which may not have been done.
func unpack(packed []byte) (Body, error) {
	rest := bytes.NewReader(packed)
	r, err := gzip.NewReader(rest)
	if err != nil || r.Name != settingsName {
		return Body{transcript: packed}, err
	}
	r.Multistream(false) // leaves the transcript in rest
	text, err := io.ReadAll(r)
	if err != nil {
		return Body{}, err
	}
	b := Body{Settings: &Settings{}, transcript: packed[len(packed)-rest.Len():]}
	return b, json.Unmarshal(text, b.Settings)
}

// compressors keeps gzip writers, each of which is more than a megabyte.
var compressors = sync.Pool{New: func() any {
	w, _ := gzip.NewWriterLevel(nil, gzip.BestSpeed) // the level exists
	return w
}}

func compress(name string, text []byte) []byte {
	var b bytes.Buffer
	w := compressors.Get().(*gzip.Writer)
	defer compressors.Put(w)
	w.Reset(&b)
	w.Name = name
	_, _ = w.Write(text) // to memory
	_ = w.Close()
	return b.Bytes()
}
