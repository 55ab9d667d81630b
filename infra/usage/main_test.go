package usage

import (
	"testing"

	"claudepool/infra/testkit/emulator"
)

func TestMain(m *testing.M) { emulator.TestMain(m) }
