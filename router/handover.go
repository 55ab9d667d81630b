package router

import (
	"context"
	"errors"

	"github.com/redis/go-redis/v9"
)

// Claim is the number of the claim by which the user is held here, or empty. As long as it is the same, nobody else has
// been the user's owner.
func (l *Lease) Claim(user string) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.claims[user].claim
}

// Left returns what an owner of the user before this one has handed over, nil if nothing is there.
func (l *Lease) Left(ctx context.Context, user string) ([]byte, error) {
	left, err := l.redis.Get(ctx, leftKey(user)).Bytes()
	if errors.Is(err, redis.Nil) {
		return nil, nil
	}
	return left, err
}

// DropLeft deletes it.
func (l *Lease) DropLeft(ctx context.Context, user string) error {
	return l.redis.Del(ctx, leftKey(user)).Err()
}
