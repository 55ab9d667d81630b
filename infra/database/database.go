// Package database connects to Firestore, for the packages that keep something there.
package database

import (
	"context"
	"os"
	"time"

	"cloud.google.com/go/firestore"
	"google.golang.org/api/option"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
)

const (
	// EmulatorHost is the client library's own variable: where it is set, that emulator is the database.
	EmulatorHost    = "FIRESTORE_EMULATOR_HOST"
	emulatorProject = "claudepool-emulator"

	// reconnectAtMost is how long after an outage gRPC tries again, which else may take minutes.
	reconnectAtMost = 5 * time.Second
)

// Project returns the project to connect to: the one that is set, or one of the emulator's if there is an emulator, or
// none.
func Project(set string) string {
	if set == "" && os.Getenv(EmulatorHost) != "" {
		return emulatorProject
	}
	return set
}

// Connect returns a client, which has to be closed. It doesn't wait for a connection. The end of ctx doesn't end what
// was begun with it.
func Connect(ctx context.Context, project, database string) (*firestore.Client, error) {
	var opts []option.ClientOption
	if os.Getenv(EmulatorHost) == "" { // the library dials an emulator itself and takes no dial options then
		params := grpc.ConnectParams{Backoff: backoff.DefaultConfig, MinConnectTimeout: reconnectAtMost}
		params.Backoff.MaxDelay = reconnectAtMost
		opts = append(opts, option.WithGRPCDialOption(grpc.WithConnectParams(params)))
	}
	// Credentials are refreshed under this context, also for what is written at the end of a process.
	return firestore.NewClientWithDatabase(context.WithoutCancel(ctx), project, database, opts...)
}
