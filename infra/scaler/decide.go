package main

import "time"

// limits are what the operator allows.
type limits struct {
	min, max int           // instances
	target   int           // percent of the places that may be reserved before the pool grows
	calm     time.Duration // for how long fewer instances must have been enough before one goes
}

// fleet is what the pool looks like.
type fleet struct {
	count    int // instances that the platform was asked for
	live     int // that hold a lease and take users
	capacity int // places of the live ones together
	reserved int // of those
}

// decide returns how many instances there should be; calm is for how long the fleet has been spare. It grows at once to
// what is needed and shrinks by one at a time. The gap between the two thresholds is what keeps it from swinging: what
// it grew to is not spare, and what it shrank to is not in need.
func decide(f fleet, l limits, calm time.Duration) int {
	count := f.count
	if need := f.need(l); need > count {
		count = need
	} else if f.spare(l) && calm >= l.calm {
		count--
	}
	return max(l.min, min(l.max, count))
}

// need is the least number of instances of the live ones' mean size that are not filled over the target. Where none
// lives nothing is known, and the count is as good as any other.
func (f fleet) need(l limits) int {
	if f.live == 0 || f.capacity == 0 {
		return f.count
	}
	places := l.target * f.capacity
	return (100*f.reserved*f.live + places - 1) / places
}

// spare says whether one instance less would be filled to three quarters of the target at most. It never is while some
// instance doesn't report: what that one holds isn't known.
func (f fleet) spare(l limits) bool {
	return f.count > l.min && f.live >= f.count && 4*100*f.reserved*f.live <= 3*l.target*f.capacity*(f.count-1)
}
