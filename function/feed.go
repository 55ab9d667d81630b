package function

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"sync"
	"time"

	"claudepool/infra/logging"
	"claudepool/infra/snapshot"
	"claudepool/pool/api"
)

const (
	pathStats  = "/v1/pool/stats"
	pathStream = pathStats + "/stream"
	// feedInterval is how often a reader of the stats hears something: as often as an instance writes a snapshot.
	feedInterval = 2 * time.Second
	// feedReaders is how many there may be at a time, which each hold a place of the front's among its requests.
	feedReaders = 32
	// longestReading is after how long a reader has to come back, also where the platform sets no deadline.
	longestReading = 30 * time.Minute
)

// feed has the stats for all who read them as a stream. The snapshots are read and the stats written down once for all
// of them, and not at all while nobody reads. It may be used concurrently.
type feed struct {
	view     *snapshot.View
	places   *places
	interval time.Duration

	mu      sync.Mutex // guards the following, also while the snapshots are read, for which all readers wait
	looked  time.Time
	list    []snapshot.Instance
	asOf    time.Time
	stale   bool
	event   []byte
	number  int // of the event: of what it tells
	written time.Time
}

func newFeed(view *snapshot.View) *feed {
	return &feed{view: view, places: newPlaces(feedReaders), interval: feedInterval}
}

// latest returns the stats as an event, and its number: while that is the same, nothing new has been said. Ages in it
// are as of when it was written, which for a new reader is lately.
func (f *feed) latest(isNew bool) (event []byte, number int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	changed := false
	if time.Since(f.looked) >= f.interval/2 {
		list, asOf, stale := f.view.List()
		f.looked = time.Now()
		changed = f.number == 0 || stale != f.stale || !slices.EqualFunc(list, f.list, isSame)
		f.list, f.asOf, f.stale = list, asOf, stale
	}
	if changed {
		f.number++
	}
	if changed || isNew && time.Since(f.written) >= f.interval {
		f.write()
	}
	return f.event, f.number
}

func (f *feed) write() {
	f.written = time.Now()
	var text bytes.Buffer
	text.WriteString("data: ")
	_ = json.NewEncoder(&text).Encode(aggregate(f.list, f.asOf, f.stale, f.written)) // which ends with a newline
	text.WriteByte('\n')
	f.event = text.Bytes()
}

// isSame reports whether both are the same snapshot.
func isSame(a, b snapshot.Instance) bool { return a.ID == b.ID && a.At.Equal(b.At) }

// untilNext is how long it is until the next look, which is at the same moment for all readers.
func (f *feed) untilNext() time.Duration {
	return f.interval - time.Duration(time.Now().UnixNano())%f.interval
}

// streamStats has the stats as a stream of events: at once, then whenever an instance has written another snapshot. It
// ends with an end mark, before the request's deadline or when the front ends: the reader may come back at once.
func (f *Front) streamStats(w http.ResponseWriter, r *http.Request) {
	addr, _ := clientAddr(r, f.opts.TrustedProxies)
	if !f.feed.places.acquire(addr) {
		api.WriteError(w, logging.RequestID(r.Header), api.RateLimited(feedInterval, "too many read the stats, try again"))
		return
	}
	defer f.feed.places.release(addr)
	ctx, cancel := context.WithTimeout(r.Context(), longestReading)
	defer cancel()
	ctx, cut := context.WithCancelCause(ctx)
	defer cut(nil)
	defer f.cutBeforeDeadline(ctx, cut)()
	control := http.NewResponseController(w)
	defer context.AfterFunc(f.closing, func() {
		cut(errEnding)
		_ = control.SetWriteDeadline(time.Now().Add(feedInterval)) // of a reader who reads no more
	})()

	header := w.Header()
	header.Set("Content-Type", "text/event-stream")
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("X-Accel-Buffering", "no")
	f.feed.copyTo(ctx, func(text []byte) bool {
		f.limitWrite(control)
		return f.writeAll(w, control, text) == nil && control.Flush() == nil
	})
}

// copyTo writes what is new, or else a ping, until ctx is done or a write has failed.
func (f *feed) copyTo(ctx context.Context, write func([]byte) bool) {
	next := time.NewTimer(0)
	defer next.Stop()
	for told := 0; ; {
		select {
		case <-next.C:
		case <-ctx.Done():
			write([]byte(api.Done))
			return
		}
		event, number := f.latest(told == 0)
		if number == told {
			event = []byte(api.Ping)
		}
		if !write(event) {
			return
		}
		told = number
		next.Reset(f.untilNext())
	}
}
