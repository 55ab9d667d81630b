package function

import (
	"testing"

	"go.uber.org/goleak"

	"claudepool/infra/testkit/contract"
)

// The framework's server can't be stopped.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(contract.Checked(m),
		goleak.IgnoreAnyFunction("github.com/GoogleCloudPlatform/functions-framework-go/funcframework.StartHostPort"))
}
