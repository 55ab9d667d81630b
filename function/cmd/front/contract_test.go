package main

import (
	"os"
	"testing"

	"claudepool/infra/testkit/contract"
)

func TestMain(m *testing.M) { os.Exit(contract.Checked(m).Run()) }
