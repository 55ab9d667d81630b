package pooltest

import (
	"encoding/json"
	"slices"
	"strings"

	"claudepool/pool/pooltest/directive"
)

// request is what a call asks.
type request struct {
	Model    string    `json:"model"`
	Stream   bool      `json:"stream"`
	Messages []message `json:"messages"`
}

type message struct {
	Role    string          `json:"role"`
	Content json.RawMessage `json:"content"`
}

type block struct {
	Type    string          `json:"type"`
	Text    string          `json:"text"`
	Content json.RawMessage `json:"content"`
}

func (m message) blocks() []block {
	var text string
	if json.Unmarshal(m.Content, &text) == nil {
		return []block{{Type: "text", Text: text}}
	}
	var blocks []block
	_ = json.Unmarshal(m.Content, &blocks)
	return blocks
}

// text is what the user or the assistant said.
func (m message) text() string {
	var texts []string
	for _, b := range m.blocks() {
		if b.Type == "text" && !strings.HasPrefix(b.Text, "<system-reminder>") {
			texts = append(texts, strings.TrimSpace(b.Text))
		}
	}
	return strings.Join(texts, "\n")
}

// result is what a tool's result says.
func (b block) result() string {
	var text string
	if json.Unmarshal(b.Content, &text) != nil {
		text = message{Content: b.Content}.text()
	}
	return text
}

// What the CLI says of its own accord in the user's name begins with one of these.
var own = []string{
	"Output token limit hit", "[Your previous response had no visible output",
	"Your response above was stopped by a safety classifier",
	"This session is being continued",
}

// In a call for a summary stands the one, and in the summary, before what the user said last, the other.
const (
	summarize = "Your task is to create a detailed summary"
	saidLast  = "the user said last: "
)

// TaskEnded is the text that the API takes for what the CLI tells the model of a task that has ended.
const TaskEnded = "a task has ended"

// tellsOfTask reports whether the CLI says that a task has ended, and nobody anything else.
func (m message) tellsOfTask() bool {
	blocks := m.blocks()
	return len(blocks) == 1 && strings.Contains(blocks[0].Text, "<task-notification>")
}

// said is what the user said last in the message, and the results of tools behind that. The CLI makes one message of
// several between which nothing was answered.
func (m message) said() (text string, results []string) {
	var texts []string
	isNew := true
	for _, b := range m.blocks() {
		isOwn := slices.ContainsFunc(own, func(begin string) bool { return strings.HasPrefix(b.Text, begin) })
		switch {
		case b.Type == "tool_result":
			results, isNew = append(results, b.result()), true
		case b.Type != "text" || strings.HasPrefix(b.Text, "<system-reminder>"):
		case isOwn:
			isNew = true
			if _, last, found := strings.Cut(b.Text, saidLast); found && len(texts) == 0 {
				last, _, _ = strings.Cut(last, "\n")
				texts = append(texts, last)
			}
		case isNew:
			texts, results, isNew = []string{strings.TrimSpace(b.Text)}, nil, false
		default:
			texts = append(texts, strings.TrimSpace(b.Text))
		}
	}
	return strings.Join(texts, "\n"), results
}

// asked is the last thing that the user said, and the results of the tools that were called since.
func (r request) asked() (text string, results []string) {
	for i := len(r.Messages) - 1; i >= 0 && text == ""; i-- {
		if m := r.Messages[i]; m.Role == "user" {
			if i == len(r.Messages)-1 && m.tellsOfTask() {
				return TaskEnded, nil
			}
			var these []string
			if text, these = m.said(); results == nil {
				results = these
			}
		}
	}
	return text, results
}

// wantsSummary reports whether the call is made to have the conversation summarized.
func (r request) wantsSummary() bool {
	return strings.Contains(r.Messages[len(r.Messages)-1].text(), summarize)
}

// summary says what was said, without directives but for those of the turn that may be running: what the user said
// last.
func (r request) summary() (last, summary string) {
	before := r.Messages[:len(r.Messages)-1]
	var said []string
	for _, m := range before {
		if text := m.text(); text != "" && m.Role != "system" {
			said = append(said, directive.Strip(text))
		}
	}
	last, _ = request{Messages: before}.asked()
	return last, "summary of: " + strings.Join(said, " / ") + "\n" + saidLast + last + "\n"
}
