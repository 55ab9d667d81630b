package snapshot

import (
	"testing"

	"claudepool/infra/emulator"
)

func TestMain(m *testing.M) { emulator.TestMain(m) }
