// Package freeport finds addresses for servers that are started as processes of their own.
package freeport

import (
	"errors"
	"math/rand/v2"
	"net"
	"strconv"
)

// Kernels give the ports above these to whoever asks for any, and to outgoing connections: one of those could be taken
// between being found and being used.
const first, last = 10_000, 30_000

// Addr returns an address of the loopback that nothing listens on.
func Addr() (string, error) {
	for range 100 {
		addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(first+rand.N(last-first))) // #nosec G404 -- any will do
		listener, err := net.Listen("tcp", addr)
		if err == nil {
			return addr, listener.Close()
		}
	}
	return "", errors.New("freeport: no port is free")
}

// Port is Addr's port.
func Port() (string, error) {
	addr, err := Addr()
	if err != nil {
		return "", err
	}
	_, port, err := net.SplitHostPort(addr)
	return port, err
}
