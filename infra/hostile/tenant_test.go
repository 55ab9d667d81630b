package hostile

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"claudepool/pool/pooltest"
)

// abuses are what a tenant's agent does with all that it can get, as commands of its shell.
var abuses = []struct {
	name, command string
	inShort       bool // also in the short form; the pool's own tests have short forms of all
}{
	{"900 MiB of its own", "./tool hold private 900", true},
	{"900 MiB in many processes", "./tool hold spread 900", false},
	{"900 MiB that are mapped nowhere", "./tool hold unmapped 900", false},
	{"900 MiB in memory files", "./tool hold memfd 900", false},
	{"900 MiB in sockets", "./tool hold sockets 900", false},
	{"a million files", "./tool litter", false},
	{"6000 nested folders", "./tool nest 6000; rm -rf nest; ./tool nest 6000", true},
	{"500 busy processes", "./tool spin 500", false},
	{"all ports", "./tool ports ${ANTHROPIC_BASE_URL#http://}", false},
}

// Whatever a tenant's agent takes, it alone is ended or bounded, and others hardly notice it.
func TestHostile_WhatATenantTakesCostsNobodyElse(t *testing.T) {
	s := newStage(t, limits{}, "MAX_PROCESS_RSS=300MiB", "WORKSPACE_MAX_FILES=50000", "TURN_TIMEOUT=1m")
	tool, err := pooltest.AttackTool()
	require.NoError(t, err)
	for n, abuse := range abuses {
		if !long() && !abuse.inShort {
			continue
		}
		t.Run(abuse.name, func(t *testing.T) {
			s := *s
			s.T = t
			known := s.newUsers()
			tenant := honest + "tenant-" + string(rune('a'+n))
			_, err := s.turn(t.Context(), tenant, "hello")
			require.NoError(t, err)
			s.place(tenant, tool)
			blocks, block := 1, 2*time.Second
			if long() {
				blocks, block = 2, 15*time.Second
			}
			ends := make(map[string]int)
			known.alternate(blocks, block, func(ctx context.Context) {
				for ctx.Err() == nil { // again and again, however it ends
					_, err := s.turn(ctx, tenant, "[[run="+abuse.command+"]]")
					ends[fmt.Sprint(err)]++
				}
			})
			_, err = s.turn(t.Context(), honest+"after-"+string(rune('a'+n)), "somebody new")
			require.NoError(t, err)
			t.Logf("how the tenant's turns ended: %v", ends)
		})
	}
}

// place puts the tool into the working directory of a user's only conversation.
func (s *stage) place(token, tool string) {
	digest := sha256.Sum256([]byte(token))
	links, err := filepath.Glob(filepath.Join(s.root, "*", hex.EncodeToString(digest[:8]), "*"))
	require.NoError(s, err)
	if len(links) == 0 {
		links, err = filepath.Glob(filepath.Join(s.root, hex.EncodeToString(digest[:8]), "*"))
		require.NoError(s, err)
	}
	require.Len(s, links, 1)
	workspace, err := filepath.EvalSymlinks(links[0])
	require.NoError(s, err)
	info, err := os.Stat(workspace)
	require.NoError(s, err)
	owner := int(info.Sys().(*syscall.Stat_t).Uid)
	content, err := os.ReadFile(tool)
	require.NoError(s, err)
	path := filepath.Join(workspace, "work", "tool")
	require.NoError(s, os.WriteFile(path, content, 0o700))
	require.NoError(s, os.Chown(path, owner, owner))
}
