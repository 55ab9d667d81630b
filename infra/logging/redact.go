package logging

import (
	"bytes"
	"encoding"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"regexp"
	"slices"
	"strings"
)

const redacted = "[redacted]"

// space is what may stand between words of a line, where it may have been escaped.
const space = `(?:\s|\\[nrt])`

// secret finds what no line may hold, also where it has been cut short. What names a secret, in the groups, is kept. No
// word boundaries: the letter of an escaped line break may stand before a secret.
var secret = regexp.MustCompile(strings.Join([]string{
	// Credentials of the Messages API, secrets of the broker, hop tokens.
	`sk-ant-[A-Za-z0-9_-]*`, `cp-[0-9a-f]{8,}`, `v1\.[A-Za-z0-9_-]{16,}(?:\.[A-Za-z0-9_-]*)?`,
	// Tokens of the platform, and others in that form.
	`ya29\.[A-Za-z0-9._-]+`, `eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9._-]*`,
	// User and password of a URL.
	`(://)[^\s/@"\\]+@`,
	// Headers, alone or in a printed map, and fields of a printed body.
	`(?i)((?:x-api-key|authorization|cookie|x-claudepool-hop|x-claudepool-key)\\*"?` + space + `*[:=]` + space +
		`*\[?\\*"?)(?:(?:bearer|basic)` + space + `+)?[^\s"\\\],}]+`,
	`(?i)(\\*"(?:access_token|refresh_token|api_key)\\*"` + space + `*:` + space + `*\\*")[^"\\]+`,
	`(?i)(bearer` + space + `+)[^\s"\\,\]}]+`,
}, "|"))

// marks has one of each alternative of secret, in small letters. Looking for them is far quicker than the expression.
var marks = [][]byte{[]byte("sk-ant-"), []byte("cp-"), []byte("v1."), []byte("ya29."), []byte("eyj"), []byte("@"),
	[]byte("x-api-key"),
	[]byte("authorization"), []byte("cookie"), []byte("x-claudepool-hop"),
	[]byte("x-claudepool-key"), []byte("_token"), []byte("api_key"), []byte("bearer")}

// encoded is what may be a text in base64, as JSON writes bytes.
var encoded = regexp.MustCompile(`[A-Za-z0-9+/]{12,}={0,2}`)

// secretKeys are attributes that are not written whatever they hold.
var secretKeys = map[string]bool{"authorization": true, "x-api-key": true, "x-claudepool-key": true, "cookie": true,
	"token": true, "secret": true,
	"password": true, "credential": true, "api_key": true, "access_token": true, "refresh_token": true, "hop": true}

// Redact returns the text without what looks like a secret: tokens, keys, bearer values, passwords in URLs.
func Redact(text string) string { return string(redact([]byte(text))) }

func redact(line []byte) []byte {
	if suspicious(line) {
		line = secret.ReplaceAll(line, []byte("${1}${2}${3}${4}"+redacted))
	}
	return encoded.ReplaceAllFunc(line, func(run []byte) []byte {
		plain, err := base64.StdEncoding.AppendDecode(nil, run[:len(run)-len(run)%4])
		if err == nil && suspicious(plain) && secret.Match(plain) {
			return []byte(redacted)
		}
		return run
	})
}

func suspicious(text []byte) bool {
	small := bytes.ToLower(text)
	return slices.ContainsFunc(marks, func(mark []byte) bool { return bytes.Contains(small, mark) })
}

// redacting passes on what is written to it without secrets. slog's handlers write a line at a time: by then message,
// attributes, groups, errors and what is nested in them are one text, so nothing gets by.
type redacting struct{ out io.Writer }

func (r redacting) Write(line []byte) (int, error) {
	if _, err := r.out.Write(redact(line)); err != nil {
		return 0, err
	}
	return len(line), nil
}

// hideKeys takes the values of attributes away whose key says that they are secret.
func hideKeys(attr slog.Attr) slog.Attr {
	if secretKeys[strings.ToLower(attr.Key)] {
		attr.Value = slog.StringValue(redacted)
	}
	return attr
}

// plainValues makes the text handler print composed values as the JSON handler does: fmt would print bytes in them as
// numbers, in which nothing is found.
func plainValues(_ []string, attr slog.Attr) slog.Attr {
	if attr.Value.Kind() != slog.KindAny {
		return hideKeys(attr)
	}
	switch value := attr.Value.Any().(type) {
	case nil, error, fmt.Stringer, encoding.TextMarshaler:
	default:
		text, err := json.Marshal(value)
		if err != nil {
			text = []byte("!ERROR:" + err.Error())
		}
		attr.Value = slog.StringValue(string(text))
	}
	return hideKeys(attr)
}
