package gosdk_test

import (
	"context"
	"encoding/base64"
	"fmt"
	"testing"
	"time"

	"github.com/anthropics/anthropic-sdk-go/v2"
	"github.com/anthropics/anthropic-sdk-go/v2/option"
	"github.com/stretchr/testify/require"
)

// A client that sends its whole history with every request keeps one process warm.
func TestMessages_FiveTurnsRunOnOneProcess(t *testing.T) {
	u := newUser(t, "five")
	var history []anthropic.MessageParam
	var said []string
	pid := ""
	for turn := range 5 {
		question := fmt.Sprintf("go turn %d", turn)
		history = append(history, says(question))
		message, header := u.create(params(history...))
		require.Equal(t, "reply to: "+question, text(message))
		require.Equal(t, anthropic.StopReasonEndTurn, message.StopReason)
		require.Positive(t, message.Usage.OutputTokens)
		require.NotEmpty(t, header.Get("Request-Id"))
		if turn > 0 {
			require.Equal(t, "reused", header.Get("X-Claudepool-Process"))
			require.Equal(t, pid, header.Get("X-Claudepool-Pid"))
		}
		pid = header.Get("X-Claudepool-Pid")
		said = append(said, "user: "+question)
		made := once(t, question)
		require.Equal(t, said, made.Messages)
		said = append(said, "assistant: "+text(message))
		history = append(history, message.ToParam())
	}
}

// The Messages API has no memory, so requests without history have nothing to do with each other.
func TestMessages_WithoutHistoryNothingIsRemembered(t *testing.T) {
	u := newUser(t, "alone")
	for _, question := range []string{"go first alone", "go second alone"} {
		message, _ := u.create(params(says(question)))
		require.Equal(t, "reply to: "+question, text(message))
		made := once(t, question)
		require.Equal(t, []string{"user: " + question}, made.Messages)
	}
}

func TestStream_AccumulatesToTheMessageThatGoesOn(t *testing.T) {
	u := newUser(t, "stream")
	p := params(says("go accumulated"))
	p.System = []anthropic.TextBlockParam{{Text: "go system one"}, {Text: "go system two"}}
	message, err := u.stream(p)
	require.NoError(t, err)
	require.Equal(t, "reply to: go accumulated", text(&message))
	require.Equal(t, anthropic.StopReasonEndTurn, message.StopReason)
	require.Positive(t, message.Usage.InputTokens)
	made := once(t, "go accumulated")
	require.Contains(t, string(made.Body), "go system one")
	require.Contains(t, string(made.Body), "go system two")

	p.Messages = append(p.Messages, message.ToParam(), says("go accumulated on"))
	next, header := u.create(p)
	require.Equal(t, "reply to: go accumulated on", text(next))
	require.Equal(t, "reused", header.Get("X-Claudepool-Process"))
}

// What a test has that sends an image and a document.
var (
	pixel, _ = base64.StdEncoding.DecodeString("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJ" +
		"AAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==")
	pdf = []byte("%PDF-1.1\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>" +
		"endobj\n" +
		"3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 9 9]>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF\n")
)

func TestMessages_ImagesAndDocumentsReachTheAPI(t *testing.T) {
	u := newUser(t, "blocks")
	message, _ := u.create(params(anthropic.NewUserMessage(
		anthropic.NewImageBlockBase64("image/png", base64.StdEncoding.EncodeToString(pixel)),
		anthropic.NewDocumentBlock(anthropic.Base64PDFSourceParam{Data: base64.StdEncoding.EncodeToString(pdf)}),
		anthropic.NewTextBlock("go what is this"))))
	require.Contains(t, text(message), "reply to: go what is this")
	made := once(t, "go what is this")
	require.Contains(t, string(made.Body), `"type":"image"`)
	require.Contains(t, string(made.Body), `"type":"document"`)
	require.Contains(t, string(made.Body), base64.StdEncoding.EncodeToString(pdf))
}

const thoughtful = `go think [[blocks={"type":"thinking","thinking":"hm"},{"type":"text","text":"thought"}]]`

func TestThinking_ComesAsABlockOfItsOwn(t *testing.T) {
	u := newUser(t, "thinking")
	p := params(says(thoughtful))
	p.MaxTokens, p.Thinking = 2048, anthropic.ThinkingConfigParamOfEnabled(1024)
	streamed, err := u.stream(p)
	require.NoError(t, err)
	whole, _ := u.create(p)
	for _, message := range []*anthropic.Message{&streamed, whole} {
		require.Len(t, message.Content, 2)
		require.Equal(t, "hm", message.Content[0].AsThinking().Thinking)
		require.NotEmpty(t, message.Content[0].AsThinking().Signature)
		require.Equal(t, "thought", message.Content[1].Text)
	}
	for _, c := range calls(t, "go think") {
		require.Contains(t, string(c.Body), `"thinking":{`)
	}
}

