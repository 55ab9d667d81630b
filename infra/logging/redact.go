package logging

import (
	"encoding"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"regexp"
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
var marks = byFirst("sk-ant-", "cp-", "v1.", "ya29.", "eyj", "@", "x-api-key", "authorization", "cookie",
	"x-claudepool-hop", "x-claudepool-key", "_token", "api_key", "bearer")

// byFirst sorts texts in small letters by their first bytes, as a small letter and as a capital one.
func byFirst(texts ...string) (by [256][]string) {
	for _, text := range texts {
		by[text[0]] = append(by[text[0]], text)
		if capital := strings.ToUpper(text)[0]; capital != text[0] {
			by[capital] = append(by[capital], text)
		}
	}
	return by
}

// shortestEncoded is how long a text in base64 is that could have a secret in it.
const shortestEncoded = 12

// encoded is what may be such a text, as JSON writes bytes.
var encoded = regexp.MustCompile(fmt.Sprintf(`[A-Za-z0-9+/]{%d,}={0,2}`, shortestEncoded))

// secretKeys are attributes that are not written whatever they hold.
var secretKeys = map[string]bool{"authorization": true, "x-api-key": true, "x-claudepool-key": true, "cookie": true,
	"token": true, "secret": true,
	"password": true, "credential": true, "api_key": true, "access_token": true, "refresh_token": true, "hop": true}

// Redact returns the text without what looks like a secret: tokens, keys, bearer values, passwords in URLs.
func Redact(text string) string {
	if isClean([]byte(text)) {
		return text
	}
	return string(takeOut([]byte(text)))
}

func redact(line []byte) []byte {
	if isClean(line) {
		return line
	}
	return takeOut(line)
}

// isClean reports that there is nothing to take out. So it is with most lines, and far quicker to see than to try.
func isClean(line []byte) bool {
	if suspicious(line) {
		return false
	}
	for begin, end := 0, 0; begin < len(line); begin = max(end, begin+1) {
		end = begin
		for end < len(line) && isBase64(line[end]) {
			end++
		}
		if end-begin < shortestEncoded {
			continue
		}
		for padding := 0; padding < 2 && end < len(line) && line[end] == '='; padding++ {
			end++
		}
		var room [256]byte
		if plain, err := decode(room[:0], line[begin:end]); err == nil && suspicious(plain) {
			return false
		}
	}
	return true
}

func isBase64(b byte) bool {
	return 'a' <= b && b <= 'z' || 'A' <= b && b <= 'Z' || '0' <= b && b <= '9' || b == '+' || b == '/'
}

// decode appends what a run of base64 is, without what of it isn't whole.
func decode(to, run []byte) ([]byte, error) {
	return base64.StdEncoding.AppendDecode(to, run[:len(run)-len(run)%4])
}

// suspicious reports whether one of the marks is in the text.
func suspicious(text []byte) bool {
	for i, first := range text {
		for _, mark := range marks[first] {
			if len(text)-i >= len(mark) && strings.EqualFold(string(text[i:i+len(mark)]), mark) {
				return true
			}
		}
	}
	return false
}

func takeOut(line []byte) []byte {
	if suspicious(line) {
		line = secret.ReplaceAll(line, []byte("${1}${2}${3}${4}"+redacted))
	}
	return encoded.ReplaceAllFunc(line, func(run []byte) []byte {
		plain, err := decode(nil, run)
		if err == nil && suspicious(plain) && secret.Match(plain) {
			return []byte(redacted)
		}
		return run
	})
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
