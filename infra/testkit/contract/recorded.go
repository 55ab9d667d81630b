package contract

import (
	"errors"
	"io"
	"sync"
)

// recorded keeps of a body what was read of it.
type recorded struct {
	io.ReadCloser
	done func(body []byte, whole bool) // called once

	mu   sync.Mutex // guards the following
	body []byte
	over bool
}

func (r *recorded) Read(b []byte) (int, error) {
	n, err := r.ReadCloser.Read(b)
	r.mu.Lock()
	if len(r.body) <= maxBody {
		r.body = append(r.body, b[:n]...)
	}
	r.mu.Unlock()
	if err != nil {
		r.end(errors.Is(err, io.EOF))
	}
	return n, err
}

func (r *recorded) Close() error {
	defer r.end(false)
	return r.ReadCloser.Close()
}

// end reports what there was, with whether that was all.
func (r *recorded) end(whole bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.over {
		return
	}
	r.over = true
	r.done(r.body, whole && len(r.body) <= maxBody)
	r.body = nil
}
