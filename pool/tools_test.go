package pool_test

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"claudepool/pool"
	"claudepool/pool/api"
)

// lookUp is the tool that the client of these requests has.
func lookUp(more fields) fields {
	all := fields{"client_tools": []fields{{"name": "look", "input_schema": fields{"type": "object"}}}}
	for name, value := range more {
		all[name] = value
	}
	return all
}

const looks = "[[1:tool=mcp__client__look {}]]"

// calls are the ids of the calls that the reply ends with.
func (r reply) calls(t *testing.T) (ids []string) {
	t.Helper()
	require.Equal(t, http.StatusOK, r.status, r.body)
	for _, event := range r.of(api.TypeToolCalls) {
		for _, id := range event.Get("calls.#.id").Array() {
			ids = append(ids, id.Str)
		}
	}
	return ids
}

// results asks again for a conversation that ends with what the tools said.
func (s *service) results(user, text string, ids []string, more fields) reply {
	var calls, results []fields
	for _, id := range ids {
		calls = append(calls, fields{"type": "tool_use", "id": id, "name": "look", "input": fields{}})
		results = append(results, fields{"type": "tool_result", "tool_use_id": id, "content": "seen by " + user})
	}
	return s.ask(user, "", lookUp(fields{"messages": []fields{{"role": "user", "content": text},
		{"role": "assistant", "content": calls}, {"role": "user", "content": results}}}).with(more))
}

func (f fields) with(more fields) fields {
	for name, value := range more {
		f[name] = value
	}
	return f
}

func TestTools_AWaitingTurnDoesNotHoldADrainUp(t *testing.T) {
	t.Parallel()
	s := newService(t, nil)
	ids := s.ask("ada", looks, lookUp(nil)).calls(t)
	require.Len(t, ids, 1)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	s.pool.Drain(ctx)
	require.NoError(t, ctx.Err())
	require.Len(t, s.owner.releasedUsers(), 1)
}

func TestTools_WaitingTurnsGiveWayToTheirUsersOthers(t *testing.T) {
	t.Parallel()
	s := newService(t, func(o *pool.Options) { o.MaxProcessesPerUser = 2 })
	session := func() fields { return lookUp(fields{"session_id": uuid.NewString()}) }
	first, other := session(), session()
	ids := s.ask("ada", "one "+looks, first).calls(t)
	queued := s.ask("ada", "two", first)
	require.Equal(t, http.StatusTooManyRequests, queued.status)
	require.Contains(t, queued.body, ids[0])
	theirs := s.ask("bob", "three "+looks, session()).calls(t)

	later := s.ask("ada", "four "+looks, other).calls(t)
	require.Len(t, later, 1, "nobody needs the other's process yet")
	full := s.ask("ada", "five", session())
	require.Equal(t, http.StatusTooManyRequests, full.status, full.body)
	require.Eventually(t, func() bool { return s.ask("ada", "five", session()).status == http.StatusOK }, time.Minute,
		10*time.Millisecond, "the turn that has waited for longest gives way")
	late := s.results("ada", "one", ids, first)
	require.Contains(t, []int{http.StatusBadRequest, http.StatusOK}, late.status, late.body)
	require.NotContains(t, late.body, "seen by ada", "its turn is over: what it brings is history")
	require.Contains(t, s.results("ada", "four", later, other).text(t), "seen by ada")

	require.Empty(t, s.results("ada", "three", theirs, nil).of(api.TypeToolCalls), "another's turn")
	require.Contains(t, s.results("bob", "three", theirs, nil).text(t), "seen by bob")
}

func TestTools_WhatIsDeletedDoesNotWait(t *testing.T) {
	t.Parallel()
	s := newService(t, nil)
	require.Len(t, s.ask("ada", looks, lookUp(nil)).calls(t), 1)
	require.Equal(t, `{"deleted":1}`, s.forget("ada", ""))
}

// A client that reads slowly gets what the model said before its call, all the same.
func TestTools_ACallDoesNotOvertakeWhatWasSaidBefore(t *testing.T) {
	t.Parallel()
	s := newService(t, nil)
	raw, err := json.Marshal(lookUp(fields{"api_key": "sk-ant-api03-" + uuid.NewString(), "model": "haiku",
		"messages": []fields{{"role": "user", "content": "[[1:say=before it]]" + looks}}}))
	require.NoError(t, err)
	req, err := api.Decode(raw)
	require.NoError(t, err)
	part, err := s.pool.AcquireWithTools(t.Context(), req, false)
	require.NoError(t, err)
	defer part.Release()
	var said strings.Builder
	slowly := sync.OnceFunc(func() { time.Sleep(2 * time.Second) })
	require.NoError(t, part.Run(t.Context(), func() {}, func(_ context.Context, lines [][]byte) error {
		slowly()
		for _, line := range lines {
			said.Write(line)
		}
		return nil
	}))
	before, _, found := strings.Cut(said.String(), api.TypeToolCalls)
	require.True(t, found)
	require.Contains(t, before, "message_stop")
	require.Contains(t, before, "before it")
}
