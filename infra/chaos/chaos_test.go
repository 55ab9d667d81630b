package main

import (
	"errors"
	"flag"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"claudepool/infra/testkit"
	"claudepool/infra/testkit/client"
	"claudepool/infra/testkit/need"
)

var (
	seed     = flag.Int64("seed", 1, "decides what faults hit and what users say")
	duration = flag.Duration("duration", 0, "how long to begin new faults; 0 is once four at the same time")
)

// patient are options for a machine that has other things to do as well.
func patient() options {
	return options{seed: *seed, talkers: 1, within: maxRecovery, turnTime: time.Minute}
}

// What takes longer than continuous integration has time for is the command's.
func TestMatrix_WhatIsPromisedHoldsWhileFourThingsGoWrong(t *testing.T) {
	need.Program(t, "redis-server")
	o := patient()
	o.users, o.duration = 10, *duration
	acts := [][]fault{pick(t, "instance SIGKILL", "front SIGTERM", "Redis failed over to its replica", "CLI crashes")}
	if *duration > 0 {
		acts = plan(o)
	}
	result, err := play(t.Context(), testkit.Folder(t), o, acts)
	require.NoError(t, err)
	t.Log(result.markdown("go test ./infra/chaos"))
	require.Empty(t, result.notes)
	answers := 0
	for _, one := range result.rows {
		answers += one.answered
	}
	require.Greater(t, answers, 2*o.users, "users were served")
}

func pick(t *testing.T, names ...string) (acts []fault) {
	t.Helper()
	for _, name := range names {
		for _, f := range faults() {
			if f.name == name {
				acts = append(acts, f)
			}
		}
	}
	require.Len(t, acts, len(names))
	return acts
}

func TestPlan_IsTheSameForASeedAndHasEveryFault(t *testing.T) {
	names := func(seed int64) (all []string) {
		for _, acts := range plan(options{seed: seed, firestore: true, disk: true}) {
			all = append(all, nameOf(acts))
		}
		return all
	}
	require.Equal(t, names(1), names(1))
	require.NotEqual(t, names(1), names(2))
	for _, f := range faults() {
		require.Contains(t, names(1)[:len(faults())], f.name)
	}
}

func TestLedger_SeesWhatMustNotHappen(t *testing.T) {
	l, err := newLedger()
	require.NoError(t, err)
	defer l.api.Close()
	a, b := &instance{number: 1}, &instance{number: 2}
	l.know(a)
	l.know(b)
	l.begin("a test")
	l.run("u01-0-000001", "01", 1)
	l.ran("01", 1)
	l.run("u01-0-000002", "01", 2)
	require.Zero(t, l.row.bad(), "one after the other")
	l.run("u01-0-000003", "01", 1)
	require.Equal(t, 1, l.row.double, "at the same time")
	l.run("u01-0-000003", "01", 1)
	require.Equal(t, 1, l.row.twice)
	l.run("u02-0-000001", "02", 1)
	b.apart.begin()
	l.run("u02-0-000002", "02", 2)
	require.Equal(t, 1, l.row.double)
	require.Equal(t, 1, l.row.split)
	require.Zero(t, l.row.stale)
	l.ran("02", 2)
	l.run("u02-0-000003", "02", 1)
	l.run("u02-0-000004", "02", 2)
	require.Equal(t, 1, l.row.stale, "the other one has it by now")
}

func TestTalker_TellsWhoseFaultItIs(t *testing.T) {
	f, home := &front{}, &instance{}
	talker := &talker{front: f, home: home}
	ended := turn{front: f, sent: time.Now()}
	ended.ended = ended.sent.Add(time.Second)
	require.True(t, talker.disturbed(&ended), "nothing was wrong with either")
	require.False(t, talker.disturbed(&turn{front: &front{}}), "never served by this front")
	home.harm.begin()
	home.harm.spells[0].from = ended.sent
	require.False(t, talker.disturbed(&ended))
	home.harm.spells[0] = spell{from: ended.sent.Add(-time.Minute), to: ended.sent.Add(-recovery - time.Second)}
	require.True(t, talker.disturbed(&ended), "long over")
}

func TestTurn_EndsInOneWayOnly(t *testing.T) {
	said := `data: {"type":"stream_event","event":{"delta":{"text":"reply to: u01-0-000001 says"}}}` + "\n\n"
	for name, c := range map[string]struct {
		stream string
		want   outcome
	}{
		"answered": {said + `data: {"type":"result","result":"reply to: u01-0-000001 says"}` + "\n\ndata: [DONE]\n\n",
			answered},
		"a word missing":  {`data: {"type":"result","result":"reply to: u01-0-000001 says"}` + "\n\ndata: [DONE]\n\n", wrong},
		"twice the same":  {"id: t.1\n" + said + "id: t.1\n" + said, wrong},
		"other words":     {`data: {"type":"result","result":"reply to: what"}` + "\n\ndata: [DONE]\n\n", wrong},
		"another's words": {`data: {"type":"stream_event","x":"u02-0-000001"}` + "\n\n", wrong},
		"no mark":         {`data: {"type":"result","result":"reply to: u01-0-000001 says"}` + "\n\n", lost},
		"only the mark":   {"data: [DONE]\n\n", lost},
		"an error":        {`data: {"type":"error"}` + "\n\ndata: [DONE]\n\n", failed},
		"a failed result": {`data: {"type":"result","is_error":true}` + "\n\ndata: [DONE]\n\n", failed},
	} {
		asked := turn{text: "u01-0-000001 says", ticket: "u01-0-000001", id: "t", front: &front{}}
		asked.read(client.NewStream(&http.Response{Body: io.NopCloser(strings.NewReader(c.stream))}))
		require.Equal(t, c.want, asked.outcome, name)
	}
	killed := turn{front: &front{}}
	killed.front.killed.Store(true)
	killed.broke(errors.New("reset"))
	require.Equal(t, cut, killed.outcome)
}

func TestLedger_KnowsWhatConversationsHaveToRemember(t *testing.T) {
	l, err := newLedger()
	require.NoError(t, err)
	defer l.api.Close()
	a, b := &instance{number: 1}, &instance{number: 2}
	l.know(a)
	l.know(b)
	l.newConversation("u01-0")
	l.recall("u01-0-000001", 1, "")
	l.answered("u01-0", "u01-0-000001", a)
	l.recall("u01-0-000002", 2, "user: u01-0-000001")
	require.Zero(t, l.row.forgotten)
	l.recall("u01-0-000002", 2, "")
	require.Equal(t, 1, l.row.forgotten)
	a.harm.begin()
	l.recall("u01-0-000002", 2, "")
	require.Equal(t, 1, l.row.forgotten, "it was killed before it was kept")
	l.memories["u01-0"].turns[0].at = time.Now().Add(-2 * keptWithin)
	l.recall("u01-0-000002", 2, "")
	require.Equal(t, 2, l.row.forgotten)
	l.memories["u01-0"].turns[0].at = time.Now()
	a.graceful.Store(true)
	l.recall("u01-0-000002", 2, "")
	require.Equal(t, 3, l.row.forgotten, "it was asked to end")
}
