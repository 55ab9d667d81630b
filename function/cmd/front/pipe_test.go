package main

import (
	"bufio"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/alicebob/miniredis/v2"
	"github.com/stretchr/testify/require"

	"claudepool/infra/freeport"
	"claudepool/pool/pooltest"
)

// Whoever reads the log of a front may be restarted. A front that the first line after that would end takes its streams
// with it.
func TestFront_OutlivesWhoReadsItsLog(t *testing.T) {
	dir, err := pooltest.Build(pooltest.Front)
	require.NoError(t, err)
	addr, err := freeport.Addr()
	require.NoError(t, err)
	_, port, _ := strings.Cut(addr, ":")
	cmd := exec.Command(filepath.Join(dir, "front"))
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "PORT=" + port, "HOP_KEYS=" + strings.Repeat("k", 32),
		"LOG_LEVEL=debug",
		"REDIS_URL=redis://" + miniredis.RunT(t).Addr()}
	log, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	for lines := bufio.NewScanner(log); lines.Scan() && !strings.Contains(lines.Text(), "front is serving"); {
	}
	require.NoError(t, log.Close())
	response, err := http.Get("http://" + addr + "/health")
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM)) // which is worth a line
	require.NoError(t, cmd.Wait(), "it ends as it should")
}
