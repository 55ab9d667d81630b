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
	alias    atomic.Pointer[claude.Alias] // of the session whose CLI runs here; nil: the CLI has the session's own id
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
	if alias := f.alias.Load(); alias != nil && alias.Session == session {
		t.Inner = alias.Inner
	}
	return do(t)
}

// SetAlias says that the CLI that runs here, and has done nothing yet, has a session under another id.
func (f *Folder) SetAlias(a claude.Alias) error {
	f.alias.Store(&a)
	return f.WithTranscript(a.Session, claude.Transcript.LinkInner)
}

// EndAlias gives the session's files the session's id. The CLI must have ended. Who reads the transcript meanwhile
// finds it all the same. It does nothing where there is no alias; its error says that some files couldn't be renamed.
func (f *Folder) EndAlias() error {
	alias := f.alias.Load()
	if alias == nil {
		return nil
	}
	err := f.WithTranscript(alias.Session, claude.Transcript.RenameInner)
	f.alias.Store(nil)
	return err
}
