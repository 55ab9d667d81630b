package main

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"claudepool/infra/testkit"
	"claudepool/infra/testkit/need"
)

var mutants = flag.Bool("mutants", false, "put errors into the service, which takes a minute and a half")

// The service is built with an error in one of its sources; what the fault then shows has to be seen.
func TestMutants_AreCaught(t *testing.T) {
	if !*mutants {
		t.Skip("only with -mutants: the model in router decides the same in less time")
	}
	need.Program(t, "redis-server")
	for _, m := range []struct {
		name, file, old, new string
		fault                string
		caught               func(*row) int
	}{
		{"a claim takes users from whoever owns them", "router/claim.lua",
			"if it then return", "if false then return",
			"front SIGTERM", func(r *row) int { return r.double }},
		{"the fence never closes", "router/lease.go",
			"var fence = LeaseTime - Margin", "var fence = 1000 * LeaseTime",
			"instance–Redis silent for 12 s", func(r *row) int { return r.stale }},
		{"a drain releases users whose turns still run", "router/lease.go",
			"l.draining = true\n", "l.draining = true\n\tmaps.Copy(l.released, l.claims)\n",
			"instance SIGTERM", func(r *row) int { return r.double }},
	} {
		t.Run(m.name, func(t *testing.T) {
			o := patient()
			o.users, o.talkers, o.overlay = 16, 2, mutate(t, m.file, m.old, m.new)
			caught := 0
			for o.seed = range int64(5) { // it takes a turn that runs when the fault comes, and there may be none
				result, err := play(t.Context(), testkit.Folder(t), o, [][]fault{pick(t, m.fault)})
				require.NoError(t, err)
				for _, one := range result.rows {
					caught += m.caught(one)
				}
				if caught > 0 {
					t.Logf("%d times, first: %s", caught, result.notes[0])
					return
				}
			}
			require.Fail(t, "not caught")
		})
	}
}

// mutate returns an overlay in which a source of the service says something else.
func mutate(t *testing.T, file, old, new string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("../..", file))
	require.NoError(t, err)
	source, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, 1, strings.Count(string(source), old), "the source is another by now")
	dir := t.TempDir()
	changed := filepath.Join(dir, filepath.Base(file))
	require.NoError(t, os.WriteFile(changed, []byte(strings.Replace(string(source), old, new, 1)), 0o600))
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": {path: changed}})
	require.NoError(t, err)
	path = filepath.Join(dir, "overlay.json")
	require.NoError(t, os.WriteFile(path, overlay, 0o600))
	return path
}
