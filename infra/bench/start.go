package main

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"

	"claudepool/pool/claude"
)

// variant is what the CLI is started with beyond what the pool starts it with.
type variant struct {
	Name, Loses string
	args, env   []string
}

// variants are ways that might make the CLI start faster or smaller. The first is the pool's own.
var variants = []variant{
	{Name: "as the pool starts it", Loses: "nothing"},
	{Name: "`--strict-mcp-config`", Loses: "a workspace's `.mcp.json`", args: []string{"--strict-mcp-config"}},
	{Name: "`--setting-sources=`", Loses: "a workspace's settings", args: []string{"--setting-sources="}},
	{Name: "`--disable-slash-commands`", Loses: "skills", args: []string{"--disable-slash-commands"}},
	{Name: "`--tools=`", Loses: "all tools", args: []string{"--tools="}},
	{Name: "`--no-session-persistence`", Loses: "resuming", args: []string{"--no-session-persistence"}},
	{Name: "`DISABLE_TELEMETRY`, `DISABLE_ERROR_REPORTING`, `DISABLE_GROWTHBOOK`", Loses: "nothing",
		env: []string{"DISABLE_TELEMETRY=1", "DISABLE_ERROR_REPORTING=1", "DISABLE_GROWTHBOOK=1"}},
	{Name: "`CLAUDE_CODE_DISABLE_FILE_CHECKPOINTING`", Loses: "rewinding files",
		env: []string{"CLAUDE_CODE_DISABLE_FILE_CHECKPOINTING=1"}},
	{Name: "`CLAUDE_CODE_DISABLE_ATTACHMENTS`", Loses: "what the CLI adds to a message",
		env: []string{"CLAUDE_CODE_DISABLE_ATTACHMENTS=1"}},
	{Name: "`BUN_OPTIONS=--smol`", Loses: "nothing", env: []string{"BUN_OPTIONS=--smol"}},
	{Name: "`BUN_JSC_useDFGJIT=0`", Loses: "speed of long turns", env: []string{"BUN_JSC_useDFGJIT=0"}},
	{Name: "`BUN_JSC_useJIT=0`", Loses: "more of it", env: []string{"BUN_JSC_useJIT=0"}},
	{Name: "`MIMALLOC_PURGE_DELAY=0`", Loses: "nothing", env: []string{"MIMALLOC_PURGE_DELAY=0"}},
}

// started is what starts of one variant took.
type started struct {
	variant
	First, Later []time.Duration // the first turn's first token, from the start; later turns as a whole
	PSS          []int64         // bytes, after the last turn
}

// starts measures the variants, taking turns.
func (l *lab) starts(ctx context.Context) ([]started, error) {
	tried := variants
	if l.bin == l.scripted {
		tried = variants[:1] // it knows no other flags
	}
	all := make([]started, len(tried))
	for round := range l.plan.Starts {
		for i := range tried {
			into := (i + round) % len(tried)
			all[into].variant = tried[into]
			if err := l.start(ctx, &all[into]); err != nil {
				return nil, fmt.Errorf("%s: %w", tried[into].Name, err)
			}
		}
		l.say("starts: round %d of %d", round+1, l.plan.Starts)
	}
	return all, nil
}

func (l *lab) start(ctx context.Context, s *started) error {
	h, err := newHome(l.scratch)
	if err != nil {
		return err
	}
	began := time.Now()
	c, err := l.startCLI(l.bin, h, claude.Options{SessionID: uuid.NewString(), Model: "haiku"}, s.variant)
	if err != nil {
		return err
	}
	defer c.close()
	first, err := c.askSince(ctx, began, "one")
	if err != nil {
		return err
	}
	time.Sleep(rest)
	for range 5 {
		later, err := c.ask(ctx, "again")
		if err != nil {
			return err
		}
		time.Sleep(rest)
		s.Later = append(s.Later, later.total)
	}
	pss, err := memory([]int{c.cmd.Process.Pid})
	if err != nil {
		return err
	}
	s.First, s.PSS = append(s.First, first.first), append(s.PSS, pss...)
	return nil
}
