package claude

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/tidwall/gjson"
)

// spoken is an entry of the main conversation in which somebody says something.
type spoken struct {
	role    string // user or assistant
	message string // id of the API's message that an assistant's entry is a part of
	results bool   // it is a user's of what tools said, as nobody's prompt is
	summary bool   // the CLI has put it in the place of what was said before
	content gjson.Result
}

// spokenIn are a transcript's entries, up to the one of the uuid until, if there is that. What was said in turns that
// were rewound is left out: the prompt after them has an earlier entry for its parent.
func spokenIn(text []byte, until string) (entries []spoken) {
	at := make(map[string]int) // how many entries there are up to the one of a uuid, it included
	for line := range bytes.Lines(text) {
		if tooDeep(line) || !gjson.ValidBytes(line) {
			continue
		}
		e := gjson.GetManyBytes(line, "uuid", "parentUuid", "isSidechain", "isMeta", "isApiErrorMessage", "type",
			"message.id", "isCompactSummary", "message.content")
		uuid := e[0].Str
		if uuid == "" || e[2].Bool() {
			continue
		}
		one := spoken{role: e[5].Str, message: e[6].Str, summary: e[7].Bool(), content: e[8]}
		one.results = one.content.Get(`#(type=="tool_result")`).Exists()
		if n, ok := at[e[1].Str]; one.role == "user" && !one.results && (ok || e[1].Raw == "null") {
			entries = entries[:min(n, len(entries))]
		}
		if (one.role == "user" || one.role == "assistant") && !e[3].Bool() && !e[4].Bool() {
			entries = append(entries, one)
		}
		if at[uuid] = len(entries); uuid == until {
			break
		}
	}
	return entries
}

const (
	// mostMessages is how many messages Said returns at most, mostSaid of how many bytes together, but for one which is
	// returned in any case, and mostBlock and mostName how long blocks and names in them may be.
	mostMessages = 100
	mostSaid     = 256 << 10
	mostBlock    = 64 << 10
	mostName     = 256
)

// Said is what was said in the main conversation of a transcript, up to the entry of the uuid until, if there is that:
// the last messages before number before, or of all if that is 0, as the Messages API has them and at most limit. The
// first of all has number 0. Blocks that are too long are cut, or named in a text. first is the number of the first.
func Said(text []byte, until string, before, limit int) (said []HistoryMessage, first int) {
	var messages [][]spoken
	answer := -1 // the last of the assistant's
	for _, e := range spokenIn(text, until) {
		last := len(messages) - 1
		switch {
		case e.summary:
		case e.role == "assistant" && answer >= 0 && e.message != "" && messages[answer][0].message == e.message:
			messages[answer] = append(messages[answer], e) // what tools said may stand between its parts
		case e.results && last >= 0 && messages[last][0].results:
			messages[last] = append(messages[last], e)
		default:
			messages = append(messages, []spoken{e})
			if e.role == "assistant" {
				answer = last + 1
			}
		}
	}
	messages = pruned(messages)
	if before <= 0 || before > len(messages) {
		before = len(messages)
	}
	size, first := 0, before
	for first > 0 && before-first < min(limit, mostMessages) {
		m := messageOf(messages[first-1])
		if size += len(m.Content); size > mostSaid && len(said) > 0 {
			break
		}
		said = append([]HistoryMessage{m}, said...)
		first--
	}
	return said, first
}

// pruned are the messages of which anything is left to be shown.
func pruned(messages [][]spoken) [][]spoken {
	kept := messages[:0]
	for _, m := range messages {
		for _, e := range m {
			if len(e.blocks()) > 0 {
				kept = append(kept, m)
				break
			}
		}
	}
	return kept
}

// blocks are the content blocks of an entry without what the CLI has put into it, each as valid JSON.
func (e spoken) blocks() (blocks []string) {
	if e.content.Type == gjson.String {
		if isSaid(e.content.Str) {
			blocks = append(blocks, `{"type":"text","text":`+e.content.Raw+`}`)
		}
		return blocks
	}
	for _, block := range e.content.Array() {
		kind := block.Get("type").Str
		switch {
		case kind == "", kind == "text" && !isSaid(block.Get("text").Str):
		case len(block.Raw) > mostBlock:
			blocks = append(blocks, leftOut(kind, block))
		default:
			blocks = append(blocks, block.Raw)
		}
	}
	return blocks
}

// leftOut is what stands in the place of a block that is too long. What answers a call stays an answer to it.
func leftOut(kind string, block gjson.Result) string {
	switch kind {
	case "text":
		text, _ := json.Marshal(map[string]string{"type": kind, "text": cut(block.Get("text").Str, mostBlock/2)})
		return string(text)
	case "tool_result":
		text, _ := json.Marshal(map[string]any{"type": kind, "tool_use_id": cut(block.Get("tool_use_id").Str, mostName),
			"is_error": block.Get("is_error").Bool(), "content": tooLong(kind, block)})
		return string(text)
	case "tool_use":
		text, _ := json.Marshal(map[string]any{"type": kind, "id": cut(block.Get("id").Str, mostName),
			"name": cut(block.Get("name").Str, mostName), "input": map[string]string{"left_out": tooLong(kind, block)}})
		return string(text)
	}
	text, _ := json.Marshal(map[string]string{"type": "text", "text": tooLong(kind, block)})
	return string(text)
}

func tooLong(kind string, block gjson.Result) string {
	return fmt.Sprintf("[%s of %d bytes, left out]", cut(kind, mostName), len(block.Raw))
}

// cut is a text, or its beginning of about so many bytes if it is longer.
func cut(text string, most int) string {
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most], "") + "…"
}

// messageOf is the message of which the entries are parts.
func messageOf(parts []spoken) HistoryMessage {
	var blocks []string
	for _, e := range parts {
		blocks = append(blocks, e.blocks()...)
	}
	return HistoryMessage{Role: parts[0].role, Content: json.RawMessage("[" + strings.Join(blocks, ",") + "]")}
}

// isSaid reports whether a text says anything, and isn't one that the CLI has put where it is.
func isSaid(text string) bool {
	for _, own := range []string{"<system-reminder>", "<command-name>", "<local-command-"} {
		if strings.HasPrefix(text, own) {
			return false
		}
	}
	return strings.TrimSpace(text) != ""
}
