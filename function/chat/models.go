package chat

import (
	"encoding/json"
	"time"

	"github.com/tidwall/gjson"
)

// Models is the Messages API's list of models as OpenAI's, which has no pages.
func Models(list []byte) []byte {
	type model struct {
		ID      string `json:"id"`
		Object  string `json:"object"`
		Created int64  `json:"created"`
		OwnedBy string `json:"owned_by"`
	}
	models := []model{}
	gjson.GetBytes(list, "data").ForEach(func(_, m gjson.Result) bool {
		created := int64(0) // where the API doesn't know either
		if at, err := time.Parse(time.RFC3339, m.Get("created_at").Str); err == nil {
			created = max(0, at.Unix())
		}
		models = append(models, model{m.Get("id").Str, "model", created, "anthropic"})
		return true
	})
	raw, _ := json.Marshal(struct { // of strings and numbers: can't fail
		Object string  `json:"object"`
		Data   []model `json:"data"`
	}{"list", models})
	return raw
}
