package claude

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

// block begins a block of an answer.
func block(source int, kind string) string {
	return event(fmt.Sprintf(`{"type":"content_block_start","index":%d,"content_block":{"type":%q}}`, source, kind))
}

// cutAt ends an answer that was cut.
func cutAt(source int) string {
	return fmt.Sprintf(`{"type":"stream_event","event":{"type":"message_stop"},`+
		`"abandoned_blocks":{"api_message_id":"m","from_block_index":%d},`+
		`"parent_tool_use_id":null,"uuid":"e"}`, source)
}

func TestAnswer_ShownIsWhatAStreamOfTheMessagesAPIHas(t *testing.T) {
	cutText := []string{started("m1"), block(0, "text"), delta("so it"), cutAt(0)}
	for name, want := range map[string]struct {
		lines      []string
		shown, all string
	}{
		"goes on": {[]string{started("m2"), block(0, "text"), delta("so"), delta(" it is"), said("m2", "u", "so it is"),
			event(whole)}, "so it is", "so it is"},
		"all again": {[]string{started("m2"), block(0, "text"), delta("so it"), said("m2", "u", "so it"), event(whole)},
			"so it", "so it"},
		"less": {[]string{started("m2"), block(0, "text"), delta("so"), said("m2", "u", "so"), event(whole)},
			"so itso", "so"},
		"another": {[]string{started("m2"), block(0, "text"), delta("so "), delta("what"), said("m2", "u", "so what"),
			event(whole)}, "so itso what", "so what"},
		"cut again": {[]string{started("m2"), block(0, "text"), delta("so"), cutAt(0), started("m3"), block(0, "text"),
			delta("so it is"), said("m3", "u", "so it is"), event(whole)}, "so it is", "so it is"},
		"unstreamed": {[]string{said("m2", "u", "so it is")}, "so it is", "so it is"},
		"thinks anew": {[]string{started("m2"), block(0, "thinking"), block(1, "text"), delta("so it is"),
			said("m2", "u", "so it is"), event(whole)}, "so itso it is", "so it is"},
	} {
		a := answerOf(t, append(append([]string{}, cutText...), want.lines...)...)
		require.Equal(t, want.shown, a.Shown(), name)
		require.Equal(t, want.all, a.All(), name)
	}
}

func TestAnswer_KeepsTheBlocksBeforeTheAbandonedOne(t *testing.T) {
	a := answerOf(t, started("m1"), block(0, "text"), delta("one "), said("m1", "u", "one "), block(1, "text"),
		delta("ha"), cutAt(1),
		started("m2"), block(0, "text"), delta("two"), said("m2", "u", "two"), event(whole))
	require.Equal(t, "one two", a.All())
	require.Equal(t, "one hatwo", a.Shown())
	require.Equal(t, "one hatwo", a.Deltas())
}
