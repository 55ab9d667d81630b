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
	git   bool           // for files that are a git repository
	cli   claude.Options // what it was started with, but for its session
}

// fits reports whether a process of the kind can serve who wants the other one. A new conversation's model can be
// changed without a trace, though not to the CLI's own default.
func (k kind) fits(wanted kind, isNew bool) bool {
	if isNew && wanted.cli.Model != "" {
		k.cli.Model = wanted.cli.Model
	}
	return k.cli == wanted.cli && k.git == wanted.git && (k.blank || !wanted.blank)
}

// pace is how fast what is kept follows what is wanted.
type pace struct {
	latest float64 // weight of the latest arrival in the shares of kinds
	slack  float64 // how many too many of a kind there have to be for one to give way
}

var (
	// warmPace takes an arrival or two to change anything: what is warmed up took long.
	warmPace = pace{latest: 0.25, slack: 0.5}
	// parkedPace follows at once, as there are few, but has two kinds that are wanted in turn not replace each other.
	parkedPace = pace{latest: 0.5, slack: 0.7}
)

// demand follows how many conversations come at once, so that as many processes can be ready for the next burst, and
// which kinds of processes they want.
type demand struct {
	pace
	last   time.Time // when the next two were right
	burst  float64   // arrivals of the last moments, fading
	peak   float64   // the highest burst lately, fading slowly
	usual  kind
	shares map[kind]float64 // of arrivals, by what they wanted
}

// arrive counts an arrival.
func (d *demand) arrive(now time.Time) {
	d.fade(now)
	d.burst++
	d.peak = max(d.peak, d.burst)
}

// prefer notes what an arrival wanted.
func (d *demand) prefer(wanted kind) {
	for k := range d.shares {
		if d.shares[k] *= 1 - d.latest; d.shares[k] < leastShare {
			delete(d.shares, k)
		}
	}
	if d.shares == nil {
		d.shares = make(map[kind]float64)
	}
	d.shares[wanted] += d.latest
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

// missing is the kind of which there should be one more among so many processes: the one that is wanted most of those
// that are wanted more than they are there, else the usual one, which isMissed tells.
func (d *demand) missing(have map[kind]int, total int) (best kind, isMissed bool) {
	most := 0.0
	best = d.usual
	for k, share := range d.shares {
		if have[k] < int(math.Round(share*float64(total))) && share > most {
			most, best, isMissed = share, k, true
		}
	}
	return best, isMissed
}

// spare reports whether there are more of a kind than should be.
func (d *demand) spare(k kind, have map[kind]int, total int) bool {
	return float64(have[k])-d.shares[k]*float64(total) >= d.slack
}
