package claude

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"strings"
	"unsafe"

	"github.com/tidwall/gjson"
)

// MaxLine is the longest line accepted from a CLI, in bytes: above the largest body the API takes, with room for the
// JSON around it.
const MaxLine = 64 << 20

// ErrLineTooLong says that a CLI wrote a line of more than MaxLine bytes.
var ErrLineTooLong = errors.New("claude: line too long")

// maxDepth is how deeply a line may be nested. Whatever looks into it may recurse, and a stack that overflows ends the
// whole service.
const maxDepth = 1000

// ErrGarbage says that a line was not a JSON object, or one that is nested too deeply.
var ErrGarbage = errors.New("claude: line is not a JSON object")

// Line is one line of a CLI's output: the bytes as they were written, without the newline, and what the service needs
// to know of them.
type Line struct {
	Raw     []byte
	Type    string // system, stream_event, assistant, user, result, control_request, control_response, …
	Subtype string

	UUID      string
	RequestID string // of a control_request or its cancellation, or of the request a control_response answers
	Asks      string // of a control_request: its subtype

	MessageUUID string // the user message a command_lifecycle line is about
	// of a command_lifecycle line: queued, started, completed, cancelled; of a session_state_changed: idle, running
	State    string
	Tasks    int    // of a background_tasks_changed line: how many there are now
	Response []byte // of a successful control_response: its payload, may be empty
	Error    string // of a failed control_response, or of an assistant line that stands for an API error

	ErrorCode string // of a failed control_response: why, in a word; may be empty

	Sub bool // of a subagent's conversation, not the main one

	IsError      bool     // of a result: the turn failed
	MessageUUIDs []string // of a result: the user messages it answers
	Result       string   // of a result: the final text
	Usage        Usage    // of a result: what the turn took, with subagents and compaction
	HasUsage     bool     // of a result

	event, message string // of a stream_event, and of an assistant line: JSON
}

// Public reports whether the line is one that clients get to see: control lines and the CLI's bookkeeping are not.
func (l *Line) Public() bool {
	switch l.Type {
	case "system":
		return l.Subtype != "session_state_changed" // which only a process with Options.Background writes
	case "stream_event", "assistant", "user", "rate_limit_event", "result":
		return true
	}
	return strings.HasPrefix(l.Type, "tool_")
}

// Failure reports whether the line carries the text of an error, which may name the address of the API's base URL.
func (l *Line) Failure() bool {
	return l.Type == "result" && l.IsError || l.Type == "assistant" && l.Error != "" ||
		l.Type == "system" && l.Subtype == "api_retry"
}

// Answers reports whether a result line ends the turn of the user message uuid.
func (l *Line) Answers(uuid string) bool {
	for _, u := range l.MessageUUIDs {
		if u == uuid {
			return true
		}
	}
	return false
}

// CallsTool reports whether it is an assistant's line in which a tool is called.
func (l *Line) CallsTool() bool {
	return l.Type == "assistant" && gjson.Get(l.message, `content.#(type=="tool_use")`).Exists()
}

// Speaks reports whether the line has a part of an answer of the main conversation, as the API streamed it.
func (l *Line) Speaks() bool {
	return l.Type == "stream_event" && !l.Sub && gjson.Get(l.event, "type").Str == "content_block_delta"
}

// ParseLine reads what the service needs from raw, which it keeps and which nobody may change any more. The error is
// ErrGarbage.
func ParseLine(raw []byte) (Line, error) {
	l := Line{Raw: raw}
	text := unsafe.String(unsafe.SliceData(raw), len(raw)) // #nosec G103 -- a copy costs half as much as reading it
	if len(raw) == 0 || raw[0] != '{' || tooDeep(raw) || !gjson.Valid(text) {
		return l, ErrGarbage
	}
	gjson.Parse(text).ForEach(func(key, value gjson.Result) bool {
		l.set(key.Str, value)
		return l.event == "" || l.Type == "" // behind which nothing is needed, and there are many
	})
	return l, nil
}

