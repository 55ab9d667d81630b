// Package rooms has no code of its own: its test keeps each package of the service to what it may import.
package rooms

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const module = "claudepool/"

// services are the parts of infra/ that others may be built on.
var services = []string{"infra/settings", "infra/logging", "infra/hop", "infra/snapshot", "infra/archive",
	"infra/database",
	"infra/freeport", "infra/instance", "infra/latency", "infra/memory", "infra/prices", "infra/telemetry",
	"infra/usage"}

// rooms are the packages of the service, and what of the module each may import. What isn't named here wires or tests.
var rooms = map[string][]string{
	"function": with(services, "router", "pool/api", "function/messages", "function/chat", "function/openapi",
		"function/page", "function/talk"),
	"function/messages": {"pool/api"},
	"function/chat":     {"pool/api", "function/messages"},
	"function/openapi":  nil,
	"function/page":     nil,
	"function/talk":     {"function/page"},
	"router":            nil,

	"pool": with(services, "pool/api", "pool/broker", "pool/claude", "pool/cli", "pool/confine", "pool/seal",
		"pool/standby", "pool/vault", "pool/workspace"),
	"pool/server":    {"infra/hop", "infra/logging", "pool/api", "pool/channel", "pool/seal"},
	"pool/channel":   nil,
	"pool/cli":       {"pool/broker", "pool/claude", "pool/confine", "pool/workspace"},
	"pool/standby":   {"pool/broker", "pool/claude", "pool/cli", "pool/workspace"},
	"pool/workspace": {"pool/claude", "pool/confine"},
	"pool/vault":     {"infra/archive", "pool/api", "pool/claude", "pool/seal"},
	"pool/api":       nil,
	"pool/broker":    nil,
	"pool/claude":    nil,
	"pool/confine":   nil,
	"pool/seal":      nil,
	"pool/pooltest":  {"pool/claude", "pool/pooltest/directive"},

	"infra/settings": nil,
	"infra/logging":  nil,
	"infra/hop":      nil,
	"infra/snapshot": {"infra/database", "infra/latency"},
	"infra/archive":  {"infra/database"},
	"infra/database": nil,
	"infra/freeport": nil,
	"infra/instance": nil,
	"infra/latency":  nil,
	"infra/memory":   nil,
	"infra/prices":   nil,
	"infra/usage":    {"infra/database", "infra/prices"},

	"infra/telemetry": {"infra/logging"},
}

func with(some []string, more ...string) []string { return append(slices.Clone(some), more...) }

func TestRooms_EachImportsWhatItMayAndNothingElse(t *testing.T) {
	seen := 0
	for _, p := range packages(t) {
		name := strings.TrimPrefix(p.ImportPath, module)
		allowed, isRoom := rooms[name]
		if !isRoom {
			continue
		}
		seen++
		for _, path := range p.Imports {
			if ours, ok := strings.CutPrefix(path, module); ok {
				require.Contains(t, allowed, ours, "%s imports it", name)
			}
		}
	}
	require.Equal(t, len(rooms), seen, "a room has gone")
}

// programs are what may be built on testkit, beside tests: they are run by developers and never deployed.
var programs = []string{"infra/local", "infra/bench", "infra/chaos", "infra/scale", "infra/sdktest", "infra/testkit"}

func TestRooms_NoServiceImportsTheTestkit(t *testing.T) {
	seen := 0
	for _, p := range packages(t) {
		if !slices.ContainsFunc(p.Imports, func(path string) bool { return within(path, "infra/testkit") }) {
			continue
		}
		seen++
		require.True(t, slices.ContainsFunc(programs, func(name string) bool { return within(p.ImportPath, name) }),
			"%s imports it", p.ImportPath)
	}
	require.NotZero(t, seen, "it has gone")
}

// within reports whether a package is that room or below it.
func within(path, room string) bool { return strings.HasPrefix(path+"/", module+room+"/") }

// What is only for tests is never in a program that is deployed.
func TestRooms_NothingDeployedImportsWhatIsForTests(t *testing.T) {
	all := make(map[string]pkg)
	for _, p := range packages(t) {
		all[p.ImportPath] = p
	}
	for _, program := range []string{"function/cmd/front", "pool/cmd/poold", "infra/scaler"} {
		for _, path := range all[module+program].Deps {
			require.NotContains(t, path, "pooltest", program)
			require.NotContains(t, path, "testkit", program)
			require.NotContains(t, path, "testify", program)
		}
	}
}

type pkg struct {
	ImportPath    string
	Imports, Deps []string
}

func packages(t *testing.T) (all []pkg) {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports,Deps", module+"...").Output()
	require.NoError(t, err)
	for list := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		err := list.Decode(&p)
		if errors.Is(err, io.EOF) {
			return all
		}
		require.NoError(t, err)
		all = append(all, p)
	}
}
