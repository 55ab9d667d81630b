package api

import (
	"regexp"
	"strings"

	"github.com/tidwall/gjson"
)

// maxAnswer is how long an answer may be, in bytes: as the longest file that a tool is asked to write in one call, and
// more.
const maxAnswer = 8 << 20

// What the CLI asks of a client, by the subtypes of its control requests.
const (
	AskTool        = "can_use_tool" // whether a tool may run, or what the user says to a question
	AskElicitation = "elicitation"  // what an MCP server wants to know of the user
)

// Answer is the body of POST /v1/messages/pooled/answer.
type Answer struct {
	*Request        // of which the credential and the session id count
	ID       string // of what is answered: the request_id of the event that asked
	Response gjson.Result
}

// DecodeAnswer decodes an answer. Its error is always an *Error of the 4xx kind.
func DecodeAnswer(body []byte) (*Answer, error) {
	req, err := DecodeDeletion(body) // of which the same counts
	if err != nil {
		return nil, err
	}
	id := gjson.GetBytes(body, "request_id")
	a := &Answer{Request: req, ID: id.Str, Response: gjson.GetBytes(body, "response")}
	switch {
	case req.SessionID == "":
		return nil, Invalid("session_id: is required")
	case a.ID == "" || len(a.ID) > 256:
		return nil, Invalid("request_id: must be the one of the event that asks")
	case !a.Response.IsObject():
		return nil, Invalid("response: must be an object")
	case len(a.Response.Raw) > maxAnswer:
		return nil, TooLarge("response: must not be longer than %d bytes", maxAnswer)
	}
	return a, nil
}

// Answers checks what a client answers to what the CLI has asked, the request of its line. A field that isn't known is
// refused and not dropped: what it would have meant isn't what would be done. mayMode says whether a permission mode is
// one that the service allows. The error is an *Error of the 4xx kind; setsMode reports whether the answer changes the
// process's permission mode.
func Answers(asked, given gjson.Result, mayMode func(string) bool) (setsMode bool, err error) {
	fields := fieldsOf(given)
	switch asked.Get("subtype").Str {
	case AskTool:
		if id := get(fields, "toolUseID"); id.Exists() && id.Str != asked.Get("tool_use_id").Str {
			return false, Invalid("response.toolUseID: is not that of the tool that was asked for")
		}
		setsMode, err = answersTool(fields, mayMode)
	case AskElicitation:
		err = answersElicitation(fields)
	default:
		err = Invalid("response: a client can't answer what is asked")
	}
	return setsMode, err
}

// field is one of an object's. An object can have several of a name, of which readers take different ones.
type field struct {
	name  string
	value gjson.Result
}

func fieldsOf(object gjson.Result) (all []field) {
	object.ForEach(func(key, value gjson.Result) bool {
		all = append(all, field{key.Str, value})
		return true
	})
	return all
}

// only requires that an object has no fields but these, each at most once and of its kind.
func only(where string, fields []field, kinds map[string]func(gjson.Result) bool) error {
	seen := map[string]bool{}
	for _, f := range fields {
		fits, known := kinds[f.name]
		switch {
		case !known && fieldForm.MatchString(f.name):
			return Invalid("%s.%s: isn't accepted there", where, f.name)
		case !known:
			return Invalid("%s: has a field that isn't accepted there", where)
		case seen[f.name]:
			return Invalid("%s.%s: stands there twice", where, f.name)
		case !fits(f.value):
			return Invalid("%s.%s: is not of the right type", where, f.name)
		}
		seen[f.name] = true
	}
	return nil
}

// fieldForm is that of names which messages may repeat: no token looks like it.
var fieldForm = regexp.MustCompile(`^[A-Za-z_]{1,32}$`)

func isString(v gjson.Result) bool { return v.Type == gjson.String }
func isBool(v gjson.Result) bool   { return v.Type == gjson.True || v.Type == gjson.False }
func isObject(v gjson.Result) bool { return v.IsObject() }
func isArray(v gjson.Result) bool  { return v.IsArray() }

func get(fields []field, name string) (value gjson.Result) {
	for _, f := range fields {
		if f.name == name {
			return f.value
		}
	}
	return value
}

func answersTool(fields []field, mayMode func(string) bool) (setsMode bool, err error) {
	kinds := map[string]func(gjson.Result) bool{"behavior": isString, "toolUseID": isString}
	behavior := get(fields, "behavior").Str
	switch behavior {
	case "allow":
		kinds["updatedInput"], kinds["updatedPermissions"] = isObject, isArray
	case "deny":
		kinds["message"], kinds["interrupt"] = isString, isBool
	default:
		return false, Invalid("response.behavior: must be allow or deny")
	}
	if err := only("response", fields, kinds); err != nil {
		return false, err
	}
	if behavior == "deny" && strings.TrimSpace(get(fields, "message").Str) == "" {
		return false, Invalid("response.message: is required, as the model reads it")
	}
	for _, update := range get(fields, "updatedPermissions").Array() {
		sets, err := allowsUpdate(update, mayMode)
		if err != nil {
			return false, err
		}
		setsMode = setsMode || sets
	}
	return setsMode, nil
}

// maxRules is how many rules one update of the permissions may have.
const maxRules = 100

// allowsUpdate checks one update of a process's permissions. It may hold for the session alone, and not for folders:
// those that a process may use are the service's to say.
func allowsUpdate(update gjson.Result, mayMode func(string) bool) (setsMode bool, err error) {
	const where = "response.updatedPermissions"
	fields := fieldsOf(update)
	kinds := map[string]func(gjson.Result) bool{"type": isString, "destination": isString}
	kind := get(fields, "type").Str
	switch kind {
	case "addRules", "replaceRules", "removeRules":
		kinds["rules"], kinds["behavior"] = isArray, isString
	case "setMode":
		kinds["mode"] = isString
	default:
		return false, Invalid("%s.type: must be addRules, replaceRules, removeRules or setMode", where)
	}
	if err := only(where, fields, kinds); err != nil {
		return false, err
	}
	if get(fields, "destination").Str != "session" {
		return false, Invalid("%s.destination: must be session", where)
	}
	if kind == "setMode" {
		if mode := get(fields, "mode").Str; !isMode(mode) || !mayMode(mode) {
			return false, Invalid("%s.mode: is no permission mode that this service allows", where)
		}
		return true, nil
	}
	switch get(fields, "behavior").Str {
	case "allow", "deny", "ask":
	default:
		return false, Invalid("%s.behavior: must be allow, deny or ask", where)
	}
	return false, allowsRules(where+".rules", get(fields, "rules").Array())
}

func allowsRules(where string, rules []gjson.Result) error {
	if len(rules) > maxRules {
		return Invalid("%s: at most %d are accepted", where, maxRules)
	}
	for _, rule := range rules {
		fields := fieldsOf(rule)
		kinds := map[string]func(gjson.Result) bool{"toolName": isString, "ruleContent": isString}
		if err := only(where, fields, kinds); err != nil {
			return err
		}
		if get(fields, "toolName").Str == "" {
			return Invalid("%s.toolName: is required", where)
		}
	}
	return nil
}

func answersElicitation(fields []field) error {
	kinds := map[string]func(gjson.Result) bool{"action": isString, "content": isObject}
	if err := only("response", fields, kinds); err != nil {
		return err
	}
	switch get(fields, "action").Str {
	case "accept", "decline", "cancel":
		return nil
	}
	return Invalid("response.action: must be accept, decline or cancel")
}
