package confine

import (
	"github.com/landlock-lsm/go-landlock/landlock"
)

// What a child finds of the system. Of /etc and /proc it is only what programs ask for: of other processes' folders in
// /proc, the command lines alone would tell too much.
var (
	systemFolders = []string{
		"/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64",
		"/etc/alternatives", "/etc/ca-certificates", "/etc/ld.so.conf.d", "/etc/pki/tls/certs", "/etc/profile.d",
		"/etc/ssl/certs", "/etc/terminfo", "/sys/devices/system/cpu", "/sys/kernel/mm/transparent_hugepage",
	}
	systemFiles = []string{
		"/etc/bash.bashrc", "/etc/ca-certificates.conf", "/etc/debian_version", "/etc/gai.conf", "/etc/gitconfig",
		"/etc/group", "/etc/host.conf", "/etc/hosts", "/etc/inputrc", "/etc/ld.so.cache", "/etc/ld.so.conf",
		"/etc/localtime", "/etc/mime.types", "/etc/nsswitch.conf", "/etc/os-release", "/etc/passwd", "/etc/profile",
		"/etc/protocols", "/etc/resolv.conf", "/etc/services", "/etc/ssl/openssl.cnf", "/etc/timezone",
		"/dev/random", "/dev/urandom",
		"/proc/cpuinfo", "/proc/filesystems", "/proc/loadavg", "/proc/meminfo", "/proc/stat", "/proc/uptime",
		"/proc/version", "/proc/sys/kernel/osrelease", "/proc/sys/kernel/pid_max", "/proc/sys/vm/overcommit_memory",
	}
	// ownFiles are the process's own, also after its exec, but not those of what it starts. Its whole folder would have
	// all connections of the machine in it.
	ownFiles = []string{"/proc/self/maps", "/proc/self/stat", "/proc/self/statm", "/proc/self/status"}
	devices  = []string{"/dev/null", "/dev/zero", "/dev/full", "/dev/tty"}
)

// restrict confines the process to its workspace, the system and the TCP ports it may use. The newest rules this
// library knows are asked for, and what the kernel has of them is taken; the probe tells what that is worth.
func (p plan) restrict() error {
	rules := []landlock.Rule{
		landlock.RWDirs(p.Workspace).WithRefer(),
		landlock.RODirs(systemFolders...).IgnoreIfMissing(),
		landlock.ROFiles(systemFiles...).IgnoreIfMissing(),
		landlock.RWFiles(devices...).IgnoreIfMissing(),
		landlock.ROFiles(ownFiles...),
		landlock.ROFiles(p.Program),
	}
	for _, port := range p.Connect {
		rules = append(rules, landlock.ConnectTCP(port))
	}
	for _, port := range p.Bind {
		rules = append(rules, landlock.BindTCP(port))
	}
	return landlock.V11.BestEffort().Restrict(rules...)
}
