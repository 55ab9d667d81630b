package confine

import (
	"errors"
	"io"
	"os"
	"sync"
	"time"
)

// drainGrace is how long a Read of a dead child's stdout waits for more, in case somebody unknown holds the pipe.
const drainGrace = time.Second

// output is the reading end of a child's stdout.
type output struct {
	file      *os.File
	cleanedUp <-chan struct{} // closed when whatever could write to it should be dead
}

func (o *output) Read(p []byte) (int, error) {
	select {
	case <-o.cleanedUp:
		_ = o.file.SetReadDeadline(time.Now().Add(drainGrace)) // anew: what is in the pipe isn't lost on a slow reader
	default:
	}
	n, err := o.file.Read(p)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = io.EOF
	}
	return n, err
}

func (o *output) Close() error { return o.file.Close() }

// tail keeps the last stderrKept bytes written to it.
type tail struct {
	mu   sync.Mutex // guards kept
	kept []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.kept = append(t.kept, p...)
	if extra := len(t.kept) - stderrKept; extra > 0 {
		t.kept = append(t.kept[:0], t.kept[extra:]...)
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.kept)
}
