package pool

import (
	"math"
	"time"
)

const (
	// burstTime is the time within which arrivals count as one burst: about what it takes to replace a standby.
	burstTime = 5 * time.Second
	// burstMemory is how long a burst is remembered, roughly.
	burstMemory = 10 * time.Minute
	// blankShare is the weight of the latest arrival in the share of those with a system prompt.
	blankShare = 0.25
)

// demand follows how many new conversations begin at once, so that as many standbys can be ready for the next burst.
type demand struct {
	at     time.Time
	burst  float64 // arrivals of the last moments, fading
	peak   float64 // the highest burst lately, fading slowly
	blanks float64 // share of arrivals that only a blank standby fits
}

// arrive counts a new conversation.
func (d *demand) arrive(now time.Time, blank bool) {
	d.fade(now)
	d.burst++
	d.peak = max(d.peak, d.burst)
	d.blanks *= 1 - blankShare
	if blank {
		d.blanks += blankShare
	}
}

func (d *demand) fade(now time.Time) {
	if !d.at.IsZero() {
		passed := now.Sub(d.at).Seconds()
		d.burst *= math.Exp(-passed / burstTime.Seconds())
		d.peak *= math.Exp(-passed / burstMemory.Seconds())
	}
	d.at = now
}

// atOnce is how many standbys the bursts of late would have used.
func (d *demand) atOnce(now time.Time) int {
	d.fade(now)
	return int(math.Round(d.peak))
}

// wantsBlank reports whether of total standbys more should be blank ones than are.
func (d *demand) wantsBlank(blanks, total int) bool {
	return blanks < int(math.Round(d.blanks*float64(total)))
}
