// Package prices knows what the API's calls cost, by a table that has a date. It counts nothing and keeps nothing.
package prices

import (
	"bytes"
	_ "embed"
	"encoding/csv"
	"fmt"
	"math"
	"regexp"
	"strconv"
)

// Other is the name of all models that aren't in the table. Each counts as the dearest there is.
const Other = "other"

// Dollar is a dollar in billionths, which all amounts of money are in: the smallest price of a token is ten of them.
const Dollar = 1_000_000_000

// search is what a search of the web costs that the API makes: 10 dollars per thousand.
const search = Dollar / 100

// Call is what the API says that one call took.
type Call struct {
	Model                                                string
	Input, Output, CacheRead, CacheWrite5m, CacheWrite1h int64 // tokens
	WebSearches                                          int64
	Fast                                                 bool // it was served in fast mode
}

// rate is what a token costs, in billionths of a dollar, and how many times as much in fast mode.
type rate struct{ input, output, read, write5m, write1h, fast int64 }

// tariff is a model's rates. The second one is for calls with a longer prompt.
type tariff struct {
	usual, long rate
	above       int64 // tokens of a prompt that isn't long; 0: none is
}

//go:embed prices.csv
var source []byte

var (
	tariffs = parse(source)
	dearest = dearestOf(tariffs)
	// version is what the API appends to a model's name, and clients to ask for its long context.
	version = regexp.MustCompile(`(-20[0-9]{6})?(\[1m\])?$`)
)

// Name is the model's name in the table, which is without a date, or Other.
func Name(model string) string {
	name := version.ReplaceAllString(model, "")
	if _, known := tariffs[name]; known {
		return name
	}
	return Other
}

// Cost is what the call costs, in billionths of a dollar.
func Cost(c Call) int64 {
	t, known := tariffs[Name(c.Model)]
	if !known {
		t = tariff{usual: dearest}
	}
	r := t.usual
	if t.above > 0 && c.Input+c.CacheRead+c.CacheWrite5m+c.CacheWrite1h > t.above {
		r = t.long
	}
	cost := c.Input*r.input + c.Output*r.output + c.CacheRead*r.read + c.CacheWrite5m*r.write5m + c.CacheWrite1h*r.write1h
	if c.Fast {
		cost *= r.fast
	}
	return cost + c.WebSearches*search
}

// parse reads the table. It is part of the program: whatever is wrong with it shows at the first start.
func parse(text []byte) map[string]tariff {
	reader := csv.NewReader(bytes.NewReader(text))
	reader.Comment = '#'
	lines, err := reader.ReadAll()
	if err != nil {
		panic(fmt.Errorf("prices: %w", err))
	}
	all := make(map[string]tariff)
	for _, line := range lines[1:] {
		var n [7]float64
		for i := range n {
			if n[i], err = strconv.ParseFloat(line[i+1], 64); err != nil {
				panic(fmt.Errorf("prices: %w", err))
			}
		}
		r := rate{perToken(n[1]), perToken(n[2]), perToken(n[3]), perToken(n[4]), perToken(n[5]), int64(n[6])}
		t := all[line[0]]
		if above := int64(n[0]); above == 0 {
			t.usual = r
		} else {
			t.long, t.above = r, above
		}
		all[line[0]] = t
	}
	return all
}

// perToken makes dollars per million tokens what one costs.
func perToken(dollars float64) int64 { return int64(math.Round(dollars * Dollar / 1_000_000)) }

func dearestOf(all map[string]tariff) (d rate) {
	for _, t := range all {
		for _, r := range []rate{t.usual, t.long} {
			d = rate{max(d.input, r.input), max(d.output, r.output), max(d.read, r.read), max(d.write5m, r.write5m),
				max(d.write1h, r.write1h), max(d.fast, r.fast)}
		}
	}
	return d
}
