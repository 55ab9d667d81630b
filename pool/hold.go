package pool

import (
	"context"

	"claudepool/pool/api"
)

// Hold has the user stay this instance's until it is let go: meanwhile no other instance begins a turn of the user's.
// The error is the Ownership's, ErrDraining or ctx's cause.
func (p *Pool) Hold(ctx context.Context, req *api.Request, outage bool) (letGo func(), err error) {
	u, err := p.joinOwned(ctx, req, outage)
	if err != nil {
		return nil, err
	}
	return u.leave, nil
}
