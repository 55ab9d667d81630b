package pool

import (
	"context"
	"errors"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"claudepool/infra/telemetry"
	"claudepool/pool/api"
	"claudepool/pool/broker"
	"claudepool/pool/claude"
	"claudepool/pool/cli"
	"claudepool/pool/standby"
)

func newStandbys(p *Pool) *standby.Keeper {
	opts := keeperOptions(p)
	opts.Min, opts.Room = p.opts.Standby, p.table.room
	return standby.New(opts)
}

// keeperOptions are those of all that is started in advance.
func keeperOptions(p *Pool) standby.Options {
	mode := p.opts.PermissionMode
	return standby.Options{
		Logger: p.opts.Logger, Starter: p.starter,
		CLI:          claude.Options{PermissionMode: mode, AllowBypass: mode == "bypassPermissions"},
		StartTimeout: p.opts.SpawnTimeout, FreezeAfter: p.opts.FreezeAfter, Quiet: p.tuning.quiet,
		MemoryShort: p.opts.MemoryShort, Changed: func() { signal(p.changed) }, OnClaim: p.tuning.onClaim,
	}
}

// claim makes a standby the conversation's process, for which room was reserved. The error is standby.ErrNone if none
// fits.
func (s *slot) claim(ctx context.Context, credential broker.Credential) (*cli.Process, error) {
	if !s.fitsStandby() {
		return nil, standby.ErrNone
	}
	ctx, span := telemetry.Span(ctx, "claim standby")
	claimed, err := s.pool.standbys.Claim(ctx, credential, s.settings.System)
	endClaim(span, err)
	if err != nil {
		return nil, err
	}
	if !s.named {
		s.rename(claimed.Session)
	} else if err := claimed.Serve(s.id); err != nil {
		s.pool.opts.Logger.Warn("a conversation's files have no paths of its id", "user", api.ShortUser(s.user.id),
			"error", err)
	}
	if err := s.moveInto(claimed.Folder); err != nil {
		return nil, errors.Join(err, claimed.Discard())
	}
	if s.pool.parks() {
		s.wish = s.wishes() // for when it comes back
	}
	return claimed.Process, nil
}

// endClaim ends the span of a claim. That there was none to be claimed is no failure.
func endClaim(span trace.Span, err error) {
	span.SetAttributes(attribute.Bool("claudepool.claimed", err == nil))
	if errors.Is(err, standby.ErrNone) {
		err = nil
	}
	telemetry.End(span, err)
}

// fitsStandby reports whether the conversation can begin with a process that was started without knowing of it.
func (s *slot) fitsStandby() bool {
	return s.dir == nil && !s.mirror.fetch && (s.fresh || !s.named) && len(s.seed.Before) == 0 &&
		s.settings.Fallback == "" && !s.settings.Background && !s.settings.Interactive &&
		s.settings.First == nil
}
