// Package usage keeps what API calls took: sums for each user, day and model. Instances write them down (Ledger) in
// Redis, and hour by hour in Firestore, from where they come back if Redis has lost them; fronts read them (Reader).
// Who may spend how much is for others to decide.
package usage

import (
	_ "embed"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"claudepool/infra/prices"
)

// KeepDays is for how many days, with today, sums are kept.
const KeepDays = 62

// keep is how long a day's sums stay in Redis after they were written last.
const keep = (KeepDays + 1) * 24 * time.Hour

// Redis is what this package needs of go-redis.
type Redis interface {
	redis.Scripter
	redis.Cmdable
}

// All keys share one hash slot, as scripts touch several at a time. Releases share what is in Redis: later ones may add
// fields and keys.
const prefix = "{claudepool}:usage:"

const (
	wholeKey    = prefix + "whole"    // is there as long as Redis has lost nothing since Firestore was asked
	copiedKey   = prefix + "copied"   // is there for an hour after the sums were copied to Firestore
	uncopiedKey = prefix + "uncopied" // by subject and day: how often something was added since the last copy
	restoredKey = prefix + "restored" // while sums come back: what is back already, by subject and day
	heirsKey    = prefix + "heirs"    // while sums come back: whose those of former users are by now
)

func sumsKey(day, subject string) string { return prefix + "sums:" + day + ":" + subject }
func subjectsKey(day string) string      { return prefix + "subjects:" + day }
func lastKey(ledger string) string       { return prefix + "last:" + ledger }

//go:embed add.lua
var addSource string

//go:embed move.lua
var moveSource string

//go:embed restore.lua
var restoreSource string

//go:embed copied.lua
var copiedSource string

var (
	addScript     = redis.NewScript(addSource)
	moveScript    = redis.NewScript(moveSource)
	restoreScript = redis.NewScript(restoreSource)
	copiedScript  = redis.NewScript(copiedSource)
)

// keySubject is what sums of a service key are kept under, beside those of users.
const keySubject = "key-"

// OfKey is the subject whose sums are those of a service key.
func OfKey(key string) string { return keySubject + key }

// Day is the day of a moment, in UTC, as 2026-11-28.
func Day(t time.Time) string { return t.UTC().Format(time.DateOnly) }

// Sum is what some calls took.
type Sum struct {
	Calls, Input, Output, CacheRead, CacheWrite5m, CacheWrite1h int64 // calls, and tokens
	WebSearches                                                 int64
	Cost                                                        int64 // in billionths of a dollar
}

// Of is what one call took.
func Of(c prices.Call) Sum {
	return Sum{1, c.Input, c.Output, c.CacheRead, c.CacheWrite5m, c.CacheWrite1h, c.WebSearches, prices.Cost(c)}
}

// parts are the names that a sum's numbers have in Redis and in Firestore.
var parts = [...]string{"calls", "input", "output", "read", "write5m", "write1h", "searches", "cost"}

func (s *Sum) numbers() [len(parts)]*int64 {
	return [...]*int64{&s.Calls, &s.Input, &s.Output, &s.CacheRead, &s.CacheWrite5m, &s.CacheWrite1h, &s.WebSearches,
		&s.Cost}
}

// Add adds what others took.
func (s *Sum) Add(o Sum) {
	more := o.numbers()
	for i, n := range s.numbers() {
		*n += *more[i]
	}
}

// Sums are sums by model, few of them.
type Sums []ModelSum

// ModelSum is what calls of one model took.
type ModelSum struct {
	Model string
	Sum
}

// Add adds what calls of a model took.
func (s *Sums) Add(model string, what Sum) {
	for i := range *s {
		if (*s)[i].Model == model {
			(*s)[i].Add(what)
			return
		}
	}
	*s = append(*s, ModelSum{model, what})
}

// totalField has the money of all models.
const totalField = "cost"

// movedField has the money that was counted for a user who then got another token, whose sums have it by now.
const movedField = "moved"

// fields calls f with each number as it is kept.
func (s Sums) fields(f func(name string, n int64)) {
	for _, of := range s {
		for i, n := range of.numbers() {
			if *n != 0 {
				f(of.Model+":"+parts[i], *n)
			}
		}
		f(totalField, of.Cost)
	}
}

// sumsOf reads what is kept, by model in the order of their names. What it doesn't know it leaves out.
func sumsOf(kept map[string]string) Sums {
	byModel := make(map[string]*Sum)
	for field, text := range kept {
		model, part, isPart := strings.Cut(field, ":")
		n, err := strconv.ParseInt(text, 10, 64)
		at := slices.Index(parts[:], part)
		if !isPart || err != nil || at < 0 {
			continue
		}
		if byModel[model] == nil {
			byModel[model] = new(Sum)
		}
		*byModel[model].numbers()[at] = n
	}
	var all Sums
	for _, model := range slices.Sorted(maps.Keys(byModel)) {
		all = append(all, ModelSum{model, *byModel[model]})
	}
	return all
}
