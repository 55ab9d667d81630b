package chat

import (
	"fmt"
	"strings"

	"github.com/tidwall/gjson"

	"claudepool/pool/api"
)

// conversation translates the messages. What the system says is said at once, wherever it stands.
func (t *translation) conversation(list gjson.Result) (err error) {
	if list.Exists() && !list.IsArray() {
		return api.Invalid("messages: must be an array")
	}
	i := 0
	list.ForEach(func(_, m gjson.Result) bool {
		err = t.message(fmt.Sprintf("messages.%d", i), m)
		i++
		return err == nil
	})
	return err
}

func (t *translation) message(where string, m gjson.Result) error {
	role, content, err := t.parts(where, m)
	if err != nil {
		return err
	}
	switch role {
	case "system", "developer":
		t.system, err = t.content(separated(t.system), where, role, content)
		return err
	case "user", "assistant":
	default:
		return api.Invalid("%s.role: must be system, developer, user or assistant", where)
	}
	t.out = append(separated(t.out), `{"role":"`+role+`","content":[`...)
	t.out, err = t.content(t.out, where, role, content)
	t.out = append(t.out, `]}`...)
	return err
}

// separated is a list's text to which another value can be appended.
func separated(list []byte) []byte {
	if len(list) == 0 || list[len(list)-1] == '[' {
		return list
	}
	return append(list, ',')
}

// unsaid are what a message may hold that the Messages API has no words for.
var unsaid = map[string]bool{"tool_calls": true, "tool_call_id": true, "function_call": true, "audio": true,
	"refusal": true}

// parts takes a message apart.
func (t *translation) parts(where string, m gjson.Result) (role string, content gjson.Result, err error) {
	if !m.IsObject() {
		return "", content, api.Invalid("%s: must be an object", where)
	}
	m.ForEach(func(name, value gjson.Result) bool {
		switch {
		case !isSet(value):
		case name.Str == "role":
			role = value.Str
		case name.Str == "content":
			content = value
		case !unsaid[name.Str]:
			t.ignored.Add("messages." + name.Str)
		case value.Get("@ugly").Raw != `[]`:
			err = api.Invalid("%s.%s: is not supported here", where, name.Str)
		}
		return err == nil
	})
	return role, content, err
}

// content appends a message's content as the Messages API's blocks.
func (t *translation) content(to []byte, where, role string, content gjson.Result) ([]byte, error) {
	switch {
	case !content.Exists() && role == "assistant": // an answer without a word
		return to, nil
	case content.Type == gjson.String:
		return text(to, where+".content", role, content)
	case !content.IsArray(), role != "assistant" && !content.Get("0").Exists():
		return to, api.Invalid("%s.content: must be a string or an array of content parts, and not empty", where)
	}
	i, err := 0, error(nil)
	content.ForEach(func(_, part gjson.Result) bool {
		if i > 0 {
			to = append(to, ',')
		}
		to, err = t.part(to, fmt.Sprintf("%s.content.%d", where, i), role, part)
		i++
		return err == nil
	})
	return to, err
}

func (t *translation) part(to []byte, where, role string, part gjson.Result) ([]byte, error) {
	kind := part.Get("type").Str
	switch {
	case !part.IsObject():
		return to, api.Invalid("%s: must be an object", where)
	case kind == "text":
		return text(to, where+".text", role, part.Get("text"))
	case role != "user":
		return to, api.Invalid("%s.type: must be text", where)
	case kind != "image_url":
		return to, api.Invalid("%s.type: must be text or image_url", where)
	}
	if detail := part.Get("image_url.detail"); isSet(detail) && detail.Str != "auto" {
		t.ignored.Add("image_url.detail")
	}
	return image(to, where+".image_url.url", part.Get("image_url.url"))
}

func text(to []byte, where, role string, said gjson.Result) ([]byte, error) {
	if said.Type != gjson.String || role == "user" && strings.TrimSpace(said.Str) == "" {
		return to, api.Invalid("%s: must be a string that is not empty", where)
	}
	return append(append(append(to, `{"type":"text","text":`...), said.Raw...), '}'), nil
}

var imageTypes = map[string]bool{"image/jpeg": true, "image/png": true, "image/gif": true, "image/webp": true}

// image appends the image that a URL is or tells of. An instance never fetches it: that is left to the API.
func image(to []byte, where string, url gjson.Result) ([]byte, error) {
	if strings.HasPrefix(url.Str, "https://") {
		to = append(to, `{"type":"image","source":{"type":"url","url":`...)
		return append(append(to, url.Raw...), `}}`...), nil // as it came: written anew it may become six times as long
	}
	inline, isData := strings.CutPrefix(url.Str, "data:")
	kind, data, isBase64 := strings.Cut(inline, ";base64,")
	switch {
	case !isData:
		return to, api.Invalid("%s: must be a URL of https or data", where)
	case !isBase64 || !imageTypes[kind] || data == "" || strings.ContainsFunc(data, isNoDigit):
		return to, api.Invalid("%s: data must be base64 of image/jpeg, image/png, image/gif or image/webp", where)
	}
	to = append(to, `{"type":"image","source":{"type":"base64","media_type":"`+kind+`","data":"`...)
	return append(append(to, data...), `"}}`...), nil
}

// isNoDigit reports whether base64 has no such character.
func isNoDigit(c rune) bool {
	return (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '+' && c != '/' && c != '='
}
