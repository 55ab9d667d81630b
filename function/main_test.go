package function

import (
	"testing"

	"go.uber.org/goleak"
)

// The framework's server can't be stopped.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/GoogleCloudPlatform/functions-framework-go/funcframework.StartHostPort"))
}
