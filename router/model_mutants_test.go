package router

import (
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// replaced changes one script for the time of a test.
func replaceIn(t *testing.T, name, old, changed string) {
	t.Helper()
	s := scriptsOf()[name]
	source := s.source
	if name == "claim" {
		source = strings.Replace(source, twoRandom, firstTwo, 1)
	}
	require.Equal(t, 1, strings.Count(source, old), "what is to be changed stands there once")
	before := *s.script
	*s.script = redis.NewScript(strings.Replace(source, old, changed, 1))
	t.Cleanup(func() { *s.script = before })
}

const (
	twoRandom = "'ZRANDMEMBER', KEYS[2], 2"
	firstTwo  = "'ZRANGE', KEYS[2], 0, 1"
)

func deterministic(t *testing.T) {
	before := claimScript
	source := epochSource + claimSource
	require.Contains(t, source, twoRandom)
	claimScript = redis.NewScript(strings.Replace(source, twoRandom, firstTwo, 1))
	t.Cleanup(func() { claimScript = before })
}

// The model finds each of these mistakes, within tries that one seed makes the same on every run.
func TestModel_FindsSeededMistakes(t *testing.T) {
	longRuns(t)
	setFlag(t, "rapid.checks", "3000")
	setFlag(t, "rapid.shrinktime", "0s")
	setFlag(t, "rapid.nofailfile", "true")
	c := newCluster(t, 3)
	for _, mistake := range []struct {
		name, script, old, changed string
		faults                     []string // that bring it to light
		seed                       string   // one that needs few tries
	}{
		{"a claim doesn't look at the epoch", "claim", "epoch == run and instance(id)", "instance(id)", []string{"fail over"},
			"1"},
		{"a claim doesn't wait for a new epoch to settle", "claim", "if waiting then", "if false then",
			[]string{"empty Redis"}, "5"},
		{"a claim takes users of the living", "claim", "if it then return {it.draining",
			"if it and it.draining then return {it.draining", nil, "1"},
		{"a claim doesn't see that an owner is dead", "claim", "if not f[1] then return nil end",
			"if not f[1] then f = {'', 1, 0, 0, '0'} end", []string{"kill"}, "1"},
		{"a release doesn't compare the claim number", "release", " or claim ~= ARGV[2]", "", []string{"lose an answer"},
			"1"},
		{"a release doesn't compare the instance", "release", "id ~= ARGV[1] or claim ~= ARGV[2]", "not id",
			[]string{"cut or heal an instance"}, "1"},
		{"a claim doesn't see that nothing can begin", "claim", "room(it) and not it.full", "room(it)", []string{"full"},
			"1"},
		{"a claim has somebody give way where nothing can begin", "claim", "it.idle > 0 and not it.full", "it.idle > 0",
			[]string{"full"}, "1"},
		{"a drain forgets to be unplaceable", "beat", "local known =", "ARGV[7] = '0'\nlocal known =", []string{"drain"},
			"1"},
		{"a beat under way undoes a drain", "beat", "before[2] == '1' and '1' or ARGV[7]", "ARGV[7]", []string{"drain"}, "1"},
		{"a beat brings an expired lease back", "beat", "(not known or ARGV[8] ~= run)", "ARGV[8] ~= run",
			[]string{"cut or heal an instance"}, "1"},
		{"a beat doesn't see a new epoch", "beat", "(not known or ARGV[8] ~= run)", "not known", []string{"fail over"}, "7"},
		{"an assertion takes what is another's", "assert", "entry ~= own and", "false and",
			[]string{"cut or heal an instance"}, "1"},
		{"an instance owns by an earlier epoch's word", "own", " and epoch == run", "", []string{"fail over"}, "7"},
		{"an instance doesn't compare itself with the owner", "own", "id == ARGV[2] and ", "", nil, "1"},
	} {
		t.Run(mistake.name, func(t *testing.T) {
			deterministic(t)
			replaceIn(t, mistake.script, mistake.old, mistake.changed)
			c.load(t)
			requireFound(t, c, mistake.seed, mistake.faults)
		})
	}
	t.Run("the fence has no margin", func(t *testing.T) {
		deterministic(t)
		c.load(t)
		before := fence
		fence = LeaseTime
		t.Cleanup(func() { fence = before })
		requireFound(t, c, "1", nil)
	})
}

func requireFound(t *testing.T, c *cluster, seed string, faults []string) {
	t.Helper()
	setFlag(t, "rapid.seed", seed)
	tries := 0
	verdict := &verdict{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		rapid.Check(verdict, func(t *rapid.T) {
			tries++
			newModel(t, c, faults).run()
		})
	}()
	<-done
	require.True(t, verdict.failed, "not found in %d runs", tries)
	t.Logf("found within %d runs: %.300s", tries, verdict.text)
}

// verdict keeps what rapid says of a property, without failing the test.
type verdict struct {
	rapid.TB
	failed bool
	text   string
}

func (v *verdict) Errorf(format string, args ...any) {
	if !v.failed {
		v.text = fmt.Sprintf(format, args...)
	}
	v.failed = true
}

func (v *verdict) Fatalf(format string, args ...any) { v.FailNow() }
func (v *verdict) Fatal(...any)                      { v.FailNow() }
func (v *verdict) Error(...any)                      { v.failed = true }
func (v *verdict) Fail()                             { v.failed = true }
func (v *verdict) Failed() bool                      { return v.failed }
func (v *verdict) Logf(string, ...any)               {}
func (v *verdict) Log(...any)                        {}
func (v *verdict) FailNow()                          { v.failed = true; runtime.Goexit() }
