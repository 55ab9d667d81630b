package main

import (
	"testing"

	"go.uber.org/goleak"

	"claudepool/infra/testkit/contract"
	"claudepool/infra/testkit/emulator"
)

func TestMain(m *testing.M) {
	idle := []goleak.Option{goleak.IgnoreAnyFunction("net/http.(*persistConn).readLoop"),
		goleak.IgnoreAnyFunction("net/http.(*persistConn).writeLoop")}
	emulator.TestMain(contract.Checked(m), idle...)
}
