package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"

	"github.com/tidwall/gjson"

	"claudepool/pool/claude"
)

// ask sends messages to the API and hands its events over as they come. It returns the answer's blocks.
func (c *cli) ask(ctx context.Context, messages []message, each func(event json.RawMessage)) (answer, error) {
	c.mu.Lock()
	call := object{"model": c.model, "stream": true, "max_tokens": 1, "messages": messages}
	if c.system != "" {
		call["system"] = c.system
	}
	c.mu.Unlock()
	body, err := json.Marshal(call)
	if err != nil {
		return nil, err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, os.Getenv("ANTHROPIC_BASE_URL")+"/v1/messages?beta=true",
		bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Authorization", "Bearer "+os.Getenv("CLAUDE_CODE_OAUTH_TOKEN"))
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("API error: %s", response.Status)
	}
	var a answer
	for lines := claude.NewReader(response.Body); ; {
		line, err := lines.Next()
		if errors.Is(err, io.EOF) {
			return nil, errors.New("API error: the stream ended early")
		}
		if err != nil {
			return nil, err
		}
		data, ok := bytes.CutPrefix(line, []byte("data: "))
		if !ok {
			continue
		}
		if !gjson.ValidBytes(data) {
			return nil, errors.New("API error: no JSON")
		}
		each(data)
		a.take(gjson.ParseBytes(data))
		if gjson.GetBytes(data, "type").Str == "message_stop" {
			return a, nil
		}
	}
}

// answer are the content blocks of a message.
type answer []object

func (a *answer) take(event gjson.Result) {
	switch event.Get("type").Str {
	case "content_block_start":
		block, _ := event.Get("content_block").Value().(map[string]any)
		*a = append(*a, block)
	case "content_block_delta":
		last := (*a)[len(*a)-1]
		for _, kind := range []string{"text", "thinking", "signature"} {
			if more := event.Get("delta." + kind).Str; more != "" {
				before, _ := last[kind].(string)
				last[kind] = before + more
			}
		}
		if input := event.Get("delta.partial_json").Str; input != "" {
			last["input"] = json.RawMessage(input)
		}
	}
}

func (a answer) text() string {
	var text strings.Builder
	for _, block := range a {
		if block["type"] == "text" {
			text.WriteString(block["text"].(string))
		}
	}
	return text.String()
}

// results are what the tools say that the answer calls; nil if it calls none.
func (a answer) results() (results []object) {
	for _, block := range a {
		if block["type"] == "tool_use" {
			results = append(results, object{"type": "tool_result", "tool_use_id": block["id"], "content": "done"})
		}
	}
	return results
}
