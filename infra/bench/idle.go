package main

import (
	"context"
	"syscall"
	"time"

	"github.com/prometheus/procfs"
)

// idleCost is what processes take that wait for their users' next requests.
type idleCost struct {
	Processes             int
	Over                  time.Duration
	FrozenCPU, RunningCPU float64 // seconds of a core, all processes together
	PSS                   []int64 // bytes, of one process each
	// after a rest, a request to a process that was stopped, to one that was not, and the next ones
	Stopped, Awake, Next latencies
}

// idle measures processes at rest: stopped as the pool leaves them, and running as they would be without that.
func (l *lab) idle(ctx context.Context) (idleCost, error) {
	cost := idleCost{Processes: l.plan.idleUsers, Over: l.plan.idleOver}
	s, err := l.startService(ctx, l.bin, 0)
	if err != nil {
		return cost, err
	}
	defer s.stop()
	users := make([]*user, l.plan.idleUsers)
	pids := make([]int, len(users))
	for i := range users {
		users[i] = s.newUser()
		got, err := users[i].ask(ctx, "hello")
		if err != nil {
			return cost, err
		}
		pids[i] = got.pid
	}
	if err := awaitStopped(ctx, pids); err != nil {
		return cost, err
	}
	if cost.FrozenCPU, err = cpuOver(pids, cost.Over); err != nil {
		return cost, err
	}
	if err := signalAll(pids, syscall.SIGCONT); err != nil {
		return cost, err
	}
	time.Sleep(l.plan.Settle) // what was put off while they were stopped is no idling
	if cost.RunningCPU, err = cpuOver(pids, cost.Over); err != nil {
		return cost, err
	}
	if cost.PSS, err = memory(pids); err != nil {
		return cost, err
	}
	l.say("idle: %.2f s of CPU stopped, %.2f s running", cost.FrozenCPU, cost.RunningCPU)
	// The pool believes that all are stopped, and lets them go on; half of them are.
	if err := signalAll(pids[:len(pids)/2], syscall.SIGSTOP); err != nil {
		return cost, err
	}
	return cost, thaws(ctx, &cost, users)
}

func signalAll(pids []int, sig syscall.Signal) error {
	for _, pid := range pids {
		if err := syscall.Kill(-pid, sig); err != nil {
			return err
		}
	}
	return nil
}

// thaws measures what the first request after a rest costs, of the users whose processes were stopped (the first half)
// and of the others, taking turns, and what the one that follows it costs.
func thaws(ctx context.Context, cost *idleCost, users []*user) error {
	half := len(users) / 2
	for i := range half {
		for j, into := range []*latencies{&cost.Stopped, &cost.Awake} {
			for _, into := range []*latencies{into, &cost.Next} {
				got, err := users[j*half+i].ask(ctx, "again")
				if err != nil {
					return err
				}
				into.add(got)
				time.Sleep(rest)
			}
		}
	}
	return nil
}

func awaitStopped(ctx context.Context, pids []int) error {
	return await(ctx, "idle processes to be stopped", func() (bool, error) {
		for _, pid := range pids {
			stat, err := status(pid)
			if err != nil || stat.State != "T" {
				return false, err
			}
		}
		return true, nil
	})
}

func status(pid int) (procfs.ProcStat, error) {
	p, err := procfs.NewProc(pid)
	if err != nil {
		return procfs.ProcStat{}, err
	}
	return p.Stat()
}

// cpu is the CPU time the processes have used, in seconds.
func cpu(pids []int) (float64, error) {
	var total float64
	for _, pid := range pids {
		stat, err := status(pid)
		if err != nil {
			return 0, err
		}
		total += stat.CPUTime()
	}
	return total, nil
}

func cpuOver(pids []int, d time.Duration) (float64, error) {
	before, err := cpu(pids)
	if err != nil {
		return 0, err
	}
	time.Sleep(d)
	after, err := cpu(pids)
	return after - before, err
}

// memory is the proportional share of memory of each process.
func memory(pids []int) ([]int64, error) {
	var all []int64
	for _, pid := range pids {
		p, err := procfs.NewProc(pid)
		if err != nil {
			return nil, err
		}
		rollup, err := p.ProcSMapsRollup()
		if err != nil {
			return nil, err
		}
		all = append(all, int64(rollup.Pss))
	}
	return all, nil
}
