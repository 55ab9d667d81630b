package function

import (
	"context"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/go-redis/redis_rate/v10"

	"claudepool/infra/settings"
	"claudepool/pool/api"
	"claudepool/router"
)

const (
	// limitTimeout is how long a request may wait for its count.
	limitTimeout = time.Second
	// limitPause is how long Redis isn't asked for counts after it did not answer.
	limitPause = time.Second
	// siteShare is how many of its 65,536 networks a site may have ask at once: with all of them it would pass any limit.
	siteShare = 16
)

// Limits are how often users and addresses may ask. The counts are in Redis, so that all fronts share them. While Redis
// is away nobody is limited: known users are served as before, and unknown ones can't be placed anyway. A nil *Limits
// limits nobody.
type Limits struct {
	limiter    *redis_rate.Limiter
	users      redis_rate.Limit
	addrs      redis_rate.Limit
	timeout    time.Duration
	answered   atomic.Int64 // when Redis last did, in Unix nanoseconds
	askedAgain atomic.Int64 // when, after it did not; 0 if it did
}

// NewLimits returns limits whose rates may be zero: that one is off then, and costs nothing.
func NewLimits(redis router.Redis, users, addrs settings.Rate) *Limits {
	return &Limits{limiter: redis_rate.NewLimiter(redis), users: limitOf(users), addrs: limitOf(addrs),
		timeout: limitTimeout}
}

func limitOf(r settings.Rate) redis_rate.Limit {
	return redis_rate.Limit{Rate: r.Requests, Burst: r.Requests, Period: r.Per}
}

// user counts a request of the user. Its error is a 429.
func (l *Limits) user(ctx context.Context, header http.Header, user string) error {
	if l == nil || l.users.Rate == 0 {
		return nil
	}
	return l.count(ctx, header, "claudepool:user:"+user, l.users)
}

// address is as user. All addresses of a site together may ask siteShare times as often as one; empty is no site.
func (l *Limits) address(ctx context.Context, header http.Header, addr, site string) error {
	if l == nil || l.addrs.Rate == 0 {
		return nil
	}
	err := l.count(ctx, header, "claudepool:addr:"+addr, l.addrs)
	if err != nil || site == "" {
		return err
	}
	all := l.addrs
	all.Rate, all.Burst = siteShare*all.Rate, siteShare*all.Burst
	return l.count(ctx, http.Header{}, "claudepool:site:"+site, all) // what is left of it is no client's business
}

const headerRemaining = "Anthropic-Ratelimit-Requests-Remaining"

// count tells the client in the Messages API's headers how many requests are left, of what there are fewest.
func (l *Limits) count(ctx context.Context, header http.Header, key string, limit redis_rate.Limit) error {
	now := time.Now()
	again := l.askedAgain.Load()
	if now.UnixNano() < again {
		return nil
	}
	if again != 0 && !l.askedAgain.CompareAndSwap(again, now.Add(limitPause).UnixNano()) {
		return nil // one request at a time finds out whether Redis is back
	}
	asking, cancel := context.WithTimeout(ctx, l.timeout)
	defer cancel()
	result, err := l.limiter.Allow(asking, key, limit)
	if err != nil {
		// A burst that makes Redis slow must not lift the limits for everybody: it is away if it answers nobody. Of an
		// outage the router tells the log.
		if ctx.Err() == nil && l.answered.Load() < now.UnixNano() {
			l.askedAgain.Store(time.Now().Add(limitPause).UnixNano())
		}
		return nil
	}
	l.answered.Store(time.Now().UnixNano())
	l.askedAgain.Store(0)
	if left, err := strconv.Atoi(header.Get(headerRemaining)); err != nil || result.Remaining <= left {
		header.Set("Anthropic-Ratelimit-Requests-Limit", strconv.Itoa(limit.Rate))
		header.Set(headerRemaining, strconv.Itoa(result.Remaining))
		header.Set("Anthropic-Ratelimit-Requests-Reset", now.Add(result.ResetAfter).UTC().Format(time.RFC3339))
	}
	if result.Allowed == 0 {
		return api.RateLimited(max(result.RetryAfter, time.Second), "more than %d requests per %s", limit.Rate, limit.Period)
	}
	return nil
}
