package pool

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"claudepool/pool/broker"
	"claudepool/pool/claude"
)

const (
	// standbyAge is how old a standby may become before another takes its place.
	standbyAge = time.Hour
	// standbyInterval is how often the standbys are looked at when nothing has happened.
	standbyInterval = 10 * time.Second
	// firstRetry and lastRetry bound the wait after a standby that could not be started.
	firstRetry = time.Second
	lastRetry  = time.Minute
	// standbyNice is the scheduling priority of a standby until it is ready.
	standbyNice = 10
	// warmUpTurns is how many turns a warm-up has: with each the CLI's code becomes faster, less and less so.
	warmUpTurns = 4
	// warmUpText is what a warm-up says. The broker answers it; see broker/warmup.go.
	warmUpText = `"warm-up"`
)

// adopting is called with each standby that has been taken for a user and isn't bound yet. Tests have things go wrong there.
var adopting = func(*standby) {}

// standby is a process that was started in advance and belongs to nobody. Its broker has answered it a few turns,
// which it has forgotten again, so that what it needs is loaded when its user comes.
//
// A CLI takes a system prompt before its first turn only. A blank standby was therefore warmed up by a side question,
// which is no turn but doesn't warm as much.
type standby struct {
	session string
	dir     *workspace
	proc    *process
	blank   bool
	since   time.Time
}

// keepStandbys starts, renews and sheds standbys until the pool closes.
func (p *Pool) keepStandbys() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	retry, pause := firstRetry, time.Time{}
	for {
		select {
		case <-p.life.Done():
			p.shed(0)
			return
		case <-p.tend:
		case <-timer.C:
		}
		want := p.wanted()
		p.shed(want)
		p.freezeStandbys()
		next := standbyInterval
		for p.short(want) {
			if left := time.Until(pause); left > 0 { // who comes meanwhile doesn't shorten it
				next = left
				break
			}
			if err := p.addStandby(want); err != nil {
				p.opts.Logger.Warn("a standby could not be started", "error", err, "retry_seconds", retry.Seconds())
				pause = time.Now().Add(retry)
				next, retry = retry, min(2*retry, lastRetry)
				break
			}
			next, retry, want = p.opts.FreezeAfter, firstRetry, p.wanted()
		}
		timer.Reset(next)
	}
}

// wanted is how many standbys there should be now: as many new users as came at once lately, at least Standby, and no
// more than there is room for.
func (p *Pool) wanted() int {
	if p.opts.MemoryShort() {
		return 0
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.draining || p.opts.Standby == 0 {
		return 0
	}
	return max(0, min(max(p.opts.Standby, p.demand.atOnce(time.Now())), p.opts.MaxProcesses-p.slots))
}

func (p *Pool) short(want int) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.standbys) < want && p.life.Err() == nil
}

// shed ends standbys that are too many, too old, dead, or in the way of the blank ones that are wanted.
func (p *Pool) shed(want int) {
	var victims []*standby
	p.mu.Lock()
	p.standbys = slices.DeleteFunc(p.standbys, func(s *standby) bool {
		bad := time.Since(s.since) > standbyAge || !s.proc.alive()
		if bad {
			victims = append(victims, s)
		}
		return bad
	})
	if n := len(p.standbys) - want; n > 0 {
		victims = append(victims, p.standbys[:n]...)
		p.standbys = slices.Clone(p.standbys[n:])
	}
	if i := p.inTheWayLocked(want); i >= 0 {
		victims = append(victims, p.standbys[i])
		p.standbys = slices.Delete(p.standbys, i, i+1)
	}
	p.waking += len(victims)
	p.mu.Unlock()
	for _, s := range victims {
		p.discard(s)
	}
}

// inTheWayLocked is the index of a standby that has to go so that there can be a blank one, or -1.
func (p *Pool) inTheWayLocked(want int) int {
	if len(p.standbys) < want || !p.demand.wantsBlank(p.blanksLocked(), want) {
		return -1
	}
	return slices.IndexFunc(p.standbys, func(s *standby) bool { return !s.blank })
}

func (p *Pool) blanksLocked() (blanks int) {
	for _, s := range p.standbys {
		if s.blank {
			blanks++
		}
	}
	return blanks
}

