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

// Alias is a session of which a CLI that was started before the session was known has another id. That inner id is the
// CLI's business: it stands in place of the session's in what the CLI writes, in its calls of the API, and in the names
// of its files, and is replaced wherever any of that leaves it. As the API never sees it, a model can't repeat it.
//
// Both ids are of one length, so that what has them keeps its own.
type Alias struct {
	Inner   string // the id that the CLI has
	Session string // the session's
}

// Replace puts the session's id in the inner one's place in a text, which is changed where it is. It returns where the
// last one ends.
func (a Alias) Replace(text []byte) (done int) {
	for {
		at := bytes.Index(text[done:], []byte(a.Inner))
		if at < 0 {
			return done
		}
		done += at + copy(text[done+at:], a.Session)
	}
}

// ReplaceString is Replace of a string.
func (a Alias) ReplaceString(text string) string { return strings.ReplaceAll(text, a.Inner, a.Session) }

// Reader reads what r does, with the session's id in the inner one's place.
func (a Alias) Reader(r io.Reader) io.Reader { return transform.NewReader(r, replacing{Alias: a}) }

// replacing replaces in a text that comes in parts.
type replacing struct {
	transform.NopResetter
	Alias
}

// Transform is transform.Transformer's.
func (a replacing) Transform(dst, src []byte, atEOF bool) (nDst, nSrc int, err error) {
	n := copy(dst, src)
	done := a.Replace(dst[:n])
	switch {
	case n < len(src):
		err = transform.ErrShortDst
	case atEOF:
		return n, n, nil
	}
	if begun := a.begins(dst[done:n]); begun > 0 {
		n -= begun
		err = cmp.Or(err, transform.ErrShortSrc)
	}
	return n, n, err
}

// begins tells how many bytes at the end of a text may be the beginning of an inner id.
func (a Alias) begins(text []byte) int {
	for n := min(len(text), len(a.Inner)-1); n > 0; n-- {
		if bytes.HasSuffix(text, []byte(a.Inner[:n])) {
			return n
		}
	}
	return 0
}

// sessionFolders are, relative to the workspace, those in which a CLI has a folder for each session of which it may
// tell the model: of what was too long to be told, of subagents, of commands in the background. (Seen on 2.1.330.)
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
		if _, err := t.Files.Stat(folder); err != nil {
			continue // which the CLI makes when it has something to put there
		}
		link := filepath.Join(folder, t.SessionID)
		if err := t.Files.Symlink(t.Inner, link); err != nil {
			return fmt.Errorf("claude: alias: %w", err)
		}
		if err := t.Files.Lchown(link, t.Owner, t.Owner); err != nil {
			return fmt.Errorf("claude: alias: %w", err)
		}
	}
	return nil
}

// readInner is Read while the CLI runs, or has just ended: RenameInner may be called meanwhile.
func (t Transcript) readInner(limit int64) ([]byte, error) {
	own, inner := t, t
	own.Inner, inner.SessionID, inner.Inner = "", t.Inner, ""
	text, err := inner.Read(limit)
	if errors.Is(err, fs.ErrNotExist) {
		text, err = own.Read(limit)
	}
	Alias{t.Inner, t.SessionID}.Replace(text)
	return text, err
}

// RenameInner gives what the CLI has under the inner id the session's own, for one that resumes the session. The CLI
// must have ended. It does as much as it can, and the error says what it couldn't.
func (t Transcript) RenameInner() error {
	own := t
	own.Inner = ""
	var errs []error
	for _, folder := range t.sessionFolders() {
		inner, session := filepath.Join(folder, t.Inner), filepath.Join(folder, t.SessionID)
		if _, err := t.Files.Lstat(inner); err != nil {
			continue
		}
		errs = append(errs, t.clear(session), t.Files.Rename(inner, session))
	}
	if _, err := t.Files.Lstat(t.path()); err == nil {
		errs = append(errs, own.Remove(), t.Files.Rename(t.path(), own.path()), own.replace(Alias{t.Inner, t.SessionID}))
	}
	return errors.Join(errs...)
}

// replace replaces an alias's inner id in the transcript, which stays the file that it is: that needs no room.
func (t Transcript) replace(a Alias) error {
	f, err := t.Files.OpenFile(t.path(), os.O_RDWR|syscall.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return err
	}
	chunk := make([]byte, 64<<10)
	for at := int64(0); ; {
		n, err := f.ReadAt(chunk, at)
		if done := a.Replace(chunk[:n]); done > 0 {
			if _, err := f.WriteAt(chunk[:done], at); err != nil {
				return err
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		at += int64(n - (len(a.Inner) - 1))
	}
}