// Claude Code's tools run within the turn. Whoever wants to see them gets them as tools of a server.
func TestTools_RunWithinTheTurn(t *testing.T) {
	u := newUser(t, "tools")
	p := params(says(`go tool [[tool=Bash {"command":"echo forty-two"}]][[say=let me see]]`))
	hidden, _ := u.create(p, option.WithHeader("x-claudepool-tools", "hide"))
	require.Equal(t, "let me seetool said: forty-two", text(hidden))
	for _, block := range hidden.Content {
		require.Equal(t, "text", block.Type)
	}

	u = newUser(t, "shown")
	message := u.betaStream(`go tool shown [[tool=Bash {"command":"echo forty-two"}]][[say=let me see]]`,
		option.WithHeader("x-claudepool-tools", "show"))
	require.Len(t, message.Content, 4)
	use, result := message.Content[1].AsMCPToolUse(), message.Content[2].AsMCPToolResult()
	require.Equal(t, "Bash", use.Name)
	require.Equal(t, map[string]any{"command": "echo forty-two"}, use.Input)
	require.Equal(t, use.ID, result.ToolUseID)
	require.Contains(t, result.RawJSON(), "forty-two")
	require.False(t, result.IsError)
	require.Equal(t, "tool said: forty-two", message.Content[3].Text)
	require.Equal(t, anthropic.BetaStopReasonEndTurn, message.StopReason)
}

// betaStream streams a message of the beta endpoint, and accumulates it.
func (u *user) betaStream(question string, options ...option.RequestOption) (message anthropic.BetaMessage) {
	u.Helper()
	events := u.client.Beta.Messages.NewStreaming(u.context(), anthropic.BetaMessageNewParams{Model: model,
		MaxTokens: 1024,
		Messages:  []anthropic.BetaMessageParam{anthropic.NewBetaUserMessage(anthropic.NewBetaTextBlock(question))}},
		options...)
	defer events.Close()
	for events.Next() {
		require.NoError(u, message.Accumulate(events.Current()))
	}
	require.NoError(u, events.Err())
	return message
}

func TestBeta_StreamsAndGoesOn(t *testing.T) {
	u := newUser(t, "beta")
	message := u.betaStream("go beta")
	require.Equal(t, "reply to: go beta", message.Content[0].Text)
	next, err := u.client.Beta.Messages.New(u.context(), anthropic.BetaMessageNewParams{Model: model, MaxTokens: 1024,
		Messages: []anthropic.BetaMessageParam{anthropic.NewBetaUserMessage(anthropic.NewBetaTextBlock("go beta")),
			message.ToParam(),
			anthropic.NewBetaUserMessage(anthropic.NewBetaTextBlock("go beta on"))}})
	require.NoError(t, err)
	require.Equal(t, "reply to: go beta on", next.Content[0].Text)
	require.Equal(t, []string{"user: go beta", "assistant: reply to: go beta", "user: go beta on"},
		calls(t, "go beta on")[0].Messages)
}

func TestAbort_EndsTheTurnAndTheNextOneWorks(t *testing.T) {
	u := newUser(t, "abort")
	first, _ := u.create(params(says("go before abort")))
	history := []anthropic.MessageParam{says("go before abort"), first.ToParam()}

	ctx, cancel := context.WithCancel(u.context())
	events := u.client.Messages.NewStreaming(ctx, params(append(history, says("go abort [[words=400]][[delay=50ms]]"))...))
	for events.Next() && events.Current().Delta.Text == "" {
	}
	cancel()
	for events.Next() {
	}
	require.ErrorIs(t, events.Err(), context.Canceled)
	require.Eventually(t, func() bool {
		made := calls(t, "go abort")
		return len(made) == 1 && made[0].Aborted
	}, patience, 20*time.Millisecond)

	next, _ := u.create(params(append(history, says("go after abort"))...))
	require.Equal(t, "reply to: go after abort", text(next))
	require.Equal(t, []string{"user: go before abort", "assistant: reply to: go before abort", "user: go after abort"},
		calls(t, "go after abort")[0].Messages)
	require.Equal(t, 3, u.requests)
}

func TestCountTokens_Counts(t *testing.T) {
	count, err := newUser(t, "count").client.Messages.CountTokens(t.Context(),
		anthropic.MessageCountTokensParams{Model: model, Messages: []anthropic.MessageParam{says("go count")}})
	require.NoError(t, err)
	require.Positive(t, count.InputTokens)
	require.Empty(t, calls(t, "go count"))
}

func TestModels_ComeInPages(t *testing.T) {
	u := newUser(t, "models")
	first, err := u.client.Models.List(u.context(), anthropic.ModelListParams{Limit: anthropic.Int(1)})
	require.NoError(t, err)
	require.Len(t, first.Data, 1)
	require.True(t, first.HasMore)
	var ids []string
	pages := u.client.Models.ListAutoPaging(u.context(), anthropic.ModelListParams{Limit: anthropic.Int(1)})
	for pages.Next() {
		ids = append(ids, pages.Current().ID)
	}
	require.NoError(t, pages.Err())
	require.Equal(t, first.Data[0].ID, ids[0])
	whole, err := u.client.Models.List(u.context(), anthropic.ModelListParams{})
	require.NoError(t, err)
	require.False(t, whole.HasMore)
	require.Len(t, whole.Data, len(ids))
	for i, m := range whole.Data {
		require.Equal(t, ids[i], m.ID)
		require.NotEmpty(t, m.DisplayName)
	}
	one, err := u.client.Models.Get(u.context(), ids[1], anthropic.ModelGetParams{})
	require.NoError(t, err)
	require.Equal(t, ids[1], one.ID)
}
