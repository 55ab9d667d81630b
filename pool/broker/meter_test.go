package broker

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestMeter_FindsWhatACallTookHoweverItsAnswerIsCut(t *testing.T) {
	t.Parallel()
	text := start + strings.Repeat(delta, 3) + end
	for first := range text {
		for _, second := range []int{first, min(first+1, len(text)), (first + len(text)) / 2} {
			m := newMeter(true)
			for _, part := range []string{text[:first], text[first:second], text[second:]} {
				m.look([]byte(part))
			}
			require.Equal(t, &whole, m.usage(), "cut at %d and %d", first, second)
		}
	}
	cut := newMeter(true)
	cut.look([]byte(start + delta))
	begun := whole
	begun.Output, begun.WebSearches = 1, 0
	require.Equal(t, &begun, cut.usage(), "as far as it went")
}

func TestMeter_KeepsNothingOfWhatIsLong(t *testing.T) {
	m := newMeter(true)
	long := []byte(strings.Repeat("x", 1<<20))
	for _, part := range []string{start, "event: content_block_delta\ndata: ", string(long),
		"\n\nevent: message_delta\ndata: ", string(long), string(long), "\n\n"} {
		m.look([]byte(part))
		require.LessOrEqual(t, cap(m.line), maxUsageLine)
	}
	m.look([]byte(end))
	require.Equal(t, &whole, m.usage())
	part := []byte(start + strings.Repeat(delta, 100))
	require.Less(t, testing.AllocsPerRun(10, func() {
		m := newMeter(true)
		m.look(part)
	}), 20.0)
}

func TestMeter_ReadsAnAnswerThatIsNotStreamed(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]*Usage{
		`{"id":"m","model": "claude-haiku-5-5" ,"content":[{"type":"tool_use","input":{"usage":{"input_tokens":7},` +
			`"model":"x"}},{"text":"\",\"usage\":{\"input_tokens\":9}"}],"usage" : {"input_tokens":100,"output_tokens":20,` +
			`"cache_read_input_tokens":300,"cache_creation_input_tokens":45,"cache_creation":{"ephemeral_5m_input_tokens":` +
			`40,"ephemeral_1h_input_tokens":5},"server_tool_use":{"web_search_requests":2}},"stop_reason":null}`: &whole,
		`{"usage":{"input_tokens":1,"cache_creation_input_tokens":45,"speed":"fast"}}`: {Input: 1, CacheWrite5m: 45,
			Fast: true},
		`{"usage":{"input_tokens":-5,"output_tokens":1e30}}`: {Output: maxTokens},
		`{"usage":{"input_tokens":"5","cache_creation_input_tokens":3,"cache_creation":{"ephemeral_1h_input_tokens":9}}}`: {
			CacheWrite1h: 3},
		`{"id":"m","content":[]}`: nil,
		`<html>"usage":{}</html>`: nil,
		``:                        nil,
	} {
		for i := range len(text) + 1 {
			m := newMeter(false)
			m.look([]byte(text[:i]))
			m.look([]byte(text[i:]))
			require.Equal(t, want, m.usage(), text)
		}
	}
}

func FuzzMeter(f *testing.F) {
	f.Add(start+delta+end, true, 7)
	f.Add(`{"model":"m","usage":{"input_tokens":1}}`, false, 3)
	f.Fuzz(func(t *testing.T, text string, isStream bool, at int) {
		one, two := newMeter(isStream), newMeter(isStream)
		one.look([]byte(text))
		at = min(max(at, 0), len(text))
		two.look([]byte(text[:at]))
		two.look([]byte(text[at:]))
		if len(text) < maxUsageLine {
			require.Equal(t, one.usage(), two.usage())
		}
	})
}
