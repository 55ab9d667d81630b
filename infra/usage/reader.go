package usage

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// ErrRestoring says that Redis has lost the sums and doesn't have all of them back from Firestore.
var ErrRestoring = errors.New("usage: sums are being restored")

// Row is what calls of one model took for a subject on a day.
type Row struct {
	Day  string
	User string // empty where it is a key's
	Key  string // of the service, empty where it is a user's
	ModelSum
}

// Reader reads the sums. Its methods may be called concurrently.
type Reader struct{ redis Redis }

// NewReader returns a Reader.
func NewReader(client Redis) *Reader { return &Reader{client} }

// Days are the days from the first to the last one, which are days as Day writes them.
func Days(first, last string) (days []string) {
	day, err := time.Parse(time.DateOnly, first)
	for err == nil && Day(day) <= last && len(days) <= KeepDays {
		days = append(days, Day(day))
		day = day.AddDate(0, 0, 1)
	}
	return days
}

// Of returns the rows of a user, by day and model. The error is ErrRestoring or Redis'.
func (r *Reader) Of(ctx context.Context, user string, days []string) ([]Row, error) {
	return r.rows(ctx, days, []string{user})
}

// All returns the rows of all subjects behind after in the order of their names, at most so many of them, and the last
// of those if there are more. Users come before keys.
func (r *Reader) All(ctx context.Context, days []string, after string, most int) (rows []Row, next string, err error) {
	from := "-"
	if after != "" {
		from = "(" + after
	}
	lists := make([]*redis.StringSliceCmd, len(days))
	_, err = r.redis.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, day := range days {
			lists[i] = p.ZRangeByLex(ctx, subjectsKey(day), &redis.ZRangeBy{Min: from, Max: "+", Count: int64(most) + 1})
		}
		return nil
	})
	if err != nil {
		return nil, "", err
	}
	var subjects []string
	for _, list := range lists {
		subjects = append(subjects, list.Val()...)
	}
	slices.Sort(subjects)
	if subjects = slices.Compact(subjects); len(subjects) > most {
		subjects = subjects[:most]
		next = subjects[most-1]
	}
	rows, err = r.rows(ctx, days, subjects)
	return rows, next, err
}

// readAtOnce is of how many subjects' days Redis is asked at a time.
const readAtOnce = 500

func (r *Reader) rows(ctx context.Context, days, subjects []string) (rows []Row, err error) {
	type place struct{ subject, day string }
	var places []place
	for _, subject := range subjects {
		for _, day := range days {
			places = append(places, place{subject, day})
		}
	}
	if len(places) == 0 {
		return nil, r.whole(ctx)
	}
	for some := range slices.Chunk(places, readAtOnce) {
		if err := r.whole(ctx); err != nil {
			return nil, err
		}
		sums := make([]*redis.MapStringStringCmd, len(some))
		_, err := r.redis.Pipelined(ctx, func(p redis.Pipeliner) error {
			for i, at := range some {
				sums[i] = p.HGetAll(ctx, sumsKey(at.day, at.subject))
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		for i, at := range some {
			for _, of := range sumsOf(sums[i].Val()) {
				row := Row{Day: at.day, User: at.subject, ModelSum: of}
				if key, isKey := strings.CutPrefix(at.subject, keySubject); isKey {
					row.User, row.Key = "", key
				}
				rows = append(rows, row)
			}
		}
	}
	return rows, nil
}

// whole tells whether Redis has all there is.
func (r *Reader) whole(ctx context.Context) error {
	n, err := r.redis.Exists(ctx, wholeKey).Result()
	if err == nil && n == 0 {
		err = ErrRestoring
	}
	return err
}

// Spent is what a subject has spent on each of the last days, in billionths of a dollar, today first: also what has
// become another user's since. The error is ErrRestoring or Redis'.
func (r *Reader) Spent(ctx context.Context, subject string, days int) ([]int64, error) {
	now := time.Now()
	costs := make([]*redis.SliceCmd, days)
	var whole *redis.IntCmd
	_, err := r.redis.Pipelined(ctx, func(p redis.Pipeliner) error {
		whole = p.Exists(ctx, wholeKey)
		for i := range costs {
			costs[i] = p.HMGet(ctx, sumsKey(Day(now.AddDate(0, 0, -i)), subject), totalField, movedField)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if whole.Val() == 0 {
		return nil, ErrRestoring
	}
	spent := make([]int64, days)
	for i, c := range costs {
		for _, field := range c.Val() {
			text, _ := field.(string)
			n, _ := strconv.ParseInt(text, 10, 64) // 0 where there is none
			spent[i] += n
		}
	}
	return spent, nil
}
