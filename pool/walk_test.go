package pool_test

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"github.com/tidwall/gjson"

	"claudepool/infra/archive"
	"claudepool/pool"
	"claudepool/pool/api"
	"claudepool/pool/pooltest"
)

const (
	turnsSteps    = 20
	turnsScripted = 40           // conversations to walk through, other ones at each run
	turnsReal     = "TURNS"      // how many conversations to walk through with the real CLI; none if unset
	turnsSeed     = "TURNS_SEED" // what a failure has printed: SEED, or SEED/CONVERSATION for that one alone
)

// By default the walk is a short one: make turns has the long one, of six conversations for each with the real CLI.
func TestTurns_WhateverHappensTheAPISeesTheGoodOnesInOrder(t *testing.T) {
	n := turnsScripted
	if long := turnsWithTheRealCLI(t); long > 0 {
		n = 6 * long
	}
	walkAll(t, n, 10, newScriptedService, steps)
}

// turnsWithTheRealCLI is how many conversations are to be walked through with it.
func turnsWithTheRealCLI(t *testing.T) (n int) {
	if text := os.Getenv(turnsReal); text != "" {
		_, err := fmt.Sscan(text, &n)
		require.NoError(t, err)
	}
	return n
}

func TestTurns_WithTheRealCLI(t *testing.T) {
	n := turnsWithTheRealCLI(t)
	if n == 0 {
		t.Skip("make turns")
	}
	walkAll(t, n, 4, newService, append(steps, realSteps...))
}

// steps are what may happen to a conversation, each before a good turn.
var steps = []step{
	{"good", 30, func(w *walk) {}},
	{"several blocks", 5, func(w *walk) { w.good(blocks(text("first "), thinking("hm"), text("second"))) }},
	{"tool", 4, func(w *walk) { w.good(blocks(text("I run it "), running("echo hi"))) }},
	{"empty", 3, func(w *walk) { w.good(blocks()) }},
	{"failed", 3, func(w *walk) { w.fail([]string{"[[status=500]]", "[[status=529]]"}[w.rand.IntN(2)]) }},
	{"hung up on and sent again", 2, (*walk).again},
	{"hung up on", 2, (*walk).hangUp},
	{"killed in a turn", 1, (*walk).killedInATurn},
	{"killed", 1, (*walk).killed},
	{"reaped", 1, (*walk).reaped},
	{"handed to another instance", 1, func(w *walk) { w.reaped(); w.at = 1 - w.at; w.service = w.instances[w.at] }},
}

// realSteps are those that only the real CLI can show: a turn that compacts, or runs subagents, or leaves work in the
// background.
var realSteps = []step{
	{"subagent", 3, func(w *walk) { w.good(lookAround) }},
	{"failed after a subagent", 2, func(w *walk) { w.fail(lookAround + "[[2:status=500]]") }},
	{"compacted", 1, (*walk).compacted},
	{"failed after it compacted", 2, func(w *walk) {
		if w.hasPast() {
			w.fail(`[[1:tool=Bash {"command":"echo hi"}]][[1:input_tokens=990000]][[2:status=500]]`)
		}
	}},
	{"background", 2, (*walk).background},
}

// lookAround has the model ask a subagent.
const lookAround = `[[1:tool=Agent {"description":"d","prompt":"look around","subagent_type":"general-purpose",` +
	`"run_in_background":false}]]`

type step struct {
	name   string
	weight int
	take   func(*walk)
}

// walk is one client's conversation on two instances, one after the other.
type walk struct {
	client
	instances [2]*service
	at        int
	rand      *rand.Rand
	asked     int      // questions, to tell them apart
	said      []string // what the API is to see
	pid       string   // of the process that has answered last; empty if it has been reaped
	trace     []string

	summarized bool
}

