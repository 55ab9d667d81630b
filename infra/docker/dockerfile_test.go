package docker_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"
	"github.com/stretchr/testify/require"

	"claudepool/infra/testkit/need"
)

// repository is the folder the images are built from.
const repository = "../.."

// image is what a Dockerfile makes, without a container engine: the stages' commands are run as they stand there, but
// on this machine's own Go and npm, and on a Debian that mmdebstrap installed.
type image struct {
	t      *testing.T
	args   map[string]string // before the first FROM
	stages []instructions.Stage
	built  map[string]string // the workdirs of stages, by name

	env        []string
	entrypoint []string
	user       string
	exposed    []string
	labels     map[string]string
}

func read(t *testing.T, dockerfile string) *image {
	t.Helper()
	text, err := os.ReadFile(dockerfile)
	require.NoError(t, err)
	tree, err := parser.Parse(bytes.NewReader(text))
	require.NoError(t, err)
	require.Empty(t, tree.Warnings)
	lint := linter.New(&linter.Config{Warn: func(rule, _, _, message string, at []parser.Range) {
		require.Fail(t, message, "%s: %s %v", dockerfile, rule, at)
	}})
	stages, args, err := instructions.Parse(tree.AST, lint)
	require.NoError(t, err)
	i := &image{t: t, args: map[string]string{}, stages: stages, built: map[string]string{}, labels: map[string]string{}}
	for _, arg := range args {
		for _, a := range arg.Args {
			i.args[a.Key] = *a.Value
		}
	}
	for _, command := range i.final() {
		switch c := command.(type) {
		case *instructions.EnvCommand:
			i.env = append(i.env, pairs(c.Env)...)
		case *instructions.EntrypointCommand:
			require.False(t, c.PrependShell, "a shell would be in the way of signals")
			i.entrypoint = c.CmdLine
		case *instructions.UserCommand:
			i.user = c.User
		case *instructions.ExposeCommand:
			i.exposed = append(i.exposed, c.Ports...)
		case *instructions.LabelCommand:
			for _, l := range c.Labels {
				i.labels[l.Key] = strings.Trim(l.Value, `"`)
			}
		}
	}
	return i
}

func (i *image) final() []instructions.Command { return i.stages[len(i.stages)-1].Commands }

func pairs(all instructions.KeyValuePairs) []string {
	var list []string
	for _, p := range all {
		list = append(list, p.String())
	}
	return list
}

// base is what the final stage begins from.
func (i *image) base() string {
	return os.Expand(i.stages[len(i.stages)-1].BaseName, func(name string) string { return i.args[name] })
}

// install puts what the final stage copies into the root.
func (i *image) install(root string) {
	i.t.Helper()
	for _, command := range i.final() {
		c, ok := command.(*instructions.CopyCommand)
		if !ok {
			continue
		}
		require.Len(i.t, c.SourcePaths, 1)
		from, ok := strings.CutPrefix(c.SourcePaths[0], "/src/")
		require.True(i.t, ok, "stages work in /src")
		to := filepath.Join(root, c.DestPath)
		require.NoError(i.t, os.MkdirAll(filepath.Dir(to), 0o755))
		i.run("/", environment(), "cp", "-L", filepath.Join(i.stage(c.From), from), to)
		i.run("/", environment(), "chmod", c.Chmod, to)
	}
}

// stage runs the commands of an earlier stage and returns the folder they ran in, its WORKDIR.
func (i *image) stage(name string) string {
	i.t.Helper()
	if dir := i.built[name]; dir != "" {
		return dir
	}
	dir := i.t.TempDir()
	i.built[name] = dir
	at, ok := instructions.HasStage(i.stages, name)
	require.True(i.t, ok, name)
	if name == "cli" {
		// As a layer in the cache would be: make setup has fetched and verified it with the same script.
		require.NoError(i.t, os.Mkdir(filepath.Join(dir, "out"), 0o755))
		require.NoError(i.t, os.Symlink(realCLI(i.t), filepath.Join(dir, "out", "claude")))
	}
	env := environment()
	for _, command := range i.stages[at].Commands {
		switch c := command.(type) {
		case *instructions.EnvCommand:
			env = append(env, pairs(c.Env)...)
		case *instructions.WorkdirCommand:
			require.Equal(i.t, "/src", c.Path)
		case *instructions.CopyCommand:
			i.copyContext(c, dir)
		case *instructions.RunCommand:
			i.run(dir, env, "sh", "-c", strings.Join(c.CmdLine, " "))
		default:
			require.Fail(i.t, "the test doesn't know this command", "%s", c)
		}
	}
	return dir
}

