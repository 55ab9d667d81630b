// Package claude speaks the stream-json protocol of the Claude Code CLI: the command line and environment of a
// long-running child, the lines written to its stdin and the lines read from its stdout, and the transcript file
// that `--resume` continues from. It starts no process and knows no user.
//
// The protocol is undocumented in most places. What stands here was measured on the CLI's versions from 2.1.330 on
// against a loopback stand-in for the Messages API; another version needs all tests run against it first.
package claude

import (
	"strings"
	"time"
)

// Version is the newest CLI version that all of it holds for.
const Version = "2.1.330"

// Options says how a CLI is started. Everything in it is visible to any process of the machine in the child's
// command line, so it holds no text of a user and no secret.
type Options struct {
	SessionID      string // the conversation's id, a UUID
	Resume         bool   // go on from the transcript of SessionID, which then must exist
	Gate           string // path of a Gate; the session is the one whose transcript comes through it
	Model          string // alias or full name; empty is the CLI's own default
	FallbackModel  string // comma-separated; empty is none
	PermissionMode string // empty is the CLI's own default
	AllowBypass    bool   // let a later control request switch to bypassPermissions; refused by the CLI as root
	Background     bool   // offer work that outlives its turn
	Interactive    bool   // ask the host before what needs approval, and offer to ask the user questions
}

// Args returns the command line without the program's name. Values stand in the `--flag=value` form, so that none of
// them can be read as a flag.
//
// The system prompt snapshot is off because with it a resumed conversation keeps the system prompt of its first turn,
// whatever `initialize` says.
func Args(o Options) []string {
	args := []string{
		"--print", "--verbose",
		"--input-format=stream-json", "--output-format=stream-json", "--include-partial-messages",
		"--system-prompt-snapshot=off",
	}
	switch {
	case o.Gate != "":
		args = append(args, "--resume="+o.Gate)
	case o.Resume:
		args = append(args, "--resume="+o.SessionID)
	default:
		args = append(args, "--session-id="+o.SessionID)
	}
	if o.Model != "" {
		args = append(args, "--model="+o.Model)
	}
	if o.FallbackModel != "" {
		args = append(args, "--fallback-model="+o.FallbackModel)
	}
	if o.PermissionMode != "" {
		args = append(args, "--permission-mode="+o.PermissionMode)
	}
	if o.AllowBypass {
		args = append(args, "--allow-dangerously-skip-permissions")
	}
	if o.Interactive {
		args = append(args, "--permission-prompt-tool=stdio")
	}
	return append(args, toolArgs(o)...)
}

// Environment is what a child gets to know of the world. Nothing of the service's own environment is inherited.
type Environment struct {
	Home    string // HOME, holds the CLI's own files and transcripts
	Temp    string // TMPDIR, also of the CLI's tools
	BaseURL string // where API calls go: the loopback broker
	Secret  string // what the child knows itself by at the broker; not a credential of anybody

	// MCPTimeout is how long an MCP server may take to answer before it counts as failed. Its conversation waits for it.
	MCPTimeout time.Duration
	// CommandTimeout is how long a command may take that doesn't ask for a time of its own, and LongestCommand the longest
	// it may ask for. Then it is ended, and the model told.
	CommandTimeout time.Duration
	LongestCommand time.Duration

	Background bool // as in Options
}

// path is where a child finds its tools: the usual system folders and nothing of the operator's.
const path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Vars returns the child's whole environment in the form of os/exec.
func (e Environment) Vars() []string {
	return append([]string{
		"HOME=" + e.Home,
		"PATH=" + path,
		"LANG=C.UTF-8",
		"SHELL=/bin/bash",
		"TMPDIR=" + e.Temp,
		"CLAUDE_CODE_TMPDIR=" + e.Temp,
		"ANTHROPIC_BASE_URL=" + e.BaseURL,
		"CLAUDE_CODE_OAUTH_TOKEN=" + e.Secret,
		"CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC=1",
		"DISABLE_AUTOUPDATER=1",
		"MCP_TIMEOUT=" + inMilliseconds(e.MCPTimeout),
	}, e.toolVars()...)
}

// projectSlug is the name of the folder the CLI keeps the transcripts of a working directory in.
func projectSlug(cwd string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
			return r
		}
		return '-'
	}, cwd)
}
