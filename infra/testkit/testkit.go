// Package testkit is what tests share with the programs that try the service out: processes, a Redis, lines that break,
// waiting, reports. The service itself may not import it. Package client below it asks the service, package emulator
// is for Firestore, package need for what a machine may not have.
package testkit

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// awaitInterval is how long Await waits before it asks again.
const awaitInterval = 50 * time.Millisecond

// Await asks until it is so, which is yes without an error. When the time is over or ctx is done it returns an error,
// which wraps the last one that asking gave.
func Await(ctx context.Context, what string, within time.Duration, isSo func() (bool, error)) error {
	ctx, cancel := context.WithTimeoutCause(ctx, within, fmt.Errorf("not within %s", within))
	defer cancel()
	for {
		yes, err := isSo()
		if yes && err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", what, errors.Join(context.Cause(ctx), err))
		case <-time.After(awaitInterval):
		}
	}
}

// Folder is a temporary folder that processes under other uids can get to.
func Folder(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.Chmod(filepath.Dir(dir), 0o711)) // made for this uid alone
	return dir
}
