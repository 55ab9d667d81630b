package confine

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// self is this program, also if its file has been replaced meanwhile.
const self = "/proc/self/exe"

// command is what is executed to start a child: its program, or with a confinement the shim that becomes it.
type command struct {
	path string
	argv []string
	dir  string
	env  []string
}

func (l *Launcher) command(spec Spec, c *Child) (command, error) {
	cmd := command{path: spec.Path, argv: append([]string{spec.Path}, spec.Args...), dir: c.dir,
		env: markedEnv(spec.Env, spec.Workspace)}
	if l.confinement == nil {
		return cmd, nil
	}
	p := plan{
		Parent: os.Getpid(), UID: max(l.Owner(spec.Workspace), 0), Workspace: spec.Workspace, Dir: c.dir, Program: spec.Path,
		Mount:   l.confinement.Mount,
		Connect: slices.Concat(l.confinement.Connect, spec.Connect), Bind: l.confinement.Bind,
		BestEffort: l.confinement.BestEffort,
	}
	if l.confinement.UIDs != nil && p.UID == 0 {
		return cmd, fmt.Errorf("%q was not made by NewWorkspace", spec.Workspace)
	}
	text, err := json.Marshal(p)
	if err != nil {
		return cmd, err
	}
	c.uid = p.UID
	cmd.path, cmd.dir = self, "/"
	cmd.argv = append([]string{shimName, string(text)}, cmd.argv...)
	cmd.env = overTCP(cmd.env)
	return cmd, nil
}

// start starts the child in its group, or where that fails in the service's own.
func (c command) start(files []*os.File, group *childGroup, logger *slog.Logger) (*os.Process, error) {
	attr := &os.ProcAttr{
		Dir: c.dir, Env: c.env, Files: files,
		Sys: &syscall.SysProcAttr{Setsid: true, Pdeathsig: unix.SIGKILL},
	}
	if group == nil {
		return os.StartProcess(c.path, c.argv, attr)
	}
	attr.Sys.UseCgroupFD, attr.Sys.CgroupFD = true, int(group.dir.Fd())
	process, err := os.StartProcess(c.path, c.argv, attr)
	if err == nil {
		return process, nil
	}
	logger.Warn("a process can't be started in its control group", "error", err)
	attr.Sys.UseCgroupFD = false
	return os.StartProcess(c.path, c.argv, attr)
}

// markedEnv never returns nil, for which the child would inherit the service's whole environment.
func markedEnv(env []string, workspace string) []string {
	marked := []string{Marker + "=" + workspace}
	for _, e := range env {
		if !strings.HasPrefix(e, Marker+"=") {
			marked = append(marked, e)
		}
	}
	return marked
}

// overTCP makes the C library ask its resolver over TCP: a confined child has no UDP.
func overTCP(env []string) []string {
	const name = "RES_OPTIONS="
	if slices.ContainsFunc(env, func(e string) bool { return strings.HasPrefix(e, name) }) {
		return env
	}
	return append(env, name+"use-vc")
}
