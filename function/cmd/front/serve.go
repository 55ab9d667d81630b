package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/GoogleCloudPlatform/functions-framework-go/funcframework"
	"github.com/GoogleCloudPlatform/functions-framework-go/functions"

	"claudepool/infra/freeport"
)

const (
	// endGrace is how long running streams may go on after SIGTERM: the platform kills after 10 s.
	endGrace = 8 * time.Second
	// startTimeout bounds the framework's start.
	startTimeout = 10 * time.Second
)

// newServer returns a server that a slow client can't hold up: what comes after the headers is the front's.
func newServer(log *slog.Logger) *http.Server {
	return &http.Server{ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 5 * time.Minute, MaxHeaderBytes: 64 << 10,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug)}
}

// served is a front as it is served.
type served interface {
	http.Handler
	Drain(grace time.Duration)
}

// serve serves the front until ctx is done and the running streams have ended.
func serve(ctx context.Context, log *slog.Logger, front served, server *http.Server,
	listener net.Listener) error {
	handler, err := underFramework(ctx, front)
	if err != nil {
		return fmt.Errorf("functions framework: %w", err)
	}
	server.Handler = handler
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	log.Info("front is serving", "addr", listener.Addr())
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
		log.Info("front ends")
		front.Drain(endGrace)
		lastBytes, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = server.Shutdown(lastBytes) // whose connection is still busy then is cut
		return nil
	}
}

// underFramework returns the handler that the functions framework makes of the front, which knows the platform's time
// limit. The framework would serve it only on a server of its own, without any time limit for headers and without an
// end. So it is let serve on loopback for one request, whose context tells that server and with it the handler.
func underFramework(ctx context.Context, front http.Handler) (http.Handler, error) {
	found := make(chan *http.Server, 1)
	var first sync.Once
	functions.HTTP("Front", func(w http.ResponseWriter, r *http.Request) {
		looking := false
		first.Do(func() {
			looking = true
			server, _ := r.Context().Value(http.ServerContextKey).(*http.Server)
			found <- server
		})
		if !looking {
			front.ServeHTTP(w, r)
		}
	})
	if err := os.Setenv("FUNCTION_TARGET", "Front"); err != nil {
		return nil, err
	}
	addr, err := freeport.Addr()
	if err != nil {
		return nil, err
	}
	host, port, _ := net.SplitHostPort(addr)
	failed := make(chan error, 1)
	go func() { failed <- funcframework.StartHostPort(host, port) }()
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		knock(ctx, "http://"+addr)
		select {
		case server := <-found:
			return server.Handler, server.Close()
		case err := <-failed:
			return nil, err
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// knock makes a request whose answer doesn't matter.
func knock(ctx context.Context, url string) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return
	}
	if response, err := http.DefaultClient.Do(r); err == nil {
		_ = response.Body.Close()
	}
}
