package confine

import (
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"claudepool/infra/testkit/need"
)

func TestProbe_FindsEverythingInForceWhereItIs(t *testing.T) {
	b := newConfined(t)
	b.forbidden = listening(t)
	report, err := b.Probe(t.Context(), "/bin/sh")
	require.NoError(t, err)
	require.Empty(t, report.Missing())
	require.True(t, report.InForce(protections...))
	entries, err := os.ReadDir(b.root)
	require.NoError(t, err)
	require.Empty(t, entries, "its workspaces are gone")
}

// Nothing of this holds without a confinement: so each attempt can get through, and finds that it can.
func TestProbe_EveryAttemptGetsThroughWithoutConfinement(t *testing.T) {
	b := newBench(t)
	b.forbidden = listening(t)
	report, err := b.probe(t.Context(), "/bin/sh")
	require.NoError(t, err)
	all := targets{Forbidden: b.forbidden}
	for protection, attempts := range map[string][]attempt{
		ProtectionUID: all.uidAttempts(), ProtectionFiles: all.fileAttempts(), ProtectionNetwork: all.networkAttempts(),
		ProtectionSyscalls: all.syscallAttempts(), ProtectionLimits: limitAttempts(), ProtectionSignals: all.signalAttempts(),
	} {
		for _, a := range attempts {
			if !canBeMissing[a.name] {
				require.Contains(t, report[protection], a.name)
			}
		}
		require.False(t, report.InForce(protection))
	}
	require.Contains(t, report.Missing(), "reads another's file")
	require.Contains(t, report[ProtectionNetwork], "the metrics")

	report, err = b.Probe(t.Context(), "/bin/sh")
	require.NoError(t, err)
	require.False(t, report.InForce(ProtectionUID), "what wasn't tried isn't in force")
}

// listening is the address of a server that is none of any child's.
func listening(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = listener.Close() })
	return listener.Addr().String()
}

// canBeMissing are attempts that fail on some machines for reasons of theirs.
var canBeMissing = map[string]bool{
	"is in groups": true, "ping sockets": true, "SCTP": true, "vsock": true, "the kernel's ciphers": true,
	"userfaultfd":                     true,
	"reads the service's environment": true, "opens too many files": true, "dumps core": true,
	"writes too large files": true, "starts too many processes": true,
	"locks memory": true, "leaves signals waiting": true, "takes a higher priority": true,
}

func TestProbe_WithoutRootFilesNetworkAndSystemCallsStillHold(t *testing.T) {
	need.Root(t) // to give it up
	cmd := exec.Command("/proc/self/exe", "-helper", "probe", t.TempDir())
	for dir := cmd.Args[3]; dir != os.TempDir(); dir = filepath.Dir(dir) {
		require.NoError(t, os.Chmod(dir, 0o777))
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 12345, Gid: 12345}}
	out, err := cmd.Output()
	require.NoError(t, err, "%s", out)
	var report Report
	require.NoError(t, json.Unmarshal(out, &report))
	require.True(t, report.InForce(ProtectionFiles, ProtectionNetwork, ProtectionSyscalls, ProtectionSignals),
		report.Missing())
	require.Equal(t, []string{"runs under the service's uid", "runs under another's uid", "has capabilities"},
		report[ProtectionUID])
	require.Equal(t, []string{"starts too many processes"}, report[ProtectionLimits])
}

func TestProbe_SaysWhenChildrenCantRun(t *testing.T) {
	b := newConfined(t)
	hidden := filepath.Join(b.workspace("hidden"), "program")
	require.NoError(t, os.WriteFile(hidden, nil, 0o755))
	_, err := b.Probe(t.Context(), hidden)
	require.ErrorContains(t, err, "children can't execute")

	require.NoError(t, os.Chmod(filepath.Dir(b.root), 0o700))
	_, err = b.Probe(t.Context(), "/bin/sh")
	require.ErrorContains(t, err, "folder: permission denied")
}
