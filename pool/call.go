package pool

import (
	"context"
	"encoding/json"
	"errors"
	"regexp"
	"strconv"
	"time"

	"claudepool/pool/api"
	"claudepool/pool/broker"
)

const (
	// callRetry is after how long a call that could not be made may be made again, where nobody says another time.
	callRetry = time.Second
	// longestRetry bounds what the API can have a client wait for, in seconds, and maxReason how long its reasons may
	// be, in bytes.
	longestRetry = 3600
	maxReason    = 4 << 10
)

var errorKind = regexp.MustCompile(`^[a-z_]{1,64}$`)

// Pass has the API answer a call that needs no process, and returns the answer. Nothing of the call or of its user is
// kept, and it proves nothing. The error is an *api.Error or ctx's.
func (p *Pool) Pass(ctx context.Context, call api.Call) ([]byte, error) {
	answer, err := p.opts.Broker.Send(ctx, credentialOf(call.Credential), broker.Call{
		Method: call.Method, Path: call.Path, Query: call.Query, Header: call.Header, Body: call.Body,
	})
	switch {
	case errors.Is(err, broker.ErrManyCalls):
		return nil, api.RateLimited(callRetry, "too many calls of this kind are under way, try again")
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case err != nil:
		p.opts.Logger.WarnContext(ctx, "a call was not passed through", "path", call.Path, "error", err)
		return nil, api.Unavailable(callRetry, "the API gave no answer, try again")
	case answer.Status >= 300:
		return nil, refusal(answer)
	}
	return answer.Body, nil
}

// refusal is an error of the API's as a client of this service gets it. Whatever it is, nothing has been run.
func refusal(answer broker.Answer) *api.Error {
	var said struct {
		Error struct{ Type, Message string }
	}
	_ = json.Unmarshal(answer.Body, &said)
	kind, reason := said.Error.Type, said.Error.Message
	if !errorKind.MatchString(kind) {
		kind = "api_error"
	}
	if reason == "" || len(reason) > maxReason {
		reason = "the API refuses the call"
	}
	refused := &api.Error{Status: answer.Status, Type: kind, Message: reason, Credential: answer.Status == 401}
	if answer.Status == 429 || answer.Status >= 500 {
		refused.RetryAfter = callRetry
		if n, err := strconv.Atoi(answer.RetryAfter); err == nil && n > 0 {
			refused.RetryAfter = time.Duration(min(n, longestRetry)) * time.Second
		}
	}
	return refused
}
