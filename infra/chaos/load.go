package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
)

const (
	// conversationTurns is how long a talk goes on before its talker begins another.
	conversationTurns = 30
	// patience is how long a client waits for all of an answer: more than a queue and a turn may take.
	patience = 100 * time.Second
)

// load is the users. Most have one talker, some have two at a time with conversations of their own.
type load struct {
	stage   *stage
	client  *http.Client
	talkers []*talker
	users   map[string]string // by user id: the user's number in tickets
	mood    atomic.Pointer[string]
	stop    context.CancelFunc
	wg      sync.WaitGroup
}

// talker is a client that asks again as soon as there is an answer. All but served is its own goroutine's.
type talker struct {
	load    *load
	random  *rand.Rand
	token   string
	user    string // number, as in tickets
	number  int    // of the user's talkers
	slot    int    // of the front it prefers
	finish  bool   // its turns go on when it hangs up
	session string
	first   bool // nothing was answered in this session yet
	turns   int

	front *front    // that gave the last answer
	home  *instance // that gave the last answer

	mu     sync.Mutex // guards served
	served time.Time  // when a turn that was answered since the last look began to be
}

func newLoad(s *stage, o options, transport http.RoundTripper) *load {
	l := &load{stage: s, users: make(map[string]string), client: &http.Client{Transport: transport}}
	l.speak("")
	for n := range o.users {
		user := fmt.Sprintf("%02d", n)
		token := fmt.Sprintf("sk-ant-oat01-chaos-%d-%s", o.seed, user)
		digest := sha256.Sum256([]byte(token))
		l.users[hex.EncodeToString(digest[:])[:16]] = user
		talkers := o.talkers
		if n%5 == 4 {
			talkers = 2
		}
		for number := range talkers {
			l.talkers = append(l.talkers, &talker{load: l, token: token, user: user, number: number, slot: (n + number) % fronts,
				finish: n%3 == 1,
				random: rand.New(rand.NewPCG(uint64(o.seed), uint64(len(l.talkers))))})
		}
	}
	return l
}

// speak makes some of the talkers put directives into what they say, until the next call.
func (l *load) speak(mood string) { l.mood.Store(&mood) }

func (l *load) start(ctx context.Context) {
	ctx, l.stop = context.WithCancel(ctx)
	for _, t := range l.talkers {
		l.wg.Go(func() { t.talk(ctx) })
	}
}

// end returns when the turns under way have ended.
func (l *load) end() {
	l.stop()
	l.wg.Wait()
}

// talk asks until ctx is done.
func (t *talker) talk(ctx context.Context) {
	for ctx.Err() == nil {
		f := t.choose()
		if f == nil {
			time.Sleep(50 * time.Millisecond)
			continue
		}
		if t.turns%conversationTurns == 0 {
			t.session, t.first = uuid.NewString(), true
			t.load.stage.ledger.newConversation(t.name())
		}
		t.turns++
		turn := t.say()
		t.ask(context.WithoutCancel(ctx), f, turn)
		t.judge(turn)
		pause := 200*time.Millisecond + time.Duration(t.random.Int64N(int64(600*time.Millisecond)))
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

// choose returns the front that a load balancer would: the preferred one, or another while that is away.
func (t *talker) choose() *front {
	for n := range fronts {
		if f := t.load.stage.serving((t.slot + n) % fronts); f != nil && f.Runs() {
			return f
		}
	}
	return nil
}

// name is how the tickets of the talker's turns begin.
func (t *talker) name() string { return fmt.Sprintf("u%s-%d", t.user, t.number) }

// say makes up the next thing to ask: mostly short, now and then something whose answer takes a second or three.
func (t *talker) say() *turn {
	text := fmt.Sprintf("%s-%06d says", t.name(), t.turns)
	switch n := t.random.IntN(10); {
	case n == 0:
		text += strings.Repeat(" word", 60) + " [[delay=50ms]]"
	case n < 4:
		text += strings.Repeat(" word", 20) + " [[delay=40ms]]"
	}
	asked := &turn{first: t.first, finish: t.finish}
	if t.random.IntN(15) == 0 {
		asked.hangUp = time.Duration(t.random.Int64N(int64(2 * time.Second)))
	}
	if mood := *t.load.mood.Load(); mood != "" && t.number == 0 && strings.HasSuffix(t.user, "3") {
		text += " " + mood
		asked.odd = true
	}
	asked.text, asked.ticket = text, ticket.FindString(text)
	return asked
}

// judge counts a turn that has ended.
func (t *talker) judge(turn *turn) {
	l := t.load.stage.ledger
	switch turn.outcome {
	case unreached, hungUp:
		return
	case answered:
		if ran := l.wasRun(turn.ticket); ran == 0 && !turn.odd {
			l.violation(func(r *row) { r.wrong++ }, "%s was answered and never run", turn.ticket)
		}
		l.count(func(r *row) {
			r.answered++
			if turn.resumed {
				r.resumed++
			}
		})
		t.front, t.home = turn.front, l.byID(turn.instance)
		t.first = false
		if !turn.odd {
			l.answered(t.name(), turn.ticket, t.home)
		}
		t.mu.Lock()
		t.served = turn.begun
		t.mu.Unlock()
		return
	case wrong:
		l.violation(func(r *row) { r.wrong++ }, "%s: %s", turn.ticket, turn.detail)
		return
	case lost:
		l.violation(func(r *row) { r.lost++ }, "%s (run %d times): %s", turn.ticket, l.wasRun(turn.ticket), turn.detail)
		return
	case cut:
		l.count(func(r *row) { r.cut++ })
		return
	case refused:
		l.count(func(r *row) { r.refused++ })
	case failed:
		l.count(func(r *row) { r.failed++ })
	}
	l.reason(turn.why())
	if t.disturbed(turn) {
		l.violation(func(r *row) { r.disturbed++ }, "%s, of %s by %s, was disturbed after %.1f s: %s", turn.ticket, t.home,
			t.front,
			turn.ended.Sub(turn.sent).Seconds(), turn.detail)
	}
}

// disturbed reports whether the turn should have been answered: the front and the instance that answered the last one
// still are the user's, and no fault was theirs. While Firestore is away no conversation can be begun under an id.
func (t *talker) disturbed(turn *turn) bool {
	if turn.odd || t.home == nil || t.front != turn.front {
		return false
	}
	from := turn.sent.Add(-recovery)
	if turn.first && t.load.stage.ledger.archive.during(from, turn.ended) {
		return false
	}
	return !t.home.harm.during(from, turn.ended) && !t.front.harm.during(from, turn.ended)
}

// servedAt says when the talker's latest answer began.
func (t *talker) servedAt() time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.served
}

// recovered waits until every talker has had an answer that began after the given time, and returns how long that took
// and who has not had one.
func (l *load) recovered(ctx context.Context, since time.Time) (took time.Duration, missing []*talker) {
	for {
		took, missing = 0, nil
		for _, t := range l.talkers {
			at := t.servedAt()
			if at.Before(since) {
				missing = append(missing, t)
				continue
			}
			took = max(took, at.Sub(since))
		}
		if len(missing) == 0 || time.Since(since) > maxRecovery || ctx.Err() != nil {
			return took, missing
		}
		time.Sleep(50 * time.Millisecond)
	}
}
