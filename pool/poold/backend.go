package poold

import (
	"context"

	"claudepool/pool"
	"claudepool/pool/api"
	"claudepool/pool/server"
)

// Backend is a pool as the HTTP server wants it.
func Backend(p *pool.Pool) server.Backend { return backend{p} }

var _ source = backend{}

type backend struct{ pool *pool.Pool }

func (b backend) Acquire(ctx context.Context, req *api.Request, outage bool) (server.Turn, error) {
	return b.acquire(ctx, req, outage)
}

func (b backend) acquire(ctx context.Context, req *api.Request, outage bool) (turn, error) {
	if len(req.ClientTools) > 0 {
		part, err := b.pool.AcquireWithTools(ctx, req, outage)
		if err != nil {
			return nil, err
		}
		return part, nil
	}
	h, err := b.pool.Acquire(ctx, req, outage)
	if err != nil {
		return nil, err // and no Handle that is nil in a turn that isn't
	}
	return h, nil
}

func (b backend) Hold(ctx context.Context, req *api.Request, outage bool) (letGo func(), err error) {
	return b.pool.Hold(ctx, req, outage)
}

func (b backend) Attend(ctx context.Context, req *api.Request, outage bool) (context.Context, func(), error) {
	return b.pool.Attend(ctx, req, outage)
}

func (b backend) Allowed(req *api.Request) error { return b.pool.Allowed(req) }

func (b backend) Approves() bool { return b.pool.Approves() }

func (b backend) Delete(ctx context.Context, req *api.Request, outage bool) (int, error) {
	return b.pool.Forget(ctx, req, outage)
}

func (b backend) Answer(ctx context.Context, a *api.Answer, outage bool) error {
	return b.pool.Answer(ctx, a, outage)
}

func (b backend) List(ctx context.Context, req *api.Request, outage bool) ([]api.Conversation, error) {
	return b.pool.List(ctx, req, outage)
}

func (b backend) Said(ctx context.Context, req *api.Request, outage bool, before, limit int) (
	api.ConversationMessages, error) {
	return b.pool.Said(ctx, req, outage, before, limit)
}

func (b backend) Fork(ctx context.Context, req *api.Request, outage bool, id string) error {
	return b.pool.Fork(ctx, req, outage, id)
}

func (b backend) Pass(ctx context.Context, call api.Call) ([]byte, error) {
	return b.pool.Pass(ctx, call)
}