// walkAll walks through n conversations, several at a time.
func walkAll(t *testing.T, n, atOnce int, start func(testing.TB, func(*pool.Options)) *service, steps []step) {
	seed, only := rand.Uint64(), -1
	if text := os.Getenv(turnsSeed); text != "" {
		if _, err := fmt.Sscanf(text, "%d/%d", &seed, &only); err != nil {
			only = -1
		}
	}
	t.Parallel()
	t.Logf("%s=%d", turnsSeed, seed)
	var walks sync.WaitGroup
	for first := range atOnce {
		store := archive.NewFolder(t.TempDir(), time.Hour)
		instances := [2]*service{start(t, keepingIn(store, withStandby(1))), start(t, keepingIn(store, withStandby(1)))}
		walks.Go(func() { // which the first walk that fails ends
			for i := first; i < n; i += atOnce {
				if only < 0 || i == only {
					walkThrough(t, seed, i, instances, steps)
				}
			}
		})
	}
	walks.Wait()
}

func walkThrough(t *testing.T, seed uint64, number int, instances [2]*service, steps []step) {
	random := rand.New(rand.NewPCG(seed, uint64(number)))
	w := &walk{instances: instances, rand: random}
	w.client = client{service: instances[0], user: fmt.Sprint("walker-", number), way: ways[random.IntN(len(ways))],
		session: uuid.NewString()}
	done := false
	defer func() {
		if !done {
			t.Logf("%s=%d/%d, kept as %q: %s", turnsSeed, seed, number, w.way, strings.Join(w.trace, ", "))
		}
	}()
	for range turnsSteps {
		s := w.choose(steps)
		w.trace = append(w.trace, s.name)
		s.take(w)
		w.good(blocks(text("answer")))
	}
	for _, s := range instances {
		s.api.Forget()
	}
	done = true
}

func (w *walk) choose(steps []step) step {
	var all []step
	for _, s := range steps {
		for range s.weight {
			all = append(all, s)
		}
	}
	return all[w.rand.IntN(len(all))]
}

// question is one that hasn't been asked before. What is asked for has the last word in it, as the API merges a
// question that has got an empty answer with the next.
func (w *walk) question(wants string) string {
	w.asked++
	return fmt.Sprintf("question %d of %s %s", w.asked, w.user, wants)
}

// good asks a question that is to be answered well.
func (w *walk) good(wants string) { w.answered(w.question(wants)) }

func (w *walk) answered(question string) {
	w.t.Helper()
	before, began := len(w.api.Calls()), len(w.said) > 0
	session := w.session
	r := w.ask(question, nil)
	require.True(w.t, isGood(r), r.body)
	if began {
		require.Equal(w.t, session, sessionOf(r), "it is another conversation")
	}
	w.said = append(w.said, "user: "+question)
	calls := w.api.Calls()
	require.Greater(w.t, len(calls), before)
	require.Equal(w.t, w.said, spoken(calls[before]))
	if answer := squeezed(answerOf(r, "joined")); answer != "" {
		w.said = append(w.said, "assistant: "+answer)
	}
	w.pid = r.pid
}

// fail asks a question that the API answers with an error.
func (w *walk) fail(wants string) {
	r := w.ask(w.question(wants), nil)
	require.Equal(w.t, http.StatusOK, r.status, r.body)
	require.False(w.t, isGood(r), r.body)
}

// again hangs up and sends the same again at once.
func (w *walk) again() {
	question := w.question(blocks(text("answer")) + "[[1:silence]]")
	w.hangUpOn(question)
	w.answered(question)
}

// hasPast reports whether there is something to summarize. Of a summary in a summary the stand-in can't tell what is
// asked.
func (w *walk) hasPast() bool { return len(w.said) > 4 && !w.summarized }

