package api

import (
	"bytes"
	"unicode/utf8"

	"github.com/tidwall/gjson"
)

// Object is the body, which it shares, if that is a JSON object of a shape that may be looked into. Its error is an
// *Error of the 4xx kind.
func Object(body []byte) (whole gjson.Result, err error) {
	switch {
	case len(bytes.TrimSpace(body)) == 0:
		return whole, Invalid("the body is empty")
	case !utf8.Valid(body):
		return whole, Invalid("the body is not UTF-8")
	}
	if err := checkShape(body); err != nil {
		return whole, err
	}
	if !gjson.ValidBytes(body) {
		return whole, Invalid("the body is not valid JSON")
	}
	if whole = gjson.Parse(textIn(body)); !whole.IsObject() {
		return whole, Invalid("the body must be a JSON object")
	}
	return whole, nil
}
