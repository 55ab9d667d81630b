package pool

import (
	"context"
	"errors"
	"math"
	"strconv"
	"sync/atomic"
	"time"

	"claudepool/infra/prices"
	"claudepool/infra/settings"
	"claudepool/infra/usage"
	"claudepool/pool/api"
)

// budgetTime is how long a call may wait for what has been spent. While that can't be told nobody is refused: Redis is
// away, or gets its sums back.
const (
	budgetTime = time.Second
	// budgetPause is how long nobody asks after that.
	budgetPause = 3 * time.Second
)

// The codes by which clients know what is spent.
const (
	codeUser    = "user_budget_spent"
	codeKey     = "key_budget_spent"
	codeRequest = "max_budget_usd_spent"
	codeTurns   = "max_turns_reached"
)

// budgets are what users, and all who come by one key of the service, may spend. Its methods may be called
// concurrently.
type budgets struct {
	user, key settings.Budget
	ledger    *usage.Ledger
	reader    *usage.Reader
	askAgain  atomic.Int64 // when, after there was no answer, in Unix nanoseconds; 0 if there was one
}

// apply reports whether there are budgets that a request by the key counts for.
func (b *budgets) apply(key string) bool { return b.user.Nano > 0 || key != "" && b.key.Nano > 0 }

// check tells which budget is spent, nil if none is. What this instance has spent so far is in it.
func (b *budgets) check(ctx context.Context, user, key string) *api.Error {
	if !b.apply(key) {
		return nil
	}
	again, next := b.askAgain.Load(), time.Now().Add(budgetPause).UnixNano()
	if time.Now().UnixNano() < again || again != 0 && !b.askAgain.CompareAndSwap(again, next) {
		return nil // one call at a time finds out whether there are answers again
	}
	asking, cancel := context.WithTimeout(ctx, budgetTime)
	defer cancel()
	spent, err := b.ask(asking, user, key)
	switch {
	case err == nil, errors.Is(err, usage.ErrRestoring): // which it says at once
		b.askAgain.Store(0)
	case ctx.Err() == nil: // it is not the caller who has gone
		b.askAgain.Store(time.Now().Add(budgetPause).UnixNano())
	}
	return spent
}

// ask is as check. The error says that there is no answer.
func (b *budgets) ask(ctx context.Context, user, key string) (*api.Error, error) {
	if err := b.ledger.Flush(ctx); err != nil {
		return nil, err
	}
	spent, err := b.askOne(ctx, b.user, b.ledger.Present(user), "this user's", codeUser)
	if spent != nil || err != nil || key == "" {
		return spent, err
	}
	return b.askOne(ctx, b.key, usage.OfKey(key), "this service key's", codeKey)
}

func (b *budgets) askOne(ctx context.Context, of settings.Budget, subject, whose, code string) (*api.Error, error) {
	if of.Nano == 0 {
		return nil, nil
	}
	spent, err := b.reader.Spent(ctx, subject, of.Days)
	if err != nil {
		return nil, err
	}
	days := spentFor(spent, of.Nano)
	if days == 0 {
		return nil, nil
	}
	until := time.Now().UTC().Truncate(24*time.Hour).AddDate(0, 0, days)
	return api.Spent(code, "%s budget of %s is spent until %s", whose, of, until.Format(time.RFC3339)), nil
}

// spentFor is for how many days, with today, as much is spent as there is, by what was spent on each day, today first.
func spentFor(spent []int64, most int64) (days int) {
	for ; days < len(spent); days++ {
		var sum int64
		for _, n := range spent[:len(spent)-days] {
			sum += n
		}
		if sum < most {
			return days
		}
	}
	return days
}

// ownLimits are those of one request; 0 is none.
type ownLimits struct {
	nano  int64
	turns int
}

func ownLimitsOf(req *api.Request) (l ownLimits) {
	if req.MaxBudgetUSD != nil {
		l.nano = max(1, int64(math.Round(*req.MaxBudgetUSD*prices.Dollar)))
	}
	if req.MaxTurns != nil {
		l.turns = *req.MaxTurns
	}
	return l
}

// check tells which limit is reached by a request that has spent so much, and has had so many calls of its main
// conversation answered, of which another one is to be made or not.
func (l ownLimits) check(spent int64, turns int, isMain bool) *api.Error {
	switch {
	case l.nano > 0 && spent >= l.nano:
		dollars := strconv.FormatFloat(float64(l.nano)/prices.Dollar, 'f', -1, 64)
		return api.Spent(codeRequest, "max_budget_usd: the request has spent its %s dollars", dollars)
	case l.turns > 0 && isMain && turns >= l.turns:
		return api.Spent(codeTurns, "max_turns: the request has made its %d calls of the API", l.turns)
	}
	return nil
}
