package pooltest

import (
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/google/uuid"
	"github.com/tidwall/gjson"
)

// cutDelay is how long what was sent may take on its way before the connection breaks, or it may be lost.
const cutDelay = 100 * time.Millisecond

// streamBlocks streams a message of the content blocks in a JSON array without its brackets: texts, thinking and tool
// calls. A cut breaks the connection within the last block.
func streamBlocks(w io.Writer, flush func() error, model, list string, cut bool) {
	event := func(kind, format string, args ...any) {
		fmt.Fprintf(w, "event: %s\ndata: {\"type\":%q%s}\n\n", kind, kind, fmt.Sprintf(format, args...))
		_ = flush()
	}
	event("message_start", `,"message":{"id":"msg_%s","type":"message","role":"assistant","model":%q,"content":[],`+
		`"stop_reason":null,`+
		`"stop_sequence":null,"usage":{"input_tokens":10,"output_tokens":1}}`, uuid.NewString(), model)
	stop := "end_turn"
	blocks := gjson.Parse("[" + list + "]").Array()
	for i, b := range blocks {
		begin := fmt.Sprintf(`{"type":"text","text":"","citations":%s}`, orNull(b.Get("citations")))
		deltas := []string{fmt.Sprintf(`{"type":"text_delta","text":%s}`, b.Get("text").Raw)}
		switch b.Get("type").Str {
		case "thinking":
			begin = `{"type":"thinking","thinking":"","signature":""}`
			deltas = []string{fmt.Sprintf(`{"type":"thinking_delta","thinking":%s}`, b.Get("thinking").Raw),
				`{"type":"signature_delta","signature":"c2lnbmVk"}`}
		case "tool_use":
			stop = "tool_use"
			begin = fmt.Sprintf(`{"type":"tool_use","id":"toolu_%s","name":%q,"input":{}}`, uuid.NewString(), b.Get("name").Str)
			deltas = []string{fmt.Sprintf(`{"type":"input_json_delta","partial_json":%q}`, b.Get("input").Raw)}
		}
		event("content_block_start", `,"index":%d,"content_block":%s`, i, begin)
		for _, d := range deltas {
			event("content_block_delta", `,"index":%d,"delta":%s`, i, d)
		}
		if cut && i == len(blocks)-1 {
			time.Sleep(cutDelay)
			panic(http.ErrAbortHandler)
		}
		event("content_block_stop", `,"index":%d`, i)
	}
	event("message_delta", `,"delta":{"stop_reason":%q,"stop_sequence":null},"usage":{"output_tokens":5}`, stop)
	event("message_stop", "")
}

func orNull(value gjson.Result) string {
	if !value.Exists() {
		return "null"
	}
	return value.Raw
}
