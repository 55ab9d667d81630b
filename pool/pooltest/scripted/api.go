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

// ask sends messages to the API and hands its events over as they come. It returns the answer's text.
func (c *cli) ask(ctx context.Context, messages []message, each func(event json.RawMessage)) (string, error) {
	c.mu.Lock()
	call := object{"model": c.model, "stream": true, "max_tokens": 1, "messages": messages}
	if c.system != "" {
		call["system"] = c.system
	}
	c.mu.Unlock()
	body, err := json.Marshal(call)
	if err != nil {
		return "", err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, os.Getenv("ANTHROPIC_BASE_URL")+"/v1/messages?beta=true", bytes.NewReader(body))
	if err != nil {
		return "", err
	}
	r.Header.Set("Authorization", "Bearer "+os.Getenv("CLAUDE_CODE_OAUTH_TOKEN"))
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return "", fmt.Errorf("API error: %s", response.Status)
	}
	var answer strings.Builder
	for lines := claude.NewReader(response.Body); ; {
		line, err := lines.Next()
		if errors.Is(err, io.EOF) {
			return "", errors.New("API error: the stream ended early")
		}
		if err != nil {
			return "", err
		}
		data, ok := bytes.CutPrefix(line, []byte("data: "))
		if !ok {
			continue
		}
		if !gjson.ValidBytes(data) {
			return "", errors.New("API error: no JSON")
		}
		each(data)
		answer.WriteString(gjson.GetBytes(data, "delta.text").Str)
		if gjson.GetBytes(data, "type").Str == "message_stop" {
			return answer.String(), nil
		}
	}
}
