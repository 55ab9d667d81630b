package messages

import (
	"encoding/json"
	"net/http"
	"regexp"
	"slices"
	"strings"

	"github.com/tidwall/gjson"

	"claudepool/pool/api"
)

// Asked is what a client wants to have of its answer. It keeps nothing of the request.
type Asked struct {
	Model     string
	Stream    bool
	HideTools bool // calls and results of tools are not to be seen
	// Paragraphs has a blank line between what different answers of the API say, for who sees no blocks.
	Paragraphs bool
	Ignored    Ignored
}

// Decode translates and validates a request. pooled is its body in the pooled contract's shape. The error is an
// *api.Error of the 4xx kind.
func Decode(body []byte, header http.Header) (req *api.Request, pooled []byte, asked *Asked, err error) {
	t := translation{header: header, sent: make(map[string]gjson.Result, usualFields),
		fields: make([]field, 0, usualFields)}
	if req, pooled, err = api.DecodeAs(body, t.translate); err != nil {
		return nil, nil, nil, err
	}
	return req, pooled, &Asked{Model: req.Model, Stream: t.stream, HideTools: t.hideTools, Ignored: t.ignored}, nil
}

// usualFields is how many a request has beside its messages.
const usualFields = 8

// field is one of the pooled request, with its value as JSON.
type field struct{ name, raw string }

// translation is a request on its way into the pooled contract.
type translation struct {
	header    http.Header
	sent      map[string]gjson.Result // the parameters but for the messages
	fields    []field                 // of the pooled request
	stream    bool
	hideTools bool
	ignored   Ignored

	clientTools bool // there are some
}

func (t *translation) translate(whole gjson.Result) ([]byte, error) {
	t.read(whole)
	for _, step := range []func() error{t.required, t.refused, t.credential, t.options, t.servers,
		t.tools, t.choice} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	for _, name := range []string{"model", "system", "thinking"} {
		if value := t.sent[name]; isSet(value) {
			t.set(name, value.Raw)
		}
	}
	if !isSet(t.sent["system"]) {
		t.set("system", `""`) // or that of the turn before would hold
	}
	t.set("stateless", "true") // what isn't sent wasn't said
	t.stream = t.sent["stream"].Bool()
	return t.write(), nil
}

// write writes the fields in the order of their names, as the digest of a request with an idempotency key is of them.
func (t *translation) write() []byte {
	slices.SortFunc(t.fields, func(a, b field) int { return strings.Compare(a.name, b.name) })
	b := []byte("{")
	for _, f := range t.fields {
		b = append(append(append(b, '"'), f.name...), `":`...)
		b = append(append(b, f.raw...), ',')
	}
	b[len(b)-1] = '}'
	return b
}

func (t *translation) set(name, raw string) { t.fields = append(t.fields, field{name, raw}) }

// setText sets a field whose text may have come from anywhere.
func (t *translation) setText(name, text string) {
	t.set(name, string(gjson.AppendJSONString(nil, text)))
}

// known are the parameters that have their effect, or are refused where they would have none.
var known = map[string]bool{"model": true, "system": true, "stream": true, "thinking": true, "mcp_servers": true,
	"tools":       true,
	"tool_choice": true, "container": true, "output_format": true, "output_config": true, "thread": true}

// inParts are parameters of which one part is honoured or refused.
var inParts = map[string]string{"thinking": "type", "output_config": "format"}

// read looks at each parameter once, as there may be megabytes between them.
func (t *translation) read(whole gjson.Result) {
	whole.ForEach(func(name, value gjson.Result) bool {
		switch {
		case name.Str == "messages" || !isSet(value):
			return true
		case name.Str == "max_tokens": // required, and of no effect
			t.sent["max_tokens"] = value
			t.ignored.Add(name.Str)
		case known[name.Str]:
			t.sent[name.Str] = value
		default:
			t.ignored.Add(name.Str)
		}
		return true
	})
	for outer, part := range inParts {
		t.sent[outer].ForEach(func(name, value gjson.Result) bool {
			if name.Str != part && isSet(value) {
				t.ignored.Add(outer + "." + name.Str)
			}
			return true
		})
	}
}

// isSet reports whether a field is there and isn't null.
func isSet(value gjson.Result) bool { return value.Exists() && value.Type != gjson.Null }