// tooDeep counts brackets outside strings. Hardly any line has as many brackets in all.
func tooDeep(raw []byte) bool {
	if bytes.Count(raw, []byte("{"))+bytes.Count(raw, []byte("[")) <= maxDepth {
		return false
	}
	depth, inString := 0, false
	for i := 0; i < len(raw); i++ {
		switch c := raw[i]; {
		case inString && c == '\\':
			i++
		case c == '"':
			inString = !inString
		case inString:
		case c == '{' || c == '[':
			if depth++; depth > maxDepth {
				return true
			}
		case c == '}' || c == ']':
			depth--
		}
	}
	return false
}

func (l *Line) set(key string, value gjson.Result) {
	switch key {
	case "type":
		l.Type = value.String()
	case "subtype":
		l.Subtype = value.String()
	case "uuid":
		l.UUID = value.String()
	case "request_id":
		l.RequestID = value.String()
	case "request":
		l.Asks = value.Get("subtype").String()
	case "command_uuid":
		l.MessageUUID = value.String()
	case "state":
		l.State = value.String()
	case "tasks":
		l.Tasks = int(value.Get("#").Int())
	case "is_error":
		l.IsError = value.Bool()
	case "result":
		l.Result = value.String()
	case "error":
		l.Error = value.String()
	case "event":
		l.event = value.Raw
	case "message":
		l.message = value.Raw
	case "parent_tool_use_id":
		l.Sub = value.Type == gjson.String
	case "model_usage_since_last_result":
		l.Usage, l.HasUsage = usageOf(value), true
	case "user_message_uuid":
		l.MessageUUIDs = append(l.MessageUUIDs, value.String())
	case "user_message_uuids":
		value.ForEach(func(_, v gjson.Result) bool {
			l.MessageUUIDs = append(l.MessageUUIDs, v.String())
			return len(l.MessageUUIDs) < maxMessageUUIDs
		})
	case "response":
		l.Subtype = value.Get("subtype").String()
		l.RequestID = value.Get("request_id").String()
		l.Error = value.Get("error").String()
		l.ErrorCode = value.Get("error_code").String()
		if r := value.Get("response"); r.Exists() {
			l.Response = []byte(r.Raw)
		}
	}
}

// maxMessageUUIDs is how many messages a line can be of: there is one in flight, and others wait at most.
const maxMessageUUIDs = 64

// Reader reads newline-delimited JSON as a CLI writes it. It is not safe for concurrent use.
type Reader struct {
	r   *bufio.Reader
	max int
}

// NewReader returns a Reader of r that accepts lines of up to MaxLine bytes.
func NewReader(r io.Reader) *Reader {
	return &Reader{r: bufio.NewReaderSize(r, 64<<10), max: MaxLine}
}

// Next returns the next line that is not blank, in a slice of its own and without its line ending. A last line that
// lacks one counts. It returns io.EOF at the end, ErrLineTooLong (after which the Reader is of no more use), or the
// underlying reader's error.
func (r *Reader) Next() ([]byte, error) {
	for {
		raw, err := r.read()
		raw = bytes.TrimSpace(raw)
		if len(raw) > 0 && (err == nil || err == io.EOF) {
			return raw, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

func (r *Reader) read() ([]byte, error) {
	var line []byte
	for {
		part, err := r.r.ReadSlice('\n')
		if len(line)+len(part) > r.max {
			return nil, ErrLineTooLong
		}
		line = append(line, part...)
		if err != bufio.ErrBufferFull {
			return line, err
		}
	}
}

// RewindOutcome reads the answer to a Rewind: whether the conversation was rewound, and if not, why: turn_running,
// target_not_found, ….
func RewindOutcome(l Line) (reason string, rewound bool) {
	answer := gjson.ParseBytes(l.Response)
	return answer.Get("reason").String(), answer.Get("rewound").Bool()
}
