// Package poold puts one pool instance together: pool, broker, lease, server and snapshots. It is all that
// pool/cmd/poold does, and what infra/local does several times in one process.
package poold

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"claudepool/infra/archive"
	"claudepool/infra/hop"
	"claudepool/infra/memory"
	"claudepool/infra/settings"
	"claudepool/infra/snapshot"
	"claudepool/infra/telemetry"
	"claudepool/infra/usage"
	"claudepool/pool"
	"claudepool/pool/broker"
	"claudepool/pool/confine"
	"claudepool/pool/server"
	"claudepool/pool/workspace"
	"claudepool/router"
)

const (
	// freezeAfter is long enough for a CLI to finish what it does after a turn.
	freezeAfter = 3 * time.Second
	// Ten seconds after Cloud Run has told an instance to end it kills it. What follows the drain is to fit into what is
	// left: answers that are still being sent, calls whose cost isn't known yet, and then Redis, twice.
	answerTimeout = 500 * time.Millisecond
	endTimeout    = 400 * time.Millisecond
)

// Parts are what an instance doesn't make itself.
type Parts struct {
	Logger   *slog.Logger
	Redis    router.Redis
	Store    snapshot.Store
	Archive  archive.Store // nil: conversations end with their instance
	Usage    usage.Store   // nil: what users took ends with Redis
	Listener net.Listener
	Addr     string // host:port where fronts reach the listener
	// Telemetry is what is measured and traced goes to; nil is nowhere.
	Telemetry *telemetry.Telemetry
}

// Instance is a running pool instance.
type Instance struct {
	settings settings.Pool
	log      *slog.Logger
	measured *telemetry.Telemetry
	measures *measures // nil while nothing is measured
	folder   *confine.Folder
	uids     *confine.UIDs    // nil while children run under the service's uid
	cgroups  *confine.Cgroups // nil where there are none
	launcher *confine.Launcher
	report   confine.Report
	broker   *broker.Broker
	pool     *pool.Pool
	lease    *router.Lease
	ledger   *usage.Ledger
	keeper   *usage.Keeper
	handler  *server.Server
	server   *http.Server

	beating   context.CancelFunc
	work      sync.WaitGroup
	serveErr  chan error
	published context.CancelFunc
}

// Start brings an instance up. It serves when Start returns, and has to be shut down.
func Start(s settings.Pool, parts Parts) (*Instance, error) {
	keys, err := hop.ParseKeys(s.HopKeys.Reveal())
	if err != nil {
		return nil, err
	}
	i := &Instance{settings: s, log: parts.Logger, measured: parts.Telemetry, serveErr: make(chan error, 1)}
	if err := i.prepare(); err != nil {
		i.abandon()
		return nil, err
	}
	capacity := s.MaxProcesses
	if capacity == 0 {
		capacity = processesForMemory()
	}
	certificate, err := hop.NewCertificate()
	if err != nil {
		i.abandon()
		return nil, err
	}
	i.lease = router.NewLease(parts.Redis, router.LeaseOptions{
		Logger: parts.Logger, Addr: parts.Addr, Fingerprint: hop.Fingerprint(certificate), Wire: hop.Version(),
		Capacity: capacity, HomeTTL: s.WorkspaceTTL,
		Load: func() (int, int) { return i.pool.Load() }, Full: func() bool { return i.pool.Full() },
		Evict:    func(user string) { i.pool.Evict(user) },
		HandOver: func(user, claim string) ([]byte, time.Duration) { return i.handler.HandOver(user, claim) },
	})
	i.ledger = usage.NewLedger(parts.Redis, parts.Logger)
	i.keeper = usage.NewKeeper(parts.Redis, parts.Usage, parts.Logger)
	opts := i.poolOptions(capacity)
	opts.Billed = i.measures.billed()
	opts.Ledger, opts.Usage = i.ledger, usage.NewReader(parts.Redis)
	opts.Archive, opts.ArchiveMaxBytes = parts.Archive, int64(s.ArchiveMaxBytes)
	i.pool = pool.New(opts, i.lease)
	if err := i.measures.observe(i.pool); err != nil {
		i.log.Warn("the pool is not measured", "error", err)
	}
	i.handler = server.New(i.measures.backend(backend{i.pool}, i.lease.ID()), server.Options{
		Logger: parts.Logger, Instance: i.lease.ID(), Keys: keys, MaxBodyBytes: int64(s.MaxBodyBytes), Memory: memory.Limit(),
		LogBytes: int64(s.LogMaxBytes),
		NotOwner: router.ErrNotOwner, NotNow: []error{router.ErrNotNow, pool.ErrDraining},
		Handover: i.lease,
	})
	i.server = &http.Server{
		Handler:   i.measured.Hop(i.handler),
		TLSConfig: hop.ServerTLS(certificate), Protocols: new(http.Protocols),
		ReadHeaderTimeout: 10 * time.Second, MaxHeaderBytes: 64 << 10,
		ErrorLog: slog.NewLogLogger(parts.Logger.Handler(), slog.LevelDebug),
	}
	i.server.Protocols.SetHTTP1(true) // alone: see ServerTLS
	i.run(parts)
	parts.Logger.Info("pool instance is serving", "instance", i.lease.ID(), "addr", parts.Addr, "capacity", capacity)
	return i, nil
}

