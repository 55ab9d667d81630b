package claude

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/require"
)

// The one begins as the other ends, so that what was replaced could be taken for a beginning.
var inner = InnerID{ID: "0a000000-1111-4222-8333-444444444440", Session: "50000000-1111-4222-8333-4444444440a0"}

var withIDs = map[string]string{
	"nothing":               "",
	"no id":                 "0a0 is no id, and 0a000000-1111-4222-8333-44444444444 isn't either",
	"an id":                 "x " + inner.ID + " y",
	"ids beside each other": inner.ID + inner.ID + "0a0" + inner.ID,
	"a beginning first":     "0a0" + inner.ID[:20] + inner.ID,
	"a beginning last":      inner.ID + inner.ID[:35],
	"far apart":             inner.ID + strings.Repeat(inner.ID[:30], 300) + inner.ID,
}

func TestInnerID_ReplacesWhateverATextComesIn(t *testing.T) {
	for name, text := range withIDs {
		want := strings.ReplaceAll(text, inner.ID, inner.Session)
		whole := []byte(text)
		inner.Replace(whole)
		require.Equal(t, want, string(whole), name)
		require.Equal(t, want, inner.ReplaceString(text), name)
		for how, reader := range map[string]func(io.Reader) io.Reader{
			"at once":      func(r io.Reader) io.Reader { return r },
			"in halves":    iotest.HalfReader,
			"byte by byte": iotest.OneByteReader,
			"with the end": iotest.DataErrReader,
		} {
			got, err := io.ReadAll(inner.Reader(reader(strings.NewReader(text))))
			require.NoError(t, err)
			require.Equal(t, want, string(got), "%s, %s", name, how)
		}
	}
}

func TestInnerID_WhatIsReadBeforeAnErrorArrives(t *testing.T) {
	broken := io.MultiReader(strings.NewReader(inner.ID), iotest.ErrReader(io.ErrUnexpectedEOF))
	got, err := io.ReadAll(inner.Reader(broken))
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	require.Equal(t, inner.Session, string(got))
}

// newWithInnerID is a workspace in which a CLI has written under the inner id.
func newWithInnerID(t *testing.T) (transcript Transcript, workspace string) {
	t.Helper()
	transcript, workspace = newTranscript(t)
	transcript.SessionID, transcript.Inner, transcript.Temp = inner.Session, inner.ID, "tmp"
	require.NoError(t, transcript.LinkInner())
	for _, folder := range transcript.sessionFolders() {
		require.NoError(t, os.MkdirAll(filepath.Join(workspace, folder, inner.ID, "deep"), 0o700))
		require.DirExists(t, filepath.Join(workspace, folder, inner.Session, "deep"))
	}
	return transcript, workspace
}

func TestTranscript_IsReadUnderTheSessionsIDAlsoWhileItIsRenamed(t *testing.T) {
	text := strings.Repeat(`{"sessionId":"`+inner.ID+`"}`+"\n", 10_000)
	want := strings.ReplaceAll(text, inner.ID, inner.Session)
	transcript, workspace := newWithInnerID(t)
	require.NoError(t, os.WriteFile(filepath.Join(workspace, transcript.path()), []byte(text), 0o600))
	require.True(t, transcript.Exists())
	requireText := func(transcript Transcript) {
		t.Helper()
		got, err := transcript.Read(1 << 20)
		require.NoError(t, err)
		require.True(t, want == string(got))
	}
	requireText(transcript)
	require.NoError(t, transcript.RenameInner())
	requireText(transcript)
	renamed := transcript.own()
	requireText(renamed)
	for _, folder := range transcript.sessionFolders() {
		require.NoDirExists(t, filepath.Join(workspace, folder, inner.ID))
		info, err := os.Lstat(filepath.Join(workspace, folder, inner.Session))
		require.NoError(t, err)
		require.True(t, info.IsDir(), "no link")
		require.DirExists(t, filepath.Join(workspace, folder, inner.Session, "deep"))
	}
	_, err := os.Lstat(filepath.Join(workspace, transcript.path()))
	require.ErrorIs(t, err, os.ErrNotExist)
	require.NoError(t, transcript.RenameInner(), "once more there is nothing to do")
	requireText(renamed)
}