// compacted has a turn fill the model's window, so that the next one begins with a summary. From there on the API is to
// see what it sees then.
func (w *walk) compacted() {
	if !w.hasPast() {
		return
	}
	w.good("[[input_tokens=990000]]")
	question, before := w.question(blocks(text("answer"))), len(w.api.Calls())
	r := w.ask(question, nil)
	require.True(w.t, isGood(r), r.body)
	calls := w.api.Calls()[before:]
	require.Len(w.t, calls, 2, "one for the summary")
	w.said = spoken(calls[1])
	require.Contains(w.t, w.said[0], "summary of: ")
	require.Contains(w.t, w.said[len(w.said)-1], question)
	w.said = append(w.said, "assistant: answer")
	w.pid, w.summarized = r.pid, true
}

// background leaves a command running beside its turn, of whose end the model is told in another one.
func (w *walk) background() {
	question, before := w.question(`[[1:tool=Bash {"command":"echo hi","run_in_background":true}]]`), len(w.api.Calls())
	body := w.request(question)
	body["background"] = "wait"
	r := w.service.ask(w.user, "", body)
	require.Len(w.t, r.results(), 2, r.body)
	w.session, w.pid = sessionOf(r), r.pid
	w.kept = append(append(w.kept, user(question)), answerOf(r, w.way)...)
	w.said = append(w.said, "user: "+question)
	require.Equal(w.t, w.said, spoken(w.api.Calls()[before]))
	w.said = append(w.said, "assistant: "+squeezed(answerOf(r, "joined")))
}

// hangUp hangs up and has something else to ask a little later.
func (w *walk) hangUp() {
	w.hangUpOn(w.question("[[silence]]"))
	require.Eventually(w.t, func() bool { return w.api.Open() == 0 }, time.Minute, time.Millisecond)
}

func (w *walk) hangUpOn(question string) {
	before := len(w.api.Calls())
	w.abandon(question, func() bool { return len(w.api.Calls()) > before })
}

func (w *walk) killedInATurn() {
	before := len(w.api.Calls())
	response, err := w.start(w.t.Context(), w.user, "", w.request(w.question("[[silence]]")))
	require.NoError(w.t, err)
	w.awaitCall(before)
	kill(w.t, response.Header.Get(api.HeaderPID))
	require.Len(w.t, read(response).of("error"), 1)
}

func (w *walk) killed() {
	for _, u := range w.pool.Snapshot().Users {
		if u.ID == userID(w.user) && u.Alive {
			kill(w.t, strconv.Itoa(u.PID))
		}
	}
}

// reaped has the instance give the user up, with all that is to be kept.
func (w *walk) reaped() {
	if w.pid == "" {
		return
	}
	id, before := userID(w.user), 0
	released := func() (n int) {
		for _, one := range w.owner.releasedUsers() {
			if one == id {
				n++
			}
		}
		return n
	}
	before = released()
	require.Eventually(w.t, func() bool {
		w.pool.CleanUp(time.Now().Add(2 * time.Minute)) // again and again: it may not be idle yet
		return released() > before
	}, time.Minute, 5*time.Millisecond)
	w.pid = ""
}

// spoken are the texts of a call as a walk remembers them.
func spoken(c pooltest.Call) (all []string) {
	for _, m := range gjson.GetBytes(c.Body, "messages").Array() {
		role := m.Get("role").Str
		for _, b := range m.Get("content").Array() {
			text := b.Get("text").Str
			if b.Type == gjson.String {
				text = b.Str
			}
			text = strings.TrimSpace(text)
			n := len(all)
			switch {
			case role == "system", text == "", text == nudge, strings.HasPrefix(text, "<system-reminder>"):
			case role == "assistant" && n > 0 && strings.HasPrefix(all[n-1], role):
				all[n-1] += strings.ReplaceAll(text, " ", "")
			case role == "assistant":
				all = append(all, role+": "+strings.ReplaceAll(text, " ", ""))
			default:
				all = append(all, role+": "+text)
			}
		}
	}
	return all
}

// squeezed is what was said in the messages that a client keeps as one, without spaces.
func squeezed(kept []fields) string {
	if len(kept) == 0 {
		return ""
	}
	return strings.ReplaceAll(kept[0]["content"].(string), " ", "")
}
