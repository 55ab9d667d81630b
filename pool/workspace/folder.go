// Package workspace is where conversations keep their files: a folder each, an index that tells people whose a folder
// is, and a meter of what folders take of the disk. It knows no users and decides nothing: who has too much, and whose
// files give way, is for its callers to say.
package workspace

import (
	"os"
	"path/filepath"
	"sync/atomic"

	"claudepool/pool/claude"
	"claudepool/pool/confine"
)

// The parts of a Folder.
const (
	homeFolder = "home"
	tempFolder = "tmp"
	workFolder = "work"
)

var parts = []string{homeFolder, tempFolder, workFolder}

// Folder is one conversation's own place in the file system. All paths are absolute. Its processes can put there what
// they like, so the service looks for what is in it from its root on, never by a whole path. Its methods may be called
// concurrently.
type Folder struct {
	Root string // all that its processes may write
	// As its processes see them:
	Home string
	Temp string
	Cwd  string // where they work

	launcher *confine.Launcher
	inner    atomic.Pointer[claude.InnerID] // of the CLI that runs here; nil: it has the session's own id
}

// New makes a folder of an opaque name for processes of the launcher. The error is confine.ErrNoUID where another
// folder has to be removed first.
func New(launcher *confine.Launcher) (*Folder, error) {
	root, err := launcher.NewWorkspace(parts...)
	if err != nil {
		return nil, err
	}
	seen := launcher.Seen(root)
	return &Folder{Root: root, Home: filepath.Join(seen, homeFolder), Temp: filepath.Join(seen, tempFolder),
		Cwd: filepath.Join(seen, workFolder), launcher: launcher}, nil
}

// Remove removes the folder with all that is in it, which may take as long as there are files. The error is
// confine.ErrWorkspaceBusy while a process is in it; after an error it may be called again.
func (f *Folder) Remove() error { return f.launcher.RemoveWorkspace(f.Root) }

// WithTranscript has do work on a session's transcript, which doesn't need to exist. No link leads it out of the
// folder. The error is do's, or says that the folder can't be opened.
func (f *Folder) WithTranscript(session string, do func(claude.Transcript) error) error {
	files, err := os.OpenRoot(f.Root)
	if err != nil {
		return err
	}
	defer files.Close()
	t := claude.Transcript{Files: files, Home: homeFolder, Temp: tempFolder, Cwd: f.Cwd, SessionID: session,
		Owner: f.launcher.Owner(f.Root)}
	if inner := f.inner.Load(); inner != nil && inner.Session == session {
		t.Inner = inner.ID
	}
	return do(t)
}

// SetInnerID says that the CLI that runs here, and has done nothing yet, has a session under another id. The error says
// that paths with the session's own lead nowhere.
func (f *Folder) SetInnerID(inner claude.InnerID) error {
	f.inner.Store(&inner)
	return f.WithTranscript(inner.Session, claude.Transcript.LinkInner)
}

// EndInnerID gives the session's files the session's own id, where the CLI had another. The CLI must have ended. Who
// reads the transcript meanwhile finds it all the same. After an error it can be called again; with final, before the
// session is resumed, what can't be renamed is lost.
func (f *Folder) EndInnerID(final bool) error {
	inner := f.inner.Load()
	if inner == nil {
		return nil
	}
	err := f.WithTranscript(inner.Session, claude.Transcript.RenameInner)
	if err == nil || final {
		f.inner.Store(nil)
	}
	return err
}