// prepare makes what children need: a folder of this instance's own, a launcher, a broker.
func (i *Instance) prepare() error {
	bin, err := exec.LookPath(i.settings.ClaudeBin)
	if err == nil {
		bin, err = filepath.Abs(bin)
	}
	if err != nil {
		return fmt.Errorf("poold: CLAUDE_BIN: %w", err)
	}
	i.settings.ClaudeBin = bin
	if i.measures, err = newMeasures(i.measured); err != nil {
		return err
	}
	if i.folder, err = confine.LockFolder(i.settings.WorkspacesRoot, i.log); err != nil {
		return err
	}
	i.broker = broker.New(broker.Options{Upstream: &i.settings.AnthropicBaseURL, Logger: i.log,
		Measure: i.measures.calls(i.settings.TraceUpstream), Avoid: i.metricsPort()})
	return i.isolate()
}

func (i *Instance) poolOptions(capacity int) pool.Options {
	s := i.settings
	confined := i.report.InForce(confine.ProtectionUID, confine.ProtectionFiles, confine.ProtectionNetwork)
	mode := s.PermissionMode
	if mode == "" {
		mode = "default"
		if confined {
			mode = "bypassPermissions"
		}
	}
	return pool.Options{
		Logger: i.log, Launcher: i.launcher, Broker: i.broker, ClaudeBin: s.ClaudeBin, Workspaces: i.folder.Path(),
		Standby: s.Standby, Parked: s.Parked, MaxProcesses: capacity, MaxProcessesPerUser: s.MaxProcessesPerUser,
		MaxConversations: s.MaxConversations, QueueLimit: s.QueueLimit, MaxProcessRSS: int64(s.MaxProcessRSS),
		Quota:       workspace.Space{Bytes: int64(s.WorkspaceBytes), Files: int64(s.WorkspaceFiles)},
		IdleTimeout: s.IdleTimeout, CleanupInterval: s.CleanupInterval, FreezeAfter: freezeAfter,
		WorkspaceTTL: s.WorkspaceTTL,
		TurnTimeout:  s.TurnTimeout, QueueTimeout: s.QueueTimeout, SilenceTimeout: s.SilenceTimeout,
		SpawnTimeout: s.SpawnTimeout, ApprovalTimeout: s.ApprovalTimeout,
		BudgetUser: s.BudgetUser, BudgetKey: s.BudgetKey,
		PermissionMode: mode, Confined: confined, MemoryShort: memoryShort,
		Approvals: s.Approvals && (confined || s.Isolation == "off"), // whose operator has said that the users are trusted
	}
}

// run starts what goes on in the background.
func (i *Instance) run(parts Parts) {
	beats, stopBeats := context.WithCancel(context.Background())
	i.beating = stopBeats
	i.work.Go(func() { i.lease.Run(beats) })
	i.work.Go(func() { i.ledger.Run(beats) })
	i.work.Go(func() { i.keeper.Run(beats) })
	i.work.Go(func() { i.serveErr <- i.server.ServeTLS(parts.Listener, "", "") })
	publishing, stop := context.WithCancel(context.Background())
	i.published = stop
	i.work.Go(func() {
		snapshot.Publish(publishing, parts.Store, i.pool.Changed(), func() snapshot.Instance {
			s := i.pool.Snapshot()
			s.ID = i.lease.ID()
			s.Protections = i.report.Table()
			return s
		}, i.log)
	})
}

// Failed receives the error of a server that ended by itself.
func (i *Instance) Failed() <-chan error { return i.serveErr }

// ID is the instance's id.
func (i *Instance) ID() string { return i.lease.ID() }

// Shutdown drains the instance and ends it. Running turns may take the drain timeout; each user is released when
// nothing of it runs any more; at the end no process, no lease and no file is left.
func (i *Instance) Shutdown() {
	ctx, cancel := context.WithTimeout(context.Background(), i.settings.DrainTimeout)
	defer cancel()
	if err := i.lease.Drain(ctx); err != nil {
		i.log.Warn("Redis does not know that this instance drains", "error", err)
	}
	i.pool.Drain(ctx)
	i.pool.Close()
	i.handler.Close()

	end, cancelEnd := context.WithTimeout(context.Background(), answerTimeout)
	defer cancelEnd()
	var finishing sync.WaitGroup
	finishing.Go(func() { i.broker.Finish(end) })
	unanswered := i.server.Shutdown(end)
	if unanswered != nil {
		_ = i.server.Close()
	}
	finishing.Wait()
	i.settle()
	i.beating()
	i.published()
	i.work.Wait()
	back, cancelBack := context.WithTimeout(context.Background(), endTimeout) // a store that is away has taken the other
	defer cancelBack()
	if err := i.lease.Close(back, unanswered == nil); err != nil {
		i.log.Warn("the lease could not be given back, it will expire", "error", err)
	}
	i.abandon()
	i.log.Info("pool instance ended", "instance", i.lease.ID())
}

// settle has written down what turns took.
func (i *Instance) settle() {
	ctx, cancel := context.WithTimeout(context.Background(), endTimeout)
	defer cancel()
	i.ledger.Close(ctx)
}

// abandon gives back what prepare made.
func (i *Instance) abandon() {
	if i.broker != nil {
		i.broker.Close()
	}
	if i.launcher != nil {
		if err := i.launcher.Close(); err != nil {
			i.log.Error("children are left", "error", err)
		}
	}
	if i.cgroups != nil {
		if err := i.cgroups.Close(); err != nil {
			i.log.Warn("control groups are left", "error", err)
		}
	}
	if i.uids != nil {
		if err := i.uids.Close(); err != nil {
			i.log.Warn("the instance's uids are still locked", "error", err)
		}
	}
	if i.folder != nil {
		if err := i.folder.Close(); err != nil {
			i.log.Warn("the instance's folder is left", "error", err)
		}
	}
}
