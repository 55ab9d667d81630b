package main

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"time"

	"github.com/google/uuid"
)

// task is a command that a turn has left running in the background, in a session of its own. The host is told of it,
// and the model of its end, in a turn of its own.
type task struct{ command *exec.Cmd }

// beginTask starts one that takes so long. Where none may go on beside a turn, the turn waits for it.
func (c *cli) beginTask(d time.Duration) *task {
	command := exec.Command("sleep", strconv.FormatFloat(d.Seconds(), 'f', 3, 64))
	command.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if os.Getenv("CLAUDE_CODE_DISABLE_BACKGROUND_TASKS") != "" {
		_ = command.Run()
		return nil
	}
	if err := command.Start(); err != nil {
		panic(err)
	}
	c.sayTasks(object{"task_id": uuid.NewString(), "task_type": "local_bash"})
	return &task{command}
}

// tell waits for the task's end and tells the model.
func (c *cli) tell(left *task, model string) {
	_ = left.command.Wait()
	c.sayTasks()
	c.sayState("running")
	note, _ := json.Marshal("<system-reminder>\n<task-notification>a task has " +
		"ended</task-notification>\n</system-reminder>")
	c.session.add("user", uuid.NewString(), note)
	c.say(object{"type": "system", "subtype": "init", "session_id": c.session.id, "uuid": uuid.NewString()})
	t := &turn{cli: c, model: model}
	a, err := c.ask(context.Background(), c.session.conversation(), func(event json.RawMessage) { t.event(event) })
	result := object{"type": "result", "subtype": "success", "is_error": err != nil, "result": a.text(),
		"session_id": c.session.id,
		"uuid":       uuid.NewString(), "origin": object{"kind": "task-notification"}}
	if err == nil {
		t.say("assistant", a)
		c.session.save()
	}
	c.say(result)
	c.sayState("idle")
}

func (c *cli) sayTasks(tasks ...object) {
	if tasks == nil {
		tasks = []object{}
	}
	c.say(object{"type": "system", "subtype": "background_tasks_changed", "tasks": tasks, "uuid": uuid.NewString()})
}

// sayState tells whether a turn is running, if the host wants to know.
func (c *cli) sayState(state string) {
	if os.Getenv("CLAUDE_CODE_EMIT_SESSION_STATE_EVENTS") != "" {
		c.say(object{"type": "system", "subtype": "session_state_changed", "state": state, "uuid": uuid.NewString()})
	}
}
