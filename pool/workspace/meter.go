package workspace

import (
	"time"

	"claudepool/pool/confine"
)

// maxUnderway is how many owners' walks are kept from one Run to the next: each may hold confine.MaxDepth folders
// open.
const maxUnderway = 8

// Meter measures what owners' folders take. Each owner that is due has a slice of time, again and again until all of
// its files are counted: nobody's keep another's from being measured. It is for one goroutine at a time.
type Meter[Owner comparable] struct {
	slice    time.Duration
	most     int64 // files
	due      map[Owner][]*Folder
	underway map[Owner]*confine.Walk // of the owners that are due
}

// Total is what an owner's folders take.
type Total struct {
	Space
	TooDeep bool // there are more levels than confine.MaxDepth, and Space is not all of it
}

// NewMeter returns a meter that gives each owner a slice of time at once. It stops counting an owner's files beyond
// most. It has to be closed.
func NewMeter[Owner comparable](slice time.Duration, most int64) *Meter[Owner] {
	return &Meter[Owner]{slice: slice, most: most, due: make(map[Owner][]*Folder),
		underway: make(map[Owner]*confine.Walk)}
}

// IsDue reports whether the owner has been added and not measured since.
func (m *Meter[Owner]) IsDue(owner Owner) bool {
	_, is := m.due[owner]
	return is
}

// Add has an owner that isn't due measured by the next Run. It reads no files.
func (m *Meter[Owner]) Add(owner Owner, folders []*Folder) { m.due[owner] = folders }

// Run measures the owners that are due, and hands over each total as soon as it is known. It ends when that is done, or
// when the time is over; then the next Run goes on.
func (m *Meter[Owner]) Run(d time.Duration, measured func(Owner, Total)) {
	for until := time.Now().Add(d); len(m.due) > 0; {
		m.pass(measured)
		if time.Now().After(until) {
			return
		}
	}
}

// pass gives each owner that is due its slice of time.
func (m *Meter[Owner]) pass(measured func(Owner, Total)) {
	for owner, folders := range m.due {
		w := m.underway[owner]
		if w == nil {
			w = confine.NewWalk(m.most, roots(folders)...)
		}
		switch {
		case w.Go(time.Now().Add(m.slice)):
			delete(m.due, owner)
			delete(m.underway, owner)
			measured(owner, Total{Space{w.Bytes, w.Files}, w.TooDeep})
		case m.underway[owner] == nil && len(m.underway) == maxUnderway:
			w.Close() // to begin anew
		default:
			m.underway[owner] = w
		}
	}
}

// Close gives up what is being measured.
func (m *Meter[Owner]) Close() {
	for _, w := range m.underway {
		w.Close()
	}
	clear(m.underway)
}

func roots(folders []*Folder) (roots []string) {
	for _, f := range folders {
		roots = append(roots, f.Root)
	}
	return roots
}
