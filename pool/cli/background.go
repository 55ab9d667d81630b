package cli

import (
	"time"

	"claudepool/pool/claude"
)

// reportTimeout is how long a CLI may take to begin with telling the model of a task that has ended, once nothing else
// is left. Of some it tells nothing.
const reportTimeout = 5 * time.Second

// background is what a turn has started that goes on beside it. It is guarded by the turn's mutex.
//
// The CLI tells the model of each task's end in a turn of its own, with a result that answers no message. Between turns
// it says that it is idle. So a turn that waits is over when the CLI is idle and has no tasks, which it says in this
// order.
type background struct {
	waits       bool // the turn isn't over before all of it is
	tasks       int  // that are running
	any         bool // there have been some
	idle        bool // the CLI is in no turn
	reportTimer *time.Timer
	unreported  bool // nobody waits any more for the CLI to tell of the last, which it may do yet
	// a result, until it is known whether it is the last: whoever has that may rely on the turn's being over
	held []byte
}

// trackTasksLocked considers a line about what goes on beside the turn, and reports whether the turn is over with it.
func (t *turn) trackTasksLocked(line *claude.Line) (isOver bool) {
	if line.Type != "system" {
		return false
	}
	switch line.Subtype {
	case "background_tasks_changed":
		t.tasks = line.Tasks
		t.any = t.any || t.tasks > 0
		t.stopReportTimerLocked()
		if t.idle && t.tasks == 0 && t.result != nil {
			t.reportTimer = time.AfterFunc(reportTimeout, t.endUnreported)
		}
	case "session_state_changed":
		t.idle = line.State == "idle"
		t.stopReportTimerLocked()
		return t.idle && t.tasks == 0 && t.result != nil
	}
	return false
}

// passHeldLocked hands a result over that was held.
func (t *turn) passHeldLocked() {
	if raw := t.held; raw != nil {
		t.held = nil
		t.pushLocked(raw)
	}
}

// endUnreported ends a turn of whose last task the CLI doesn't tell.
func (t *turn) endUnreported() {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case !t.idle || t.tasks > 0 || t.over || t.err != nil:
	case t.full: // what the CLI says can't be read before the client has read
		t.reportTimer.Reset(reportTimeout)
	default:
		t.unreported = true
		t.endLocked()
	}
}

func (t *turn) stopReportTimerLocked() {
	if t.reportTimer != nil {
		t.reportTimer.Stop()
	}
}

// isUnreported reports whether the CLI may yet begin a turn of its own.
func (t *turn) isUnreported() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.unreported
}

// hasTasks reports whether something goes on beside the turn, and whether something did.
func (t *turn) hasTasks() (now, ever bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.tasks > 0, t.any
}
