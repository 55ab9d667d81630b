package poold

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"

	"claudepool/pool/confine"
)

// required are the protections without which ISOLATION=require doesn't start. That signals and abstract sockets can't
// reach others' processes is not among them: of the former the uid takes care, the latter few kernels can confine yet.
var required = []string{
	confine.ProtectionUID, confine.ProtectionFiles, confine.ProtectionNetwork, confine.ProtectionSyscalls,
	confine.ProtectionLimits,
}

// isolate makes the launcher and has it prove what holds.
func (i *Instance) isolate() error {
	if i.settings.Isolation == "off" {
		i.log.Warn("processes are not isolated from each other nor from the service (ISOLATION=off)")
		return i.launch(nil)
	}
	if err := i.checkPorts(); err != nil {
		return err
	}
	confinement := confine.Confinement{
		Connect:    i.settings.ConnectPorts,
		Bind:       i.settings.BindPorts,
		BestEffort: i.settings.Isolation == "best-effort",
	}
	i.cgroups = i.newCgroups()
	confinement.Cgroups = i.cgroups
	err := i.launchWithUIDs(confinement)
	if err != nil && confinement.BestEffort {
		i.log.Warn("processes run under the service's own uid", "error", err)
		if err = confine.DropUnused(false); err == nil {
			err = i.launch(&confinement)
		}
	}
	if err != nil {
		return fmt.Errorf("poold: ISOLATION=%s: %w", i.settings.Isolation, err)
	}
	if i.cgroups != nil && !i.report.InForce(confine.ProtectionCgroup) {
		i.log.Warn("control groups don't hold", "missing", i.report[confine.ProtectionCgroup])
	}
	missing := i.report.Missing()
	if missing == "" {
		i.log.Info("processes are isolated", "protections", i.report.Table())
		return nil
	}
	if i.settings.Isolation == "require" && !i.report.InForce(required...) {
		return fmt.Errorf("poold: ISOLATION=require: not in force: %s", missing)
	}
	i.log.Warn("processes are not fully isolated", "protections", i.report.Table(), "missing", missing)
	return nil
}

// checkPorts keeps processes from the service itself, on this machine or another.
func (i *Instance) checkPorts() error {
	forbidden := []string{strconv.Itoa(i.settings.Port)}
	if redis, err := url.Parse(i.settings.RedisURL.Reveal()); err == nil {
		forbidden = append(forbidden, cmp.Or(redis.Port(), "6379"))
	}
	if port := i.metricsPort(); port != 0 {
		forbidden = append(forbidden, strconv.Itoa(int(port)))
	}
	for _, port := range i.settings.ConnectPorts {
		if slices.Contains(forbidden, strconv.Itoa(int(port))) {
			return fmt.Errorf("poold: CONNECT_PORTS has %d, which is the service's own, the metrics' or Redis's", port)
		}
	}
	return nil
}

// metricsPort is the port of the metrics that this process serves, 0 if it serves none.
func (i *Instance) metricsPort() uint16 {
	if addr, ok := i.measured.MetricsAddr().(*net.TCPAddr); ok {
		return uint16(addr.Port) // #nosec G115 -- a port
	}
	return 0
}

// metricsAddr is where they can be reached from this machine.
func (i *Instance) metricsAddr() string {
	addr, ok := i.measured.MetricsAddr().(*net.TCPAddr)
	if !ok {
		return ""
	}
	if addr.IP.IsUnspecified() {
		return net.JoinHostPort("127.0.0.1", strconv.Itoa(addr.Port))
	}
	return addr.String()
}

// newCgroups has each process get a control group where the machine lets us. They are an extra: without them all else
// holds, and with them the kernel's limit is above the one at which a turn is ended with a word to its user.
func (i *Instance) newCgroups() *confine.Cgroups {
	limits := confine.CgroupLimits{Memory: int64(i.settings.MaxProcessRSS) * 5 / 2, Processes: confine.MostProcesses}
	groups, err := confine.NewCgroups(limits, i.log)
	if err != nil {
		i.log.Info("processes have no control groups", "error", err)
		return nil
	}
	return groups
}

func (i *Instance) launchWithUIDs(confinement confine.Confinement) error {
	uids, err := confine.LockUIDs(i.settings.UIDBase, i.settings.UIDCount, i.log)
	if err != nil {
		return err
	}
	confinement.UIDs = uids
	if err := i.launchMounted(confinement); err != nil {
		_ = uids.Close() // only gives up a lock
		return err
	}
	i.uids = uids
	return nil
}

// launchMounted makes a launcher whose children all find their workspace at one path, where the machine lets us mount.
func (i *Instance) launchMounted(confinement confine.Confinement) (err error) {
	if confinement.Mount, err = i.folder.MountPoint(); err != nil {
		return err
	}
	if err = i.launch(&confinement); err == nil {
		return nil
	}
	i.log.Info("each process sees its workspace at a path of its own, so one that is parked can't take files over",
		"error", err)
	confinement.Mount = ""
	if err := confine.DropUnused(false); err != nil {
		return err
	}
	return i.launch(&confinement)
}

// launch makes a launcher whose children can run.
func (i *Instance) launch(confinement *confine.Confinement) error {
	launcher, err := confine.New(confine.Options{Root: i.folder.Path(), Logger: i.log, Confinement: confinement,
		Forbidden: i.metricsAddr()})
	if err != nil {
		return err
	}
	report, err := launcher.Probe(context.Background(), i.settings.ClaudeBin)
	if err != nil {
		if closeErr := launcher.Close(); closeErr != nil {
			i.log.Error("children are left", "error", closeErr)
		}
		return err
	}
	i.launcher, i.report = launcher, report
	return nil
}
