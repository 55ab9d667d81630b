package chat

import (
	"cmp"
	"encoding/json"

	"github.com/tidwall/gjson"
)

// Failure is an error of the Messages API's in OpenAI's envelope.
func Failure(envelope []byte) []byte {
	type detail struct {
		Message string  `json:"message"`
		Type    string  `json:"type"`
		Param   *string `json:"param"`
		Code    *string `json:"code"`
	}
	failed := gjson.GetBytes(envelope, "error")
	what := detail{Message: failed.Get("message").Str, Type: cmp.Or(failed.Get("type").Str, "api_error")}
	if code := failed.Get("details.error_code").Str; code != "" {
		what.Code = &code
	}
	raw, _ := json.Marshal(struct { // of strings: can't fail
		Error detail `json:"error"`
	}{what})
	return raw
}
