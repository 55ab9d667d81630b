#!/usr/bin/env bash
# The race detector of Go orders every read system call after every write system call, of whatever files, so that a race is
# reported or not depending on I/O that has nothing to do with it.
#
# Seen with go1.26.11, linux/amd64. Two goroutines write the same variable with nothing between them but time: reported. The
# same where the first then writes one file and the second first reads another: not reported. syscall.Write releases and
# syscall.Read acquires one address that all files share (src/syscall/syscall_unix.go, ioSync).
#
# What follows: a test of a race must do no I/O between the two accesses in the goroutine that comes second. A service whose
# every request reads a socket hides most of its races from its tests.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export GOTOOLCHAIN=go1.26.11 GOFLAGS=-mod=mod CGO_ENABLED=1
cat >go.mod <<'GO'
module finding
go 1.26
GO
cat >main.go <<'GO'
package main

import (
	"os"
	"time"
)

var shared int

func main() {
	written, _ := os.CreateTemp("", "written")
	read, _ := os.CreateTemp("", "read")
	defer os.Remove(written.Name())
	defer os.Remove(read.Name())
	withFiles := len(os.Args) > 1
	go func() {
		shared = 1
		if withFiles {
			_, _ = written.Write([]byte("x"))
		}
	}()
	time.Sleep(500 * time.Millisecond)
	if withFiles {
		_, _ = read.Read(make([]byte, 1))
	}
	shared = 2
}
GO
go build -race -o racy . 2>build.log || { cat build.log; exit 2; }
reports() { ./racy "$@" 2>&1 | grep -c 'WARNING: DATA RACE' || true; }
plain=$(reports) files=$(reports files)
echo "$(go version): races reported without I/O: $plain, with I/O of two unrelated files: $files"
[ "$plain" = 1 ] && [ "$files" = 0 ]