// required checks what the Messages API requires and the pooled contract doesn't, or takes in more forms.
func (t *translation) required() error {
	most, thinking, stream := t.sent["max_tokens"], t.sent["thinking"], t.sent["stream"]
	switch {
	case !isSet(t.sent["model"]):
		return api.Invalid("model: field required")
	case !isSet(most):
		return api.Invalid("max_tokens: field required")
	case most.Type != gjson.Number || most.Num < 1 || most.Num != float64(most.Int()):
		return api.Invalid("max_tokens: must be an integer of at least 1")
	case isSet(thinking) && !thinking.IsObject():
		return api.Invalid("thinking: must be an object")
	case isSet(stream) && !stream.IsBool():
		return api.Invalid("stream: must be true or false")
	}
	return nil
}

// threadsUnsupported is by what the official clients know that they have to send the whole conversation.
const threadsUnsupported = "thread_unsupported_request"

// refused names what would change the answer and can't be had.
func (t *translation) refused() error {
	if isSet(t.sent["thread"]) {
		err := api.Invalid("thread: threads are not supported, send the whole conversation")
		err.Code = threadsUnsupported
		return err
	}
	for _, name := range []string{"container", "output_format"} {
		if isSet(t.sent[name]) && !isEmptyList(t.sent[name]) {
			return api.Invalid("%s: is not supported here", name)
		}
	}
	if isSet(t.sent["output_config"].Get("format")) {
		return api.Invalid("output_config.format: is not supported")
	}
	return nil
}

func isEmptyList(value gjson.Result) bool { return value.IsArray() && !value.Get("0").Exists() }

// credential takes the user's credential from the headers.
func (t *translation) credential() error {
	of, err := api.CredentialIn(t.header)
	switch {
	case err != nil:
		return err
	case of.OAuth != nil:
		t.set("oauth_credentials", `{"access_token":`+string(gjson.AppendJSONString(nil, of.Token()))+`}`)
	default:
		t.setText("api_key", of.Token())
	}
	return nil
}

// numberForm is that of numbers in headers, which JSON has too.
var numberForm = regexp.MustCompile(`^(0|[1-9][0-9]{0,11})(\.[0-9]{1,12})?$`)

// options are those that travel in headers.
func (t *translation) options() error {
	for name, field := range map[string]string{HeaderSession: "session_id", HeaderPermissionMode: "permission_mode",
		HeaderOnDisconnect: "on_disconnect"} {
		if value := t.header.Get(name); value != "" {
			t.setText(field, value)
		}
	}
	for name, field := range map[string]string{HeaderMaxBudget: "max_budget_usd", HeaderMaxTurns: "max_turns"} {
		value := t.header.Get(name)
		if value != "" && !numberForm.MatchString(value) {
			return api.Invalid("%s: must be a number", strings.ToLower(name))
		}
		if value != "" {
			t.set(field, value)
		}
	}
	switch t.header.Get(HeaderTools) {
	case "", Show:
	case Hide:
		t.hideTools = true
	default:
		return api.Invalid("%s: must be %s or %s", strings.ToLower(HeaderTools), Show, Hide)
	}
	return nil
}

// maxServers is one more than the pooled contract accepts, which refuses them then.
const maxServers = 33

// servers translates the Messages API's list of MCP servers.
func (t *translation) servers() error {
	list := t.sent["mcp_servers"]
	if isSet(list) && !list.IsArray() {
		return api.Invalid("mcp_servers: must be an array")
	}
	servers, err := make(map[string]api.MCPServer), error(nil)
	list.ForEach(func(_, s gjson.Result) bool {
		name := s.Get("name").Str
		switch _, twice := servers[name]; {
		case !s.IsObject() || s.Get("type").Str != "url" || name == "":
			err = api.Invalid("mcp_servers: each must have a name, and be of type url")
		case twice:
			err = api.Invalid("mcp_servers: two have the same name")
		case isSet(s.Get("tool_configuration.allowed_tools")):
			err = api.Invalid("mcp_servers: tool_configuration.allowed_tools is not supported")
		case s.Get("tool_configuration.enabled").Type == gjson.False:
		default:
			servers[strings.Clone(name)] = server(s)
		}
		return err == nil && len(servers) < maxServers
	})
	if err == nil {
		raw, _ := json.Marshal(servers) // of strings: can't fail
		t.set("mcp_servers", string(raw))
	}
	return err
}

func server(s gjson.Result) api.MCPServer {
	out := api.MCPServer{Type: "http", URL: strings.Clone(s.Get("url").Str)}
	if path, _, _ := strings.Cut(out.URL, "?"); strings.HasSuffix(path, "/sse") {
		out.Type = "sse"
	}
	if token := s.Get("authorization_token").Str; token != "" {
		out.Headers = map[string]string{"Authorization": "Bearer " + token}
	}
	return out
}
