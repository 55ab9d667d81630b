package standby

import (
	"math"
	"time"
)

const (
	// burstTime is the time within which arrivals count as one burst: about what it takes to replace a process.
	burstTime = 5 * time.Second
	// burstMemory is how long a burst is remembered, roughly.
	burstMemory = 10 * time.Minute
	// blankShare is the weight of the latest arrival in the share of those with a system prompt.
	blankShare = 0.25
)

// demand follows how many new conversations begin at once, so that as many processes can be ready for the next burst.
type demand struct {
	last   time.Time // when the figures below were right
	burst  float64   // arrivals of the last moments, fading
	peak   float64   // the highest burst lately, fading slowly
	blanks float64   // share of arrivals that only a blank process fits
}

// count counts a new conversation.
func (d *demand) count(now time.Time, blank bool) {
	d.fade(now)
	d.burst++
	d.peak = max(d.peak, d.burst)
	d.blanks *= 1 - blankShare
	if blank {
		d.blanks += blankShare
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

// wantsBlank reports whether of total processes more should be blank ones than are.
func (d *demand) wantsBlank(blanks, total int) bool {
	return blanks < int(math.Round(d.blanks*float64(total)))
}
