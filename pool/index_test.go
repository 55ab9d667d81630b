package pool_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
)

// A session id may be used again before the files of what had it are gone.
func TestIndex_PointsToWhatHasTheSessionNow(t *testing.T) {
	s := newScriptedService(t, nil)
	session := uuid.NewString()
	entry := filepath.Join(s.root, userID("ada"), session)
	require.NoError(t, os.MkdirAll(filepath.Dir(entry), 0o700))
	require.NoError(t, os.Symlink("../what-had-it-before", entry))
	s.ask("ada", "one", fields{"session_id": session}).text(t)
	points, err := os.Readlink(entry)
	require.NoError(t, err)
	require.NotEqual(t, "../what-had-it-before", points)
	require.DirExists(t, filepath.Join(entry, "work"))

	require.NoError(t, os.Remove(entry))
	require.NoError(t, os.Symlink("../what-has-it-next", entry))
	require.Equal(t, `{"deleted":1}`, s.forget("ada", session))
	points, err = os.Readlink(entry)
	require.NoError(t, err)
	require.Equal(t, "../what-has-it-next", points)
}
