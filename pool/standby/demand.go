package standby

import (
	"math"
	"time"

	"claudepool/pool/claude"
)

const (
	// burstTime is the time within which arrivals count as one burst: about what it takes to replace a process.
	burstTime = 5 * time.Second
	// burstMemory is how long a burst is remembered, roughly.
	burstMemory = 10 * time.Minute
	// leastShare is the share of arrivals below which a kind is forgotten, and so bounds how many are known.
	leastShare = 1.0 / 32
)

// kind is what a process was started for.
type kind struct {
	blank bool           // for a system prompt; see Process
	cli   claude.Options // what it was started with, but for its session
}

// fits reports whether a process of the kind can serve who wants the other one. A new conversation's model can be
// changed without a trace, though not to the CLI's own default.
func (k kind) fits(wanted kind, isNew bool) bool {
	if isNew && wanted.cli.Model != "" {
		k.cli.Model = wanted.cli.Model
	}
	return k.cli == wanted.cli && (k.blank || !wanted.blank)
}

// demand follows how many conversations come at once, so that as many processes can be ready for the next burst, and
// which kinds of processes they want.
type demand struct {
	last   time.Time // when the figures below were right
	burst  float64   // arrivals of the last moments, fading
	peak   float64   // the highest burst lately, fading slowly
	latest float64   // weight of the latest arrival in the shares
	usual  kind
	shares map[kind]float64 // of arrivals, by what they wanted; the rest is the usual kind's
}

// count counts an arrival.
func (d *demand) count(now time.Time, wanted kind) {
	d.fade(now)
	d.burst++
	d.peak = max(d.peak, d.burst)
	for k := range d.shares {
		if d.shares[k] *= 1 - d.latest; d.shares[k] < leastShare {
			delete(d.shares, k)
		}
	}
	if wanted != d.usual {
		if d.shares == nil {
			d.shares = make(map[kind]float64)
		}
		d.shares[wanted] += d.latest
	}
}

func (d *demand) fade(now time.Time) {
	if !d.last.IsZero() {
		passed := now.Sub(d.last).Seconds()
		d.burst *= math.Exp(-passed / burstTime.Seconds())
		d.peak *= math.Exp(-passed / burstMemory.Seconds())
	}
	d.last = now
}

// peakNow is how many processes the bursts of late would have used.
func (d *demand) peakNow(now time.Time) int {
	d.fade(now)
	return int(math.Round(d.peak))
}

// missing is the kind of which there should be one more among so many processes: one that is wanted more than it is
// there, the more wanted ones first, and else the usual one.
func (d *demand) missing(have map[kind]int, total int) kind {
	most, best := 0.0, d.usual
	for k, share := range d.shares {
		if have[k] < d.part(share, total) && share > most {
			most, best = share, k
		}
	}
	return best
}

// spare reports whether there are more of a kind than should be.
func (d *demand) spare(k kind, have map[kind]int, total int) bool {
	if k != d.usual {
		return have[k] > d.part(d.shares[k], total)
	}
	left := total
	for _, share := range d.shares {
		left -= d.part(share, total)
	}
	return have[k] > left
}

// part is how many of so many processes a share is.
func (d *demand) part(share float64, total int) int { return int(math.Round(share * float64(total))) }