// copyContext copies what .dockerignore lets through.
func (i *image) copyContext(c *instructions.CopyCommand, dir string) {
	i.t.Helper()
	files := contextFiles(i.t)
	for _, source := range c.SourcePaths {
		found := false
		for _, file := range files {
			inside, err := filepath.Rel(source, file)
			if err != nil || strings.HasPrefix(inside, "..") {
				continue
			}
			if inside == "." {
				inside = filepath.Base(file)
			}
			to := filepath.Join(dir, c.DestPath, inside)
			require.NoError(i.t, os.MkdirAll(filepath.Dir(to), 0o755))
			from := filepath.Join(repository, file)
			content, err := os.ReadFile(from)
			require.NoError(i.t, err)
			info, err := os.Stat(from)
			require.NoError(i.t, err)
			require.NoError(i.t, os.WriteFile(to, content, info.Mode()))
			found = true
		}
		require.True(i.t, found, "%s isn't sent to the builder", source)
	}
}

// contextFiles are the files that a build is sent.
func contextFiles(t *testing.T) []string {
	t.Helper()
	list, err := os.Open(filepath.Join(repository, ".dockerignore"))
	require.NoError(t, err)
	defer list.Close()
	patterns, err := ignorefile.ReadAll(list)
	require.NoError(t, err)
	ignored, err := patternmatcher.New(patterns)
	require.NoError(t, err)
	var files []string
	require.NoError(t, fs.WalkDir(os.DirFS(repository), ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			if path == ".git" || path == ".tools" {
				return fs.SkipDir // large, and ignored as all is that isn't listed
			}
			return nil
		}
		skip, err := ignored.MatchesOrParentMatches(path)
		if !skip {
			files = append(files, path)
		}
		return err
	}))
	return files
}

var slim = regexp.MustCompile(`^debian:([a-z]+)-slim$`)

// root returns a new root file system of the final stage. What its RUN commands made of the base is kept in .tools, as
// it costs a minute.
func (i *image) root() string {
	i.t.Helper()
	base := slim.FindStringSubmatch(i.base())
	require.NotNil(i.t, base, i.base())
	var commands []string
	for _, command := range i.final() {
		if run, ok := command.(*instructions.RunCommand); ok {
			commands = append(commands, strings.Join(run.CmdLine, " "))
		}
	}
	key := sha256.Sum256([]byte(base[1] + "\n" + strings.Join(commands, "\n")))
	kept, err := filepath.Abs(filepath.Join(repository, ".tools", fmt.Sprintf("rootfs-%x", key[:6])))
	require.NoError(i.t, err)
	if _, err := os.Stat(kept); err != nil {
		i.bootstrap(base[1], commands, kept)
	}
	root := filepath.Join(i.t.TempDir(), "root")
	i.run("/", environment(), "cp", "-a", "--reflink=auto", kept, root)
	i.install(root)
	return root
}

func (i *image) bootstrap(suite string, commands []string, kept string) {
	i.t.Helper()
	server, err := net.DialTimeout("tcp", "deb.debian.org:80", 10*time.Second)
	need.Part(i.t, "", err)
	_ = server.Close()
	require.NoError(i.t, os.MkdirAll(filepath.Dir(kept), 0o755))
	part, err := os.MkdirTemp(filepath.Dir(kept), "rootfs-part-")
	require.NoError(i.t, err)
	defer os.RemoveAll(part)
	require.NoError(i.t, os.Chmod(part, 0o755))
	// As in the base image, dpkg does not wait for the disk.
	i.run("/", environment(), "mmdebstrap", "--quiet", "--mode=root", "--variant=minbase", "--dpkgopt=force-unsafe-io",
		suite, part)
	for _, command := range commands {
		run := enter(part, "sh", "-c", command)
		run.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
		out, err := run.CombinedOutput()
		require.NoError(i.t, err, "%s\n%s", command, out)
	}
	if err := os.Rename(part, kept); !errors.Is(err, fs.ErrExist) { // another test run was first
		require.NoError(i.t, err)
	}
}

// environment is what commands outside the roots get of this process' own.
func environment() []string {
	var env []string
	for _, name := range []string{"PATH", "HOME", "GOPROXY", "GOFLAGS", "GOCACHE", "GOMODCACHE", "http_proxy",
		"https_proxy", "no_proxy"} {
		if value, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+value)
		}
	}
	return env
}

func (i *image) run(dir string, env []string, name string, args ...string) {
	i.t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir, cmd.Env = dir, env
	out, err := cmd.CombinedOutput()
	require.NoError(i.t, err, "%s\n%s", cmd, out)
}

// enter is a command in the root, as a container's first process: number 1 of process ids of its own, with a /proc of
// its own, which goes with it.
func enter(root string, command ...string) *exec.Cmd {
	const prepare = `mount --make-rprivate / && mount -t proc proc "$0/proc" && exec chroot "$0" "$@"`
	cmd := exec.Command("sh", append([]string{"-c", prepare, root}, command...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS, Setsid: true}
	return cmd
}
