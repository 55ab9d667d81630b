package pool_test

// attempt is a command for bash that succeeds if it got through.
type attempt struct {
	name, command string
	control       string // what is run without isolation, where it isn't the same
}

// attempts are what a tenant must not be able to do.
func attempts() []attempt {
	all := append([]attempt(nil), direct...)
	for _, file := range []string{"environ", "maps", "cmdline", "status", "stack", "auxv", "io"} {
		all = append(all, attempt{name: "read /proc/A/" + file, command: "cat /proc/$A_PID/" + file})
	}
	for _, folder := range []string{"cwd", "root", "fd", "task"} {
		all = append(all, attempt{name: "list /proc/A/" + folder, command: "ls /proc/$A_PID/" + folder + "/"})
	}
	for _, target := range []struct{ name, host, port string }{
		{"the instance", "127.0.0.1", "$SERVICE_PORT"}, {"Redis", "127.0.0.1", "$REDIS_PORT"},
		{"the Firestore emulator", "127.0.0.1", "$EMULATOR_PORT"}, {"another instance", "127.0.0.1", "$OTHER_PORT"},
		{"the metadata server", "$META", "$META_PORT"}, {"A's port at the broker", "$A_BROKER", "$A_BROKER_PORT"},
	} {
		for _, how := range []string{"tcp", "mptcp", "fastopen", "fastopen-connect", "udp"} {
			if how == "udp" && (target.name == "the instance" || target.port == "$A_BROKER_PORT") {
				continue // they have no UDP, so there would be no control
			}
			all = append(all, attempt{name: "reach " + target.name + " by " + how, command: "$TOOL " + how + " " + target.host +
				" " + target.port})
		}
	}
	return all
}

