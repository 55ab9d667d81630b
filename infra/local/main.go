// Command local runs the whole service in one process, for development: a front, pool instances, and, where none are
// configured, an embedded Redis and snapshots in memory. It takes the settings of front and pool from the environment.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"claudepool/infra/hop"
	"claudepool/infra/logging"
	"claudepool/infra/settings"
)

type flags struct {
	addr      string
	instances int
	offline   bool
	demo      bool
	pprof     bool
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var f flags
	flag.StringVar(&f.addr, "addr", "127.0.0.1:8080", "address to serve on")
	flag.IntVar(&f.instances, "instances", 2, "pool instances")
	flag.BoolVar(&f.offline, "offline", false, "answer from a stand-in for the Messages API instead of the real one")
	flag.BoolVar(&f.demo, "demo", false, "play three users with three requests each, offline, and end")
	flag.BoolVar(&f.pprof, "pprof", false, "serve profiles at /debug/pprof/ to whoever reaches the address")
	flag.Parse()
	if err := realMain(ctx, f); err != nil {
		fmt.Fprintln(os.Stderr, "local:", err)
		os.Exit(1)
	}
}

func realMain(ctx context.Context, f flags) error {
	scratch, err := os.MkdirTemp("", "claudepool-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(scratch)
	// #nosec G302 -- processes with uids of their own have to get to their workspaces
	if err := os.Chmod(scratch, 0o711); err != nil {
		return err
	}
	environ := withDefaults(os.Environ(), scratch, f)
	s, err := settings.LoadPool(environ)
	if err != nil {
		return err
	}
	front, err := settings.LoadFront(environ)
	if err != nil {
		return err
	}
	log := logging.New(os.Stderr, s.LogLevel, s.LogFormat, s.FirestoreProject)
	service, err := start(ctx, log, s, front, f)
	if err != nil {
		return err
	}
	defer service.stop()
	listener, err := net.Listen("tcp", f.addr)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: handler(service.front, f), ReadHeaderTimeout: 10 * time.Second,
		MaxHeaderBytes: 64 << 10}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	defer server.Close()
	url := "http://" + listener.Addr().String()
	if f.demo {
		return demo(ctx, os.Stdout, url)
	}
	fmt.Println("ready", url)
	select {
	case <-ctx.Done():
		service.front.Drain(s.DrainTimeout)
		return nil
	case err := <-failed:
		if errors.Is(err, http.ErrServerClosed) {
			return nil
		}
		return err
	}
}

// handler is the front, with profiles beside it where they are asked for.
func handler(front http.Handler, f flags) http.Handler {
	if !f.pprof {
		return front
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	mux.Handle("/", front)
	return mux
}

// withDefaults puts before the environment what a developer need not set: keys for the hop, a folder for the
// workspaces, readable logs.
func withDefaults(environ []string, scratch string, f flags) []string {
	level := "info"
	if f.demo {
		level = "error"
	}
	defaults := []string{
		"HOP_KEYS=" + hop.NewKey(), "WORKSPACES_ROOT=" + filepath.Join(scratch, "workspaces"), "LOG_FORMAT=text",
		"LOG_LEVEL=" + level,
	}
	hasProject := func(variable string) bool { return strings.HasPrefix(variable, "FIRESTORE_PROJECT=") }
	if !slices.ContainsFunc(environ, hasProject) {
		defaults = append(defaults, "ARCHIVE_DIR="+filepath.Join(scratch, "archive"))
	}
	return append(defaults, environ...)
}
