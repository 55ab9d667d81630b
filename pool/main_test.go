package pool_test

import (
	"os"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"claudepool/pool/pooltest"
)

// scratch is a folder of the whole run, for what many tests need.
var scratch string

// scriptedCLI is built by the first test that needs it.
var scriptedCLI = sync.OnceValues(func() (string, error) { return pooltest.ScriptedCLI(scratch) })

func TestMain(m *testing.M) {
	var err error
	if scratch, err = os.MkdirTemp("", "pool-tests-"); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		_ = os.RemoveAll(scratch)
		os.Exit(code)
	}))
}