// direct are attempts without variations. What would do harm as root is put back by the command itself.
var direct = []attempt{
	{name: "read A's file by its path", command: `cat $A/work/secret`},
	{name: "list A's workspace", command: `ls $A/work`},
	{name: "read A's transcripts", command: `find $A/home/.claude/projects -name "*.jsonl" -print0 | xargs -0 cat | ` +
		`grep hello`},
	{name: "write into A's workspace", command: `touch $A/work/planted && rm $A/work/planted`},
	{name: "append to A's file", command: `printf "" >> $A/work/secret`},
	{name: "rename A's file", command: `mv $A/work/secret $A/work/s2 && mv $A/work/s2 $A/work/secret`},
	{name: "read A's file by the index", command: `cat $A_INDEX/work/secret`},
	{name: "read A's file by a link", command: `ln -sf $A/work/secret link && cat link`},
	{name: "link A's file", command: `rm -f hard; ln $A/work/secret hard`},
	{name: "watch A's folder", command: `$TOOL inotify $A/work`},
	{name: "list the instance's folder", command: `ls $INSTANCE`},
	{name: "list the root of workspaces", command: `ls $INSTANCE/..`},
	{name: "write to the instance's folder", command: `touch $INSTANCE/x && rm $INSTANCE/x`},
	{name: "enter A in the index", command: `mkdir $A_INDEX-x && rmdir $A_INDEX-x`},
	{name: "plant settings for A", command: `mkdir -p $A/home/.claude && touch $A/home/.claude/settings.local.json && ` +
		`rm $A/home/.claude/settings.local.json`},
	{name: "plant a hook for A", command: `mkdir -p $A/home/.claude && echo "{\"hooks\":{}}" > ` +
		`$A/home/.claude/hooks.json && rm $A/home/.claude/hooks.json`},
	{name: "plant an MCP server for A", command: `echo "{}" > $A/work/.mcp.json && rm $A/work/.mcp.json`},
	{name: "change A's configuration", command: `printf "" >> $A/home/.claude.json`},
	{name: "plant an MCP server above all workspaces",
		command: `echo "{}" > $INSTANCE/.mcp.json && rm $INSTANCE/.mcp.json`},
	{name: "plant instructions above all workspaces", command: `echo hi > $INSTANCE/CLAUDE.md && rm $INSTANCE/CLAUDE.md`},
	{name: "list a standby's workspace", command: `ls $STANDBY/home`},
	{name: "read what a standby left", command: `cat $STANDBY/home/.claude.json`},
	{name: "read what a standby left by a link", command: `ln -sf $STANDBY/home/.claude.json spare && cat spare`},
	{name: "write into a standby's workspace", command: `touch $STANDBY/work/planted && rm $STANDBY/work/planted`},
	{name: "plant a hook for a standby's user",
		command: `mkdir -p $STANDBY/home/.claude && echo "{\"hooks\":{}}" > $STANDBY/home/.claude/hooks.json && rm ` +
			`$STANDBY/home/.claude/hooks.json`},
	{name: "plant an MCP server for a standby's user",
		command: `echo "{}" > $STANDBY/work/.mcp.json && rm $STANDBY/work/.mcp.json`},
	{name: "change a standby's configuration", command: `printf "" >> $STANDBY/home/.claude.json`},
	{name: "read a standby's environment", command: `cat /proc/$STANDBY_PID/environ`},
	{name: "list a standby's files", command: `ls /proc/$STANDBY_PID/fd`},
	{name: "signal a standby", command: `kill -CONT $STANDBY_PID`},
	{name: "trace a standby", command: `$TOOL ptrace $STANDBY_PID`},
	{name: "plant settings for everybody", command: `mkdir /etc/claude-code-attack && rmdir /etc/claude-code-attack`},
	{name: "plant a program in the path", command: `touch /usr/local/bin/claudepool-attack && rm ` +
		`/usr/local/bin/claudepool-attack`},
	{name: "fill /tmp", command: `f=$(mktemp -p /tmp) && rm $f`},
	{name: "fill /dev/shm", command: `f=$(mktemp -p /dev/shm) && rm $f`},
	{name: "fill /var/tmp", command: `f=$(mktemp -p /var/tmp) && rm $f`},
	{name: "leave a job in a spool that is open to all", command: `f=$(mktemp -p $SPOOL) && rm $f`},
	{name: "leave a job where cron looks", command: `mkdir /etc/claudepool-cron.d && rmdir /etc/claudepool-cron.d`},
	{name: "leave a job in the system's spool",
		command: `mkdir /var/spool/claudepool-attack && rmdir /var/spool/claudepool-attack`},
	{name: "read the passwords", command: `cat /etc/shadow`},
	{name: "read root's home", command: `ls /root`},
	{name: "write a huge file", command: `truncate -s 3G huge; r=$?; rm -f huge; exit $r`},
	{name: "make a device", command: `rm -f dev; mknod dev c 1 3 && rm dev`},
	{name: "give a file away", command: `touch given && chown 0:4242 given; r=$?; rm -f given; exit $r`},
	{name: "list processes", command: `ls /proc`},
	// address 0: looked at, but nothing is there
	{name: "read A's memory", command: `head -c 1 /proc/$A_PID/mem 2>&1 | grep "Input/output"`},
	{name: "read the service's environment", command: `cat /proc/$SERVICE/environ`},
	{name: "list the service's files", command: `ls /proc/$SERVICE/fd`},
	{name: "write A's oom_score_adj", command: `cat /proc/$A_PID/oom_score_adj > s && cat s > /proc/$A_PID/oom_score_adj`},
	{name: "take A's secret to the broker", command: `s=$(tr "\0" "\n" < /proc/$A_PID/environ | grep ` +
		`^CLAUDE_CODE_OAUTH_TOKEN= | cut -d= -f2) && $TOOL broker http://$A_BROKER:$A_BROKER_PORT "$s"`},
	{name: "call the API with a guessed secret", command: `$TOOL broker $ANTHROPIC_BASE_URL cp-00`, control: ownCall},
	{name: "call the API with no secret", command: `$TOOL broker $ANTHROPIC_BASE_URL ""`, control: ownCall},
	{name: "call what the broker doesn't pass on", command: `$TOOL get $ANTHROPIC_BASE_URL/v1/models`,
		control: `$TOOL get http://$META:$META_PORT/`},
	{name: "take its own process's secret", command: `tr "\0" "\n" < /proc/$CLAUDE_PID/environ | grep ` +
		`^CLAUDE_CODE_OAUTH_TOKEN=`},
	{name: "read everybody's connections", command: `cat /proc/$CLAUDE_PID/net/tcp`},
	{name: "read its own view of connections", command: `cat /proc/self/net/unix`},
	{name: "signal A", command: `kill -CONT $A_PID`},
	{name: "signal A's group", command: `kill -CONT -- -$A_PID`},
	{name: "signal the service", command: `kill -CONT $SERVICE`},
	{name: "trace A", command: `$TOOL ptrace $A_PID`},
	{name: "trace the service", command: `$TOOL ptrace $SERVICE`},
	{name: "read A's memory by call", command: `$TOOL vmread $A_PID`},
	{name: "take A's files", command: `$TOOL getfd $A_PID`},
	{name: "change A's limits", command: `$TOOL prlimit $A_PID`},
	{name: "slow A down", command: `$TOOL renice $A_PID`},
	{name: "pin A to a processor", command: `$TOOL affinity $A_PID`},
	{name: "become root by a setuid file", command: `./setuid uid0`},
	{name: "become root by sudo", command: `sudo -n true || ./sudo uid0`}, // few machines have one
	{name: "become root by su", command: `su root -c true`},
	{name: "become another user", command: `setpriv --reuid 12345 --clear-groups true`},
	{name: "raise its own limits", command: `ulimit -n 20000`},
	{name: "mount", command: `mkdir -p m && mount -t tmpfs none m && umount m`},
	{name: "unshare a user namespace", command: `unshare -U true`},
	{name: "unshare a mount namespace", command: `unshare -m true`},
	{name: "unshare a network namespace", command: `unshare -n true`},
	{name: "enter the service's namespaces", command: `nsenter -t $SERVICE -n true`},
	{name: "change its root", command: `chroot / /bin/true`},
	{name: "load a bpf program", command: `$TOOL bpf`},
	{name: "use io_uring", command: `$TOOL io_uring`},
	{name: "use keyrings", command: `$TOOL keyctl`},
	{name: "measure others", command: `$TOOL perf`},
	{name: "leave shared memory behind", command: `$TOOL shm`},
	{name: "open a raw socket", command: `$TOOL socket 2 3 1`},
	{name: "open a packet socket", command: `$TOOL socket 17 3 768`},
	{name: "open a vsock", command: `$TOOL socket 40 1 0`},
	{name: "list everybody's connections", command: `$TOOL socket 16 3 4`},
	{name: "listen for neighbours", command: `$TOOL listen`},
	{name: "listen without a port", command: `$TOOL autolisten`},
	{name: "set the clock", command: `date -s "$(date)"`},
	{name: "name the machine", command: `hostname "$(hostname)"`},
}