// discard ends a standby that waking counts.
func (p *Pool) discard(s *standby) {
	if err := errors.Join(s.proc.stop(), p.opts.Launcher.RemoveWorkspace(s.dir.root)); err != nil {
		p.opts.Logger.Error("a standby could not be cleared away", "pid", s.proc.child.PID(), "error", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.waking--
	p.empty.Broadcast()
	signal(p.changed)
}

// addStandby starts one more, of want that there should be.
func (p *Pool) addStandby(want int) error {
	p.mu.Lock()
	p.waking++
	blank := p.demand.wantsBlank(p.blanksLocked(), want)
	p.mu.Unlock()
	s, err := p.newStandby(blank)
	p.mu.Lock()
	p.waking--
	if err == nil {
		p.standbys = append(p.standbys, s)
	}
	p.empty.Broadcast()
	p.mu.Unlock()
	if err != nil {
		return err
	}
	signal(p.changed)
	p.goes(func() {
		<-s.proc.exited
		signal(p.tend)
	})
	return nil
}

// newStandby starts a process and warms it up.
func (p *Pool) newStandby(blank bool) (*standby, error) {
	over, err := p.gate.pass(p.life) // behind those who wait for a process
	if err != nil {
		return nil, err
	}
	over() // or its place would be taken for as long as turns delay it
	delay := mostDelays * calm
	delay -= p.turns.wait(p.life, delay)
	ctx, cancel := context.WithTimeoutCause(p.life, p.opts.SpawnTimeout, errSpawnTimeout)
	defer cancel()
	dir, err := p.newWorkspace()
	if err != nil {
		return nil, err
	}
	s := &standby{session: uuid.NewString(), dir: dir, blank: blank}
	s.proc, err = p.launch(ctx, dir, claude.Options{SessionID: s.session, PermissionMode: p.opts.PermissionMode,
		AllowBypass: p.opts.PermissionMode == "bypassPermissions"})
	if err != nil {
		return nil, errors.Join(err, p.opts.Launcher.RemoveWorkspace(dir.root))
	}
	err = p.makeReady(ctx, s, delay)
	if err != nil {
		err = fmt.Errorf("%w (stderr: %q)", err, s.proc.child.StderrTail())
		return nil, errors.Join(err, s.proc.stop(), p.opts.Launcher.RemoveWorkspace(dir.root))
	}
	s.since = time.Now()
	return s, nil
}

// makeReady warms the process up. Turns that begin may delay that by so much in all.
func (p *Pool) makeReady(ctx context.Context, s *standby, delay time.Duration) error {
	_ = s.proc.child.SetNice(standbyNice)
	defer func() { _ = s.proc.child.SetNice(0) }()
	preparing, ready := context.WithCancel(ctx)
	var way sync.WaitGroup
	way.Go(func() { p.turns.giveWay(preparing, delay, s.proc.child.Signal) })
	defer way.Wait()
	defer ready()
	if err := s.warmUp(ctx, p.opts.Broker.Scrub); err != nil {
		return err
	}
	return p.sweep(ctx, s)
}

// warmUp makes the process do all that only a first turn does, and forget it.
func (s *standby) warmUp(ctx context.Context, scrub func([]byte) []byte) error {
	if s.blank {
		_, err := s.proc.control(ctx, claude.SideQuestion{Question: "warm-up"})
		return err
	}
	defer s.proc.detach()
	for range warmUpTurns {
		if err := s.warmUpTurn(ctx, scrub); err != nil {
			return err
		}
	}
	return nil
}

func (s *standby) warmUpTurn(ctx context.Context, scrub func([]byte) []byte) error {
	t := newTurn(uuid.NewString(), scrub)
	t.drop()
	if err := s.proc.attach(t); err != nil {
		return err
	}
	if err := s.proc.send(claude.UserMessage(t.uuid, []byte(warmUpText))); err != nil {
		return err
	}
	select {
	case <-t.ended:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	result, err := t.outcome()
	if err != nil {
		return err
	}
	if result.IsError || !s.proc.forget(ctx, t) {
		return errors.New("pool: the warm-up turn failed")
	}
	return nil
}

// sweep removes the transcript of the warm-up, once the CLI has written the last of it.
func (p *Pool) sweep(ctx context.Context, s *standby) error {
	files, err := s.dir.files()
	if err != nil {
		return err
	}
	defer files.Close()
	transcript := p.transcript(files, s.dir, s.session)
	for ctx.Err() == nil {
		rewound, err := transcript.Rewound()
		if err != nil {
			return err
		}
		if rewound || s.blank {
			return transcript.Remove()
		}
		sleep(ctx, 20*time.Millisecond)
	}
	return context.Cause(ctx)
}

// claim makes a standby the held conversation's, which has a slot reserved for it. It returns nil if none fits.
func (p *Pool) claim(ctx context.Context, c *conversation, credential broker.Credential) (*process, error) {
	if c.dir != nil || c.mirror.fetch || c.named || len(c.seed) > 0 || c.settings.fallback != "" {
		return nil, nil
	}
	blank := c.settings.system != ""
	p.turns.begin() // soon, and nothing is to take the standby's place before
	p.mu.Lock()
	p.demand.arrive(time.Now(), blank)
	p.mu.Unlock()
	defer signal(p.tend)
	for {
		s := p.takeStandby(blank)
		if s == nil {
			return nil, nil
		}
		err := p.adopt(ctx, c, s, credential)
		if err == nil {
			return s.proc, nil
		}
		if !errors.Is(err, broker.ErrBusy) && !errors.Is(err, errDied) {
			return nil, err
		}
	}
}

// takeStandby takes the oldest standby that fits out of the list; a blank one only where no other fits. None is a miss.
func (p *Pool) takeStandby(needsBlank bool) *standby {
	p.mu.Lock()
	defer p.mu.Unlock()
	best := -1
	for i, s := range p.standbys {
		if needsBlank && !s.blank || !s.proc.alive() {
			continue
		}
		if best < 0 || p.standbys[best].blank && !s.blank {
			best = i
		}
	}
	if best < 0 {
		p.misses++
		return nil
	}
	s := p.standbys[best]
	p.standbys = slices.Delete(p.standbys, best, best+1)
	p.waking++
	return s
}

// adopt binds the standby to the conversation's user. If that fails, nothing is left of the standby.
func (p *Pool) adopt(ctx context.Context, c *conversation, s *standby, credential broker.Credential) error {
	s.proc.thaw()
	adopting(s)
	err := s.proc.grant.Bind(credential)
	if err == nil && !s.proc.alive() {
		err = errDied
	}
	if err == nil && c.settings.system != "" {
		err = s.proc.initialize(ctx, c.settings.system)
	}
	if err != nil {
		p.discard(s)
		return err
	}
	p.mu.Lock()
	delete(c.user.conversations, c.id)
	c.id = s.session
	c.user.conversations[c.id] = c
	p.mu.Unlock()
	if err := p.settle(c, s.dir); err != nil {
		p.discard(s)
		return err
	}
	s.proc.started = time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.waking--
	return nil
}
