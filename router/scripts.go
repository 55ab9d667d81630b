// Package router knows which pool instance a user belongs to. Fronts ask it where to send a request (Router), instances
// hold a lease with it and ask whether a user is theirs (Lease). All of it stands in Redis, in a few Lua scripts.
//
// What it guarantees: as long as fronts and instances reach the same Redis, or none of them does, at most one instance
// begins turns of a user. What it doesn't: across a split network, where some reach Redis and some don't, a user may be
// served on both sides for a while.
package router

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// Lease times. An instance whose last renewal was sent more than LeaseTime − Margin ago takes itself for dead, so it
// stops before anybody else may take its users.
const (
	LeaseTime = 10 * time.Second
	Margin    = 2 * time.Second
	renewTime = 3 * time.Second
	retryTime = 500 * time.Millisecond
)

// ownerTTL is how long an owner entry lives that nobody refreshes: it only sweeps what a crash leaves. Instances
// refresh the entries of the users they hold every refreshEvery.
const ownerTTL = 15 * time.Minute

//go:embed epoch.lua
var epochSource string

//go:embed claim.lua
var claimSource string

//go:embed beat.lua
var beatSource string

//go:embed assert.lua
var assertSource string

//go:embed own.lua
var ownSource string

//go:embed release.lua
var releaseSource string

//go:embed place.lua
var placeSource string

//go:embed living.lua
var livingSource string

//go:embed together.lua
var togetherSource string

var (
	claimScript   = redis.NewScript(epochSource + claimSource)
	beatScript    = redis.NewScript(epochSource + beatSource)
	assertScript  = redis.NewScript(epochSource + assertSource)
	ownScript     = redis.NewScript(epochSource + ownSource)
	releaseScript = redis.NewScript(releaseSource)
	placeScript   = redis.NewScript(placeSource)
	livingScript  = redis.NewScript(livingSource)

	togetherScript = redis.NewScript(epochSource + togetherSource)
)

// Redis is what this package needs of go-redis: running scripts and a few plain commands.
type Redis interface {
	redis.Scripter
	redis.Cmdable
}

// The library would tell its own log of every dial that fails; this package tells the service's of an outage, once.
func init() { logging.Disable() }

// NewClient connects to a redis:// or rediss:// URL with time-outs that suit a request's way: nobody waits long for a
// Redis that is away. ca holds the certificates, in PEM form, that may have signed the server's; empty is those the
// system trusts. The error does not hold the URL, which may hold a password.
func NewClient(url, ca string) (*redis.Client, error) {
	opts, err := redis.ParseURL(url)
	if err != nil {
		return nil, errors.New("router: not a Redis URL")
	}
	if ca != "" && opts.TLSConfig != nil {
		opts.TLSConfig.RootCAs = x509.NewCertPool()
		if !opts.TLSConfig.RootCAs.AppendCertsFromPEM([]byte(ca)) {
			return nil, errors.New("router: no certificate among those for Redis")
		}
	}
	opts.DialTimeout, opts.ReadTimeout, opts.WriteTimeout = time.Second, time.Second, time.Second
	opts.ContextTimeoutEnabled = true
	opts.MaxRetries, opts.DialerRetries = 1, 1
	opts.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	return redis.NewClient(opts), nil
}

// awaitPause is the time between two tries of Await.
const awaitPause = time.Second

// Await returns when Redis has answered, which a new instance on a platform's network may wait a minute for. The error
// is ctx's cause.
func Await(ctx context.Context, client Redis, log *slog.Logger) error {
	for isFirst := true; ; isFirst = false {
		err := client.Ping(ctx).Err()
		if err == nil {
			return nil
		}
		if isFirst {
			log.Warn("Redis is awaited", "error", err)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(awaitPause):
		}
	}
}

// All keys share one hash slot, as the scripts touch several at a time.
//
// Under this prefix releases share what is in Redis: later ones may add keys, fields, and arguments and results at the
// end, and take what isn't there for what the first release meant. What an older script would misread needs another
// prefix, and then the old release has to be gone before the new one begins: each would place users without the other.
const prefix = "{claudepool}:"

const (
	epochKey      = prefix + "era" // as stored
	candidatesKey = prefix + "candidates"
	evictableKey  = prefix + "evictable"
	pendingKey    = prefix + "pending"
	instanceKeys  = prefix + "instance:"
)

func instanceKey(id string) string { return instanceKeys + id }
func evictKey(id string) string    { return prefix + "evict:" + id }
func endedKey(id string) string    { return prefix + "ended:" + id }
func ownerKey(user string) string  { return prefix + "owner:" + user }
func homeKey(user string) string   { return prefix + "home:" + user }
func leftKey(user string) string   { return prefix + "left:" + user }
func provenKey(user string) string { return prefix + "proven:" + user }

// random returns n random bytes as hex digits.
func random(n int) string {
	b := make([]byte, n)
	rand.Read(b)
	return hex.EncodeToString(b)
}

// text reads one string of a script's answer.
func text(answer []any, i int) (string, error) {
	if i < len(answer) {
		if s, ok := answer[i].(string); ok {
			return s, nil
		}
	}
	return "", fmt.Errorf("router: unexpected answer of a script: %v", answer)
}

// EndSettling ends the waiting time of a Redis that has just come up. It is only for one in which nobody can hold
// anything from before, as one that was born with this process.
func EndSettling(ctx context.Context, client Redis) error {
	if err := ownScript.Run(ctx, client, []string{epochKey}, 0, "").Err(); err != nil {
		return fmt.Errorf("router: settle: %w", err)
	}
	return client.HSet(ctx, epochKey, "since", 0).Err()
}
