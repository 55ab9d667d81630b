package function

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestRelay_EventsAreWholeInWhateverPiecesTheyCome(t *testing.T) {
	events := []string{"id: t1.1\ndata: one\n\n", "id: t1.2\ndata: " + strings.Repeat("long ", 20) + "\n\n", ": ping\n",
		"id: t1.3\ndata: {}\n\n"}
	all := strings.Join(events, "")
	for size := 1; size <= len(all); size++ {
		o, got := &relay{hasIDs: true, isWhole: true}, ""
		for rest := all; rest != ""; {
			n := min(size, len(rest))
			part := string(o.whole([]byte(rest[:n])))
			require.True(t, part == "" || strings.HasSuffix(part, "\n\n") || strings.HasSuffix(part, "\n\n: ping\n") ||
				part == ": ping\n", "in halves, %d bytes at a time", size)
			got, rest = got+part, rest[n:]
		}
		require.Equal(t, all, got, "%d bytes at a time", size)
		require.Equal(t, "t1.3", o.last)
		require.Empty(t, o.pending)
	}
}
