package claude

import (
	"strconv"
	"strings"
	"time"
)

// Of what would outlive its turn, TOOLS.md has what was seen.
var (
	// withheld are tools that nobody is offered. What they begin comes at a set time or runs elsewhere, and the CLI
	// doesn't tell whether anything of it is left; or it moves the session to another folder, and its transcript with it.
	withheld = []string{"ScheduleWakeup", "RemoteTrigger", "EnterWorktree", "ExitWorktree"}
	// lasting are those that are offered only where work in the background is.
	lasting = []string{"Monitor", "TaskStop"}
	// planning are those that change the session's permission mode by themselves. The CLI has them only where it has
	// somebody to ask.
	planning = []string{"EnterPlanMode", "ExitPlanMode"}
)

// withheldSkills is for the skill that is about RemoteTrigger.
const withheldSkills = `{"skillOverrides":{"schedule":"off"}}`

// toolArgs say which tools the CLI doesn't offer. It takes them at its start only: rules and settings that come later
// leave what it offers as it is.
func toolArgs(o Options) []string {
	left := withheld[:len(withheld):len(withheld)]
	if !o.Background {
		left = append(left, lasting...)
	}
	if o.Interactive {
		left = append(left, planning...)
	}
	return []string{"--disallowedTools=" + strings.Join(left, ","), "--settings=" + withheldSkills}
}

// toolVars are what the CLI's tools go by. What is said here of the background can't be changed later either.
func (e Environment) toolVars() []string {
	vars := []string{"CLAUDE_CODE_DISABLE_CRON=1",
		"BASH_DEFAULT_TIMEOUT_MS=" + inMilliseconds(e.CommandTimeout), "BASH_MAX_TIMEOUT_MS=" +
			inMilliseconds(e.LongestCommand)}
	if e.Background {
		return append(vars, "CLAUDE_CODE_EMIT_SESSION_STATE_EVENTS=1")
	}
	return append(vars, "CLAUDE_CODE_DISABLE_BACKGROUND_TASKS=1", "CLAUDE_CODE_DISABLE_WORKFLOWS=1")
}

func inMilliseconds(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }
