package claude

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/text/transform"
)

// InnerID is the id that a CLI has for a session which has another: it was started before anybody knew which session it
// would serve. As long as it runs, the inner id stands in place of the session's in what it writes, in its calls of the
// API, and in the names of its files, and is replaced wherever any of that leaves it. As the API doesn't see it, a
// model can't repeat it.
//
// Both ids are of one length, so that what they stand in keeps its own.
type InnerID struct{ ID, Session string }

// Replace puts the session's id in the inner one's place in a text, which is changed where it is. It returns where the
// last one ends.
func (i InnerID) Replace(text []byte) (done int) {
	for {
		at := bytes.Index(text[done:], []byte(i.ID))
		if at < 0 {
			return done
		}
		done += at + copy(text[done+at:], i.Session)
	}
}

// ReplaceString is Replace of a string.
func (i InnerID) ReplaceString(text string) string { return strings.ReplaceAll(text, i.ID, i.Session) }

// Reader reads what r does, with the session's id in the inner one's place.
func (i InnerID) Reader(r io.Reader) io.Reader { return transform.NewReader(r, replacing{InnerID: i}) }

// replacing replaces in a text that comes in parts.
type replacing struct {
	transform.NopResetter
	InnerID
}

// Transform is transform.Transformer's.
func (r replacing) Transform(dst, src []byte, atEOF bool) (nDst, nSrc int, err error) {
	n := copy(dst, src)
	done := r.Replace(dst[:n])
	switch {
	case n < len(src):
		err = transform.ErrShortDst
	case atEOF:
		return n, n, nil
	}
	if begun := r.begins(dst[done:n]); begun > 0 {
		n -= begun
		err = cmp.Or(err, transform.ErrShortSrc)
	}
	return n, n, err
}

// begins tells how many bytes at the end of a text may be the beginning of an inner id.
func (i InnerID) begins(text []byte) int {
	for n := min(len(text), len(i.ID)-1); n > 0; n-- {
		if bytes.HasSuffix(text, []byte(i.ID[:n])) {
			return n
		}
	}
	return 0
}

// innerID is that of the CLI that runs.
func (t Transcript) innerID() InnerID { return InnerID{t.Inner, t.SessionID} }

// own is the transcript as it is for a CLI that has the session's own id.
func (t Transcript) own() Transcript {
	t.Inner = ""
	return t
}

// sessionFolders are, relative to the workspace, those in which a CLI has a folder for each session of which it may
// tell the model: of what was too long to be told, of subagents, of commands. (Seen on 2.1.330.)
func (t Transcript) sessionFolders() []string {
	uid := t.Owner
	if uid < 0 {
		uid = os.Getuid()
	}
	return []string{filepath.Dir(t.path()), filepath.Join(t.Temp, fmt.Sprint("claude-", uid), projectSlug(t.Cwd))}
}

// LinkInner makes the paths of the session's files, as a model is told of them, lead to where the CLI has those under
// the inner id. Nobody but the CLI may have been in the workspace yet.
func (t Transcript) LinkInner() error {
	for _, folder := range t.sessionFolders() {
		err := t.makeFolders(folder)
		link := filepath.Join(folder, t.SessionID)
		if err == nil {
			err = t.Files.Symlink(t.Inner, link)
		}
		if err == nil {
			err = t.Files.Lchown(link, t.Owner, t.Owner)
		}
		if err != nil {
			return fmt.Errorf("claude: inner id: %w", err)
		}
	}
	return nil
}

// RenameInner gives what the CLI has under the inner id the session's own, for one that resumes the session. The CLI
// must have ended. It does as much as it can, and may be called again after an error, which says what it couldn't.
func (t Transcript) RenameInner() error {
	errs := []error{t.renameTranscript()}
	for _, folder := range t.sessionFolders() {
		inner, session := filepath.Join(folder, t.Inner), filepath.Join(folder, t.SessionID)
		if info, err := t.Files.Lstat(session); err == nil && info.Mode().Type() == fs.ModeSymlink {
			errs = append(errs, t.Files.Remove(session)) // or the next CLI would refuse to put anything there
		}
		if _, err := t.Files.Lstat(inner); err == nil {
			errs = append(errs, t.clear(session), t.Files.Rename(inner, session))
		}
	}
	return errors.Join(errs...)
}

// renameTranscript makes the transcript, of which somebody may be reading, anew under the session's own id.
func (t Transcript) renameTranscript() error {
	f, err := t.Files.OpenFile(t.path(), os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return errors.Join(err, t.Remove()) // it is none, but a link
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return errors.Join(err, t.Remove())
	}
	own := t.own()
	if err := own.Remove(); err != nil {
		return err
	}
	err = own.create(func(to *os.File) error {
		_, err := io.Copy(to, t.innerID().Reader(f))
		return err
	})
	if err != nil { // half of it would be taken for all
		return errors.Join(err, own.Remove())
	}
	return t.Remove()
}

// readInner is Read while the CLI runs, or has just ended: RenameInner may be called meanwhile.
func (t Transcript) readInner(limit int64) ([]byte, error) {
	inner := t
	inner.SessionID, inner.Inner = t.Inner, ""
	text, err := inner.Read(limit)
	if errors.Is(err, fs.ErrNotExist) {
		return t.own().Read(limit)
	}
	t.innerID().Replace(text)
	return text, err
}
