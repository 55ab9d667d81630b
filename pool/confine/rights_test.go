package confine

import (
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"claudepool/infra/testkit/need"
)

// modest is a service that has dropped what it doesn't use. It prints what it has left, and what a probe reports then.
func modest(args []string) {
	mounts := args[1] == "true"
	check(DropUnused(mounts))
	check(DropUnused(mounts)) // harmless
	left, err := capabilities("self")
	check(err)
	folder, err := LockFolder(args[0], slog.New(slog.DiscardHandler))
	check(err)
	uids, err := LockUIDs(testUIDs, 100, slog.New(slog.DiscardHandler))
	check(err)
	confinement := &Confinement{UIDs: uids, Connect: []uint16{443}}
	if mounts {
		confinement.Mount, err = folder.MountPoint()
		check(err)
	}
	l, err := New(Options{Root: folder.Path(), Logger: slog.New(slog.DiscardHandler), Confinement: confinement})
	check(err)
	report, err := l.Probe(context.Background(), "/bin/sh")
	check(err)
	check(l.Close())
	regained, err := exec.Command("cat", "/proc/self/status").Output()
	check(err)
	check(json.NewEncoder(os.Stdout).Encode(map[string]any{"left": left, "report": report,
		"regained": capabilitiesIn(string(regained))}))
}

var capabilityLine = regexp.MustCompile(`(?m)^(Cap\w+):\s+([0-9a-f]{16})$`)

// capabilitiesIn are the sets of a status file, by name.
func capabilitiesIn(status string) map[string]uint64 {
	sets := map[string]uint64{}
	for _, m := range capabilityLine.FindAllStringSubmatch(status, -1) {
		sets[m[1]], _ = strconv.ParseUint(m[2], 16, 64)
	}
	return sets
}

// capabilities are what all threads of a process have together.
func capabilities(process string) (map[string]uint64, error) {
	threads, err := filepath.Glob(filepath.Join("/proc", process, "task/*/status"))
	all := map[string]uint64{}
	for _, thread := range threads {
		status, err := os.ReadFile(thread)
		if err != nil {
			return nil, err
		}
		for name, set := range capabilitiesIn(string(status)) {
			all[name] |= set
		}
	}
	return all, err
}

// What cgroups, raw sockets, the clock or the kernel's modules take is among what is gone, and what mounts take where
// there are none.
func TestDropUnused_LeavesWhatChildrenNeedAndNothingElse(t *testing.T) {
	need.Root(t)
	// chown, dac_override, fowner, kill, setgid, setuid, setpcap, sys_ptrace, sys_nice, sys_resource, checkpoint_restore,
	// by their numbers
	needed := []int{0, 1, 3, 5, 6, 7, 8, 19, 23, 24, 40}
	t.Run("without mounts", func(t *testing.T) { testDropUnused(t, false, needed) })
	t.Run("with mounts", func(t *testing.T) { testDropUnused(t, true, append(needed, unix.CAP_SYS_ADMIN)) })
}

func testDropUnused(t *testing.T, mounts bool, needed []int) {
	before, err := capabilities("self")
	require.NoError(t, err)
	root := t.TempDir()
	require.NoError(t, os.Chmod(filepath.Dir(root), passable)) // children go through it
	require.NoError(t, os.Chmod(root, passable))
	service := exec.Command("/proc/self/exe", "-helper", "modest", root, strconv.FormatBool(mounts))
	var stderr strings.Builder
	service.Stderr = &stderr
	out, err := service.Output()
	require.NoError(t, err, stderr.String())
	var said struct {
		Left, Regained map[string]uint64
		Report         Report
	}
	require.NoError(t, json.Unmarshal(out, &said))

	var all uint64
	for _, capability := range needed {
		all |= 1 << capability
	}
	want := before["CapBnd"] & all
	require.Less(t, want, before["CapBnd"], "there was something to give up")
	none := map[string]uint64{"CapInh": 0, "CapAmb": 0, "CapPrm": want, "CapEff": want, "CapBnd": want}
	require.Equal(t, none, said.Left)
	require.Equal(t, none, said.Regained, "a program run as root")
	require.Empty(t, said.Report.Missing())
}
