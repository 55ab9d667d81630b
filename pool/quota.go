package pool

import (
	"io/fs"
	"os"
	"syscall"
	"time"

	"claudepool/pool/api"
)

// Space is what files take.
type Space struct {
	Bytes int64 // on disk
	Files int64 // directories and links too
}

func (s Space) within(limit Space) bool { return s.Bytes <= limit.Bytes && s.Files <= limit.Files }

func (s Space) plus(o Space) Space { return Space{s.Bytes + o.Bytes, s.Files + o.Files} }

// atLeast is the larger of both, each by itself.
func (s Space) atLeast(o Space) Space { return Space{max(s.Bytes, o.Bytes), max(s.Files, o.Files)} }

// measure adds up a directory without leaving it, whatever links its owner plants meanwhile.
func measure(dir string) (total Space) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return total
	}
	defer root.Close()
	_ = fs.WalkDir(root.FS(), ".", func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil // its owner has just removed it
		}
		total.Files++
		if info, err := d.Info(); err == nil {
			if stat, ok := info.Sys().(*syscall.Stat_t); ok {
				total.Bytes += stat.Blocks * 512
			}
		}
		return nil
	})
	return total
}

// watchSpace ends turns that fill their user's workspaces beyond the quota.
func (p *Pool) watchSpace() {
	tick := time.NewTicker(p.tuning.quotaInterval)
	defer tick.Stop()
	for {
		select {
		case <-p.life.Done():
			return
		case <-tick.C:
			p.checkSpace()
		}
	}
}

// checkSpace measures every user that had a turn since the last time. A user may have as much as the quota says, or as
// much as there was the last time, so that one who has too much can still clean up.
func (p *Pool) checkSpace() {
	for u, dirs := range p.usersWithTurns() {
		var total Space
		for _, dir := range dirs {
			total = total.plus(measure(dir.Root))
		}
		before := u.setMeasured(total)
		if total.within(before.atLeast(p.opts.Quota)) {
			continue
		}
		p.opts.Logger.Warn("a user's workspaces are over their quota", "user", api.ShortUser(u.id), "bytes", total.Bytes, "files", total.Files)
		for _, c := range p.processes() {
			if c.user == u.id && c.busy {
				c.process.Abort(errQuota)
			}
		}
	}
}

// full refuses a user who has far too much.
func (u *user) full() error {
	p := u.pool
	if u.measured().within(p.opts.Quota.plus(p.opts.Quota)) {
		return nil
	}
	return api.Invalid("this user's workspaces hold more than twice what they may: %d bytes, %d files", p.opts.Quota.Bytes, p.opts.Quota.Files)
}
