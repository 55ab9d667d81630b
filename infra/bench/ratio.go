package main

import (
	"math"
	"math/rand/v2"
	"slices"
)

// The two sides of a comparison.
const (
	base = iota // the commit
	now         // the working tree
)

// pair is what both sides took for the same, one right after the other. More is slower, of whatever it is.
type pair [2]float64

// interval is the ratio of now to base, and where it lies with 95 % confidence.
type interval struct{ ratio, low, high float64 }

// compare estimates the ratio from rounds of pairs; resamples is how often the rounds are drawn again.
//
// It is the median of the pairs' ratios: the times of a shared machine have tails in which one request takes ten times
// as long, and a single one would move a mean of hundreds by a hundredth. A pair shares what the machine did meanwhile.
//
// The interval is that of a bootstrap over the rounds. Whole rounds are drawn, since the pairs of one have the same
// processes, whose luck with memory and cores they share: hundreds of pairs tell less than hundreds of processes would.
// As the rounds are few, what is drawn from them scatters less than they do; the interval is widened by as much as
// Student's is wider than the normal distribution's.
// (golang.org/x/perf/benchmath compares samples that are not paired, and gives no interval of a ratio.)
func compare(rounds [][]pair, resamples int) interval {
	logs := make([][]float64, len(rounds))
	for i, pairs := range rounds {
		for _, p := range pairs {
			logs[i] = append(logs[i], math.Log(p[now]/p[base]))
		}
	}
	middle := median(slices.Concat(logs...))
	if len(rounds) < 2 {
		return interval{ratio: math.Exp(middle), high: math.Inf(1)} // nothing tells how rounds scatter
	}
	random := rand.New(rand.NewPCG(1, 2)) // the same numbers always give the same interval
	drawn, medians := make([][]float64, len(logs)), make([]float64, resamples)
	for i := range medians {
		for j := range drawn {
			drawn[j] = logs[random.IntN(len(logs))]
		}
		medians[i] = median(slices.Concat(drawn...))
	}
	wide := widening(len(rounds))
	edge := func(q float64) float64 { return math.Exp(middle + wide*(quantile(medians, q)-middle)) }
	return interval{ratio: math.Exp(middle), low: edge(0.025), high: edge(0.975)}
}

// widening is how much wider than a bootstrap's the interval of n rounds, two or more, has to be: by √(n/(n-1)), as
// deviations are from the rounds' own middle, and by Student's quantile over the normal one, by its expansion in
// 1/(n-1).
func widening(n int) float64 {
	const z = 1.959964
	f := float64(n - 1)
	student := z + (z*z*z+z)/(4*f) + (5*math.Pow(z, 5)+16*z*z*z+3*z)/(96*f*f)
	return student / z * math.Sqrt(float64(n)/f)
}

// verdict says what the interval allows to say. "No slower by 5 %" is what changes are held to.
func (i interval) verdict() string {
	const bound = 1.05
	switch {
	case i.high < 1:
		return "faster"
	case i.low > 1 && i.high < bound:
		return "slower, by less than 5 %"
	case i.high < bound:
		return "no slower by 5 %"
	case i.low > bound:
		return "slower by 5 %"
	case i.low > 1:
		return "slower"
	}
	return "undecided"
}