// Who resumes the session refuses to put anything where a link stands.
func TestTranscript_NoLinkIsLeftWhereTheCLIHadNothing(t *testing.T) {
	transcript, workspace := newWithInnerID(t)
	for _, folder := range transcript.sessionFolders() {
		require.NoError(t, os.RemoveAll(filepath.Join(workspace, folder, inner.ID)))
	}
	require.NoError(t, transcript.RenameInner())
	for _, folder := range transcript.sessionFolders() {
		_, err := os.Lstat(filepath.Join(workspace, folder, inner.Session))
		require.ErrorIs(t, err, os.ErrNotExist)
	}
}

// Whoever has opened the transcript before reads it to its end.
func TestTranscript_IsNotChangedUnderWhoReadsIt(t *testing.T) {
	transcript, workspace := newWithInnerID(t)
	path := filepath.Join(workspace, transcript.path())
	require.NoError(t, os.WriteFile(path, []byte(inner.ID+"\n"), 0o600))
	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()
	require.NoError(t, transcript.RenameInner())
	text, err := io.ReadAll(f)
	require.NoError(t, err)
	require.Equal(t, inner.ID+"\n", string(text))
}

// What stands where the session's files go is no way out, and doesn't keep them away.
func TestTranscript_IsRenamedOverWhateverATenantPlanted(t *testing.T) {
	outside := t.TempDir()
	victim := filepath.Join(outside, "victim")
	for name, plant := range map[string]func(path string) error{
		"a link":   func(path string) error { return os.Symlink(victim, path) },
		"a folder": func(path string) error { return os.MkdirAll(filepath.Join(path, "full"), 0o700) },
		"a file":   func(path string) error { return os.WriteFile(path, []byte("planted"), 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			require.NoError(t, os.WriteFile(victim, []byte(inner.ID), 0o600))
			transcript, workspace := newWithInnerID(t)
			own := transcript.own()
			require.NoError(t, os.WriteFile(filepath.Join(workspace, transcript.path()), []byte("{}\n"), 0o600))
			require.NoError(t, plant(filepath.Join(workspace, own.path())))
			link := filepath.Join(workspace, own.sessionFolders()[0], inner.Session)
			require.NoError(t, os.Remove(link))
			require.NoError(t, plant(link))
			require.NoError(t, transcript.RenameInner())
			text, err := own.Read(100)
			require.NoError(t, err)
			require.Equal(t, "{}\n", string(text))
			require.DirExists(t, filepath.Join(link, "deep"))
			precious, err := os.ReadFile(victim)
			require.NoError(t, err)
			require.Equal(t, inner.ID, string(precious))
		})
	}
}

// What the CLI's own transcript is a link to stays as it is.
func TestTranscript_NothingIsReplacedOutsideOfTheWorkspace(t *testing.T) {
	victim := filepath.Join(t.TempDir(), "victim")
	require.NoError(t, os.WriteFile(victim, []byte(inner.ID), 0o600))
	transcript, workspace := newWithInnerID(t)
	require.NoError(t, os.Symlink(victim, filepath.Join(workspace, transcript.path())))
	require.Error(t, transcript.RenameInner())
	precious, err := os.ReadFile(victim)
	require.NoError(t, err)
	require.Equal(t, inner.ID, string(precious))
}

func TestTranscript_TellsWhatAClearHasLeft(t *testing.T) {
	transcript, workspace := newTranscript(t)
	leftover, err := transcript.Leftover()
	require.NoError(t, err)
	require.Empty(t, leftover, "there is no transcript yet")
	_, err = transcript.Write([]HistoryMessage{{Role: "user", Content: []byte(`"<local-command-caveat>"`)},
		{Role: "user", Content: []byte(`"<command-name>"`)}}, time.Unix(0, 0))
	require.NoError(t, err)
	path := filepath.Join(workspace, transcript.path())
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	leftover, err = transcript.Leftover()
	require.NoError(t, err)
	require.True(t, bytes.Contains(bytes.SplitAfter(text, []byte("\n"))[0], []byte(leftover)))
	const rewind = `{"type":"last-prompt","rewound":true}`
	for want, line := range []string{"", rewind, rewind} {
		text = append(text, line+"\n"...)
		require.NoError(t, os.WriteFile(path, text, 0o600))
		n, err := transcript.Rewinds()
		require.NoError(t, err)
		require.Equal(t, want, n)
	}
}
