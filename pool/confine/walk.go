package confine

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"
)

// MaxDepth is how many levels of folders there may be in a workspace.
const MaxDepth = 256

// Walk adds up what workspaces take, in as many steps as it is given. It follows no link whatever their owners change
// meanwhile, crosses no mount, and holds at most MaxDepth folders open. It is for one goroutine.
type Walk struct {
	Bytes   int64 // on disk
	Files   int64 // directories and links too
	TooDeep bool  // there are more levels than MaxDepth

	most  int64    // files
	roots []string // those that are still to come
	open  []*listing
	visit func(folder int, name string, stat *unix.Stat_t) error // nil: nothing is to be done with what is met
	err   error                                                  // why something could not be done, which ends the walk
}

// NewWalk returns a walk through folders that ends as soon as there are more than so many files in them, or one is too
// deep. It has to be closed unless it has come to its end.
func NewWalk(most int64, roots ...string) *Walk { return &Walk{most: most, roots: roots} }

// Go goes on until the time given, by one step at least. It reports whether the walk has come to its end.
func (w *Walk) Go(until time.Time) (ended bool) {
	for w.goesOn() {
		w.step()
		if !time.Now().Before(until) {
			return false
		}
	}
	w.Close()
	return true
}

func (w *Walk) goesOn() bool {
	return len(w.open)+len(w.roots) > 0 && !w.TooDeep && w.Files <= w.most && w.err == nil
}

// finish goes on to the end. The error is ErrTooMany if that was before all was seen, or why something could not be
// done.
func (w *Walk) finish() error {
	for w.goesOn() {
		w.step()
	}
	w.Close()
	if w.err == nil && (w.Files > w.most || w.TooDeep) {
		return ErrTooMany
	}
	return w.err
}

// Close gives up what the walk holds open.
func (w *Walk) Close() {
	for _, l := range w.open {
		l.close()
	}
	w.open, w.roots = nil, nil
}

func (w *Walk) enter(root string) {
	w.roots = w.roots[1:]
	l, err := openRoot(root)
	if err != nil {
		w.missed(err)
		return
	}
	var stat unix.Stat_t
	if unix.Fstat(l.fd, &stat) == nil {
		w.count(&stat)
	}
	w.open = deeper(w.open, l)
}

// missed notes what could not be looked at. Where it only is to be counted, its owner has removed it meanwhile, or it
// will be counted another time.
func (w *Walk) missed(err error) {
	if w.visit != nil && !errors.Is(err, unix.ENOENT) {
		w.err = err
	}
}

// step counts what comes next in the deepest folder that is open.
func (w *Walk) step() {
	if len(w.open) == 0 {
		w.enter(w.roots[0])
		return
	}
	here := w.open[len(w.open)-1]
	name, err := here.next()
	if err != nil || name == "" {
		w.missed(err)
		here.close()
		w.open = w.open[:len(w.open)-1]
		return
	}
	var stat unix.Stat_t
	if err := unix.Fstatat(here.fd, name, &stat, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		w.missed(err)
		return
	}
	w.count(&stat)
	if w.visit != nil {
		w.err = w.visit(here.fd, name, &stat)
	}
	if stat.Mode&unix.S_IFMT != unix.S_IFDIR || w.err != nil {
		return
	}
	if len(w.open) == MaxDepth {
		w.TooDeep = true
		return
	}
	inner, err := here.open(name)
	if err != nil {
		w.missed(err)
		return
	}
	w.open = deeper(w.open, inner)
}

// count adds a file. Of one with several names each counts its share: nobody can make a link into a workspace or out of
// it, so together they make up the whole, and nothing has to be remembered of those that were met before.
func (w *Walk) count(stat *unix.Stat_t) {
	w.Files++
	bytes := stat.Blocks * 512
	if stat.Mode&unix.S_IFMT != unix.S_IFDIR && stat.Nlink > 1 {
		bytes /= int64(stat.Nlink) // #nosec G115 -- far below
	}
	w.Bytes += bytes
}
