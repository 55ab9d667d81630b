package confine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// The protections that a probe tells of.
const (
	ProtectionUID      = "uid"      // a uid and gid of its own, no groups, no capabilities and no way to get any
	ProtectionFiles    = "files"    // its workspace and the system's programs, nothing else
	ProtectionNetwork  = "network"  // plain TCP to the ports it may use, nothing else
	ProtectionSyscalls = "syscalls" // what needs none of the system calls that are denied
	ProtectionLimits   = "limits"   // of files, their size, processes, and no core dumps
	ProtectionSignals  = "signals"  // no signals to others' processes, no abstract sockets of theirs
	ProtectionCgroup   = "cgroup"   // a control group for each child that limits its memory and processes; an extra
)

// protections are all of them but for extras, in the order in which they are told.
var protections = []string{ProtectionUID, ProtectionFiles, ProtectionNetwork, ProtectionSyscalls, ProtectionLimits,
	ProtectionSignals}

// probeTimeout bounds all of a probe.
const probeTimeout = 20 * time.Second

// dialTimeout bounds an attempt to reach what is on this machine.
const dialTimeout = 2 * time.Second

// Report tells of each protection what a child managed to do in spite of it: nothing where it is in force.
type Report map[string][]string

// InForce says whether all of the named protections are.
func (r Report) InForce(names ...string) bool {
	return !slices.ContainsFunc(names, func(name string) bool {
		through, tried := r[name]
		return !tried || len(through) > 0
	})
}

// Table tells of each protection whether it is in force.
func (r Report) Table() map[string]bool {
	table := make(map[string]bool)
	for _, name := range append(slices.Clone(protections), ProtectionCgroup) {
		table[name] = r.InForce(name)
	}
	return table
}

// Missing says in words what is not in force and why, nothing if all of it but for extras is.
func (r Report) Missing() string {
	var missing []string
	for _, name := range protections {
		switch through, tried := r[name]; {
		case !tried:
			missing = append(missing, name+": not tried")
		case len(through) > 0:
			missing = append(missing, name+": "+strings.Join(through, ", "))
		}
	}
	return strings.Join(missing, "; ")
}

// Probe starts a child that tries what children must not be able to do, and reports what it managed. The other side of
// each attempt is real: another workspace with a file and a process, a port that this one may connect to, the service
// itself. It takes two workspaces and two children for the time. It fails if children can't run at all, or not the
// program.
//
// Without a confinement nothing is tried, and so nothing is in force.
func (l *Launcher) Probe(ctx context.Context, program string) (Report, error) {
	if l.confinement == nil {
		return Report{}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	report, err := l.probe(ctx, program)
	if err != nil {
		return nil, fmt.Errorf("confine: probe: %w", err)
	}
	return report, nil
}

func (l *Launcher) probe(ctx context.Context, program string) (report Report, err error) {
	target := targets{
		Service: os.Getpid(), ServiceUID: os.Getuid(), Program: program, Folder: l.root,
		Listens: l.confinement != nil && len(l.confinement.Bind) > 0, Forbidden: l.forbidden,
	}
	stop, err := target.listen()
	if err != nil {
		return nil, err
	}
	defer stop()
	victim, err := l.startProber(ctx, roleVictim, targets{}, uint16(target.Port)) // #nosec G115 -- a port
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, l.endProber(victim)) }()
	target.Victim, target.VictimUID, target.Secret = victim.pid, victim.uid, filepath.Join(victim.workspace, "secret")
	if victim.uid == 0 {
		target.VictimUID = target.ServiceUID
	}
	if err := os.WriteFile(target.Secret, []byte("secret"), 0o600); err != nil {
		return nil, err
	}
	if err := os.Chown(target.Secret, l.Owner(victim.workspace), l.Owner(victim.workspace)); err != nil {
		return nil, err
	}
	prober, err := l.startProber(ctx, roleProber, target)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, l.endProber(prober)) }()
	report, err = readReport(prober)
	if groups := l.confinement; err == nil && groups != nil && groups.Cgroups != nil {
		report[ProtectionCgroup] = groups.Cgroups.missing(victim.group, victim.pid) // which lives as long as it is let
	}
	return report, err
}

func readReport(prober *Child) (Report, error) {
	var report Report
	err := json.NewDecoder(prober.Stdout).Decode(&report)
	if err == nil {
		return report, nil
	}
	<-prober.Done() // what it said last is complete then
	return nil, fmt.Errorf("no report: %w (%s)", err, strings.TrimSpace(prober.StderrTail()))
}

func (l *Launcher) startProber(ctx context.Context, role string, target targets, connect ...uint16) (*Child, error) {
	text, err := json.Marshal(target) // #nosec G117 -- the probe's own
	if err != nil {
		return nil, err
	}
	workspace, err := l.NewWorkspace()
	if err != nil {
		return nil, err
	}
	c, err := l.Start(ctx, Spec{Path: self, Args: []string{role, string(text)}, Workspace: workspace, Connect: connect})
	if err != nil {
		return nil, errors.Join(err, l.RemoveWorkspace(workspace))
	}
	context.AfterFunc(ctx, func() { _ = c.Signal(unix.SIGKILL) })
	return c, nil
}

func (l *Launcher) endProber(c *Child) error {
	err := c.Stop(context.Background(), Ladder{})
	c.Stdout.Close()
	return errors.Join(err, l.RemoveWorkspace(c.workspace))
}

// listen opens what the prober tries to reach.
func (t *targets) listen() (stop func(), err error) {
	var config net.ListenConfig
	config.SetMultipathTCP(true)
	tcp, err := config.Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	t.Port = tcp.Addr().(*net.TCPAddr).Port
	t.Abstract = fmt.Sprintf("@claudepool-probe-%d-%d", os.Getpid(), t.Port)
	abstract, err := net.Listen("unix", t.Abstract)
	if err != nil {
		return nil, errors.Join(err, tcp.Close())
	}
	stop = func() {
		_ = tcp.Close()
		_ = abstract.Close()
	}
	// What nobody can reach would make a child look confined.
	conn, err := net.Dial("tcp", tcp.Addr().String())
	if err == nil && t.Forbidden != "" {
		err = t.dialForbidden()
	}
	if err != nil {
		stop()
		return nil, err
	}
	return stop, conn.Close()
}

// dialForbidden makes a connection to what nobody but the operator is to get to.
func (t targets) dialForbidden() error {
	conn, err := net.DialTimeout("tcp", t.Forbidden, dialTimeout)
	if err == nil {
		conn.Close()
	}
	return err
}
