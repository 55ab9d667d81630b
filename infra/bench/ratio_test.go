package main

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

// rounds are pairs of times with the scatter of a shared machine: a round has its own luck, and now and then a request
// takes ten times as long.
func rounds(random *rand.Rand, n, pairs int, luck, ratio float64) [][]pair {
	all := make([][]pair, n)
	for i := range all {
		lucky := math.Exp(luck * random.NormFloat64())
		for range pairs {
			p := pair{1, ratio * lucky}
			for side := range p {
				p[side] *= math.Exp(0.1 * random.NormFloat64())
				if random.IntN(20) == 0 {
					p[side] *= 10
				}
			}
			all[i] = append(all[i], p)
		}
	}
	return all
}

func TestRatio_KnownNumbers(t *testing.T) {
	one := compare([][]pair{{{10, 11}, {10, 20}, {10, 10}}}, 4000)
	require.InDelta(t, 1.1, one.ratio, 1e-9, "the middle one")
	require.Zero(t, one.low, "a single round says nothing about others")
	require.Equal(t, math.Inf(1), one.high)
	require.Equal(t, "undecided", one.verdict())

	// A quarter of the draws have only the one round, a quarter only the other: the interval, before it is widened.
	two := compare([][]pair{{{100, 100}}, {{100, 121}}}, 4000)
	require.InDelta(t, 1.1, two.ratio, 1e-9, "medians of ratios are taken as of factors")
	require.InDelta(t, math.Pow(1.1, widening(2)), two.high/two.ratio, 1e-9)
	require.InDelta(t, two.high/two.ratio, two.ratio/two.low, 1e-9)

	require.Equal(t, two, compare([][]pair{{{100, 100}}, {{100, 121}}}, 4000), "the same numbers, the same interval")
}

func TestRatio_WideningIsStudents(t *testing.T) {
	require.InDelta(t, 2.262/1.960*math.Sqrt(10.0/9), widening(10), 0.005)
	require.InDelta(t, 2.086/1.960*math.Sqrt(21.0/20), widening(21), 0.005)
	require.InDelta(t, 1, widening(10_000), 0.001)
}

func TestRatio_AShiftIsFoundAndNothingIsNotFound(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	same := compare(rounds(random, 12, 50, 0, 1), 2000)
	require.Less(t, same.low, 1.0)
	require.Greater(t, same.high, 1.0)
	require.Less(t, same.high, 1.05)
	require.Equal(t, "no slower by 5 %", same.verdict())

	slower := compare(rounds(random, 12, 50, 0, 1.2), 2000)
	require.Greater(t, slower.low, 1.05)
	require.InDelta(t, 1.2, slower.ratio, 0.03)
	require.Equal(t, "slower by 5 %", slower.verdict())

	faster := compare(rounds(random, 12, 50, 0, 0.8), 2000)
	require.Equal(t, "faster", faster.verdict())
}

// What an interval of 95 % has to be is this: of many, 95 % have the true ratio within.
func TestRatio_TheIntervalHoldsTheTruthAsOftenAsItSays(t *testing.T) {
	random := rand.New(rand.NewPCG(5, 6))
	for _, c := range []struct {
		rounds, pairs int
		luck          float64
	}{{10, 6, 0}, {10, 6, 0.05}, {12, 2, 0.05}} {
		held := 0
		const runs = 150
		for range runs {
			if i := compare(rounds(random, c.rounds, c.pairs, c.luck, 1.1), 300); i.low <= 1.1 && 1.1 <= i.high {
				held++
			}
		}
		require.GreaterOrEqual(t, held, runs*90/100, "%+v", c)
	}
}

func TestRatio_Verdicts(t *testing.T) {
	for want, i := range map[string]interval{
		"faster":                   {low: 0.8, high: 0.99},
		"no slower by 5 %":         {low: 0.98, high: 1.04},
		"slower, by less than 5 %": {low: 1.01, high: 1.04},
		"slower":                   {low: 1.01, high: 1.2},
		"slower by 5 %":            {low: 1.06, high: 1.2},
		"undecided":                {low: 0.9, high: 1.05},
	} {
		require.Equal(t, want, i.verdict())
	}
}
