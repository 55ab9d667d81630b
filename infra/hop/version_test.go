package hop

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// release makes this one speak a version for the length of a test.
func release(t *testing.T, version string) {
	t.Helper()
	before := current
	current = version
	t.Cleanup(func() { current = before })
}

func TestVerify_TakesItsOwnVersionAndTheOneBefore(t *testing.T) {
	keys := keysOf(t, newKey)
	for own, takes := range map[string][]int{"1": {1}, "2": {1, 2}, "3": {2, 3}, "11": {10, 11}} {
		release(t, own)
		for version := 1; version < 14; version++ {
			want := claims
			want.Version = version
			got, err := keys.Verify(keys.Sign(want, noon), noon)
			if version == takes[0] || version == takes[len(takes)-1] {
				require.NoError(t, err, "%s takes %d", own, version)
				require.Equal(t, want, got)
				continue
			}
			require.ErrorIs(t, err, ErrVersion, "%s takes %d", own, version)
			require.Equal(t, Claims{}, got)
		}
	}
}

func TestVerify_TellsAboutVersionsOnlyThoseWhoHaveAKey(t *testing.T) {
	token := keysOf(t, oldKey).Sign(Claims{Version: 9}, noon)
	_, err := keysOf(t, newKey).Verify(token, noon)
	require.ErrorIs(t, err, ErrSignature)
}

func TestSign_SpeaksThisReleasesVersionUnlessTold(t *testing.T) {
	release(t, "2")
	keys := keysOf(t, newKey)
	got, err := keys.Verify(keys.Sign(Claims{}, noon), noon)
	require.NoError(t, err)
	require.Equal(t, 2, got.Version)
}

func TestCommon_IsTheNewestThatBothSpeak(t *testing.T) {
	for own, common := range map[string]map[int]int{
		"1": {0: 1, 1: 1, 2: 1, 3: 1},
		"2": {0: 1, 1: 1, 2: 2, 3: 2},
		"3": {1: 2, 2: 2, 3: 3, 4: 3}, // there is none with 1, which refuses 2
	} {
		release(t, own)
		for peer, want := range common {
			require.Equal(t, want, Common(peer), "%s with %d", own, peer)
		}
	}
}