// ownCall is an API call with the secret of the caller's own process, which without isolation can be read.
const ownCall = `$TOOL broker $ANTHROPIC_BASE_URL "$(tr "\0" "\n" < /proc/$CLAUDE_PID/environ | grep ` +
	`^CLAUDE_CODE_OAUTH_TOKEN= | cut -d= -f2)"`

// abilities are what a tenant has to be able to do, in the same way.
func abilities() []attempt {
	if nameserver() == "" {
		return ownAbilities
	}
	return append([]attempt{{name: "resolve names", command: `getent ahostsv4 somebody.example | grep 127.0.0.1`}},
		ownAbilities...)
}

var ownAbilities = []attempt{
	{name: "connect to where it may", command: `$TOOL tcp 127.0.0.1 443`},
	{name: "use its own files", command: `echo hi > own && grep hi own && mkdir -p d && mv own d/ && rm -r d`},
	{name: "use its home and its temp folder", command: `touch ~/x $TMPDIR/x && rm ~/x $TMPDIR/x`},
	{name: "signal its own", command: `sleep 10 & kill -9 $!`},
	{name: "use pipes of bash", command: `cat <(echo hi) | grep hi`},
	{name: "reach the broker", command: `b=${ANTHROPIC_BASE_URL#http://}; $TOOL tcp ${b%:*} ${b#*:}`},
	{name: "run git", command: `git init -q repository && cd repository && git add . && git -c user.name=b -c ` +
		`user.email=b@b commit -qm x --allow-empty`},
}
