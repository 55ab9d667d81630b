package sdktest_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"claudepool/infra/need"
	"claudepool/pool/pooltest"
)

// stage is the local service with the real CLI and a stand-in for the API.
type stage struct {
	url  string // the service's
	seen string // where the stand-in's calls are told
	api  *pooltest.API

	mu   sync.Mutex // guards said
	said bytes.Buffer
}

func newStage(t *testing.T) *stage {
	t.Helper()
	cli, err := pooltest.RealCLI()
	need.Part(t, cli, err)
	bin, err := pooltest.Build(pooltest.Local)
	require.NoError(t, err)
	s := &stage{}
	s.api, err = pooltest.NewAPI(nil)
	require.NoError(t, err)
	t.Cleanup(s.api.Close)
	s.api.Admit(admit)
	seen := httptest.NewServer(http.HandlerFunc(s.tell))
	t.Cleanup(seen.Close)
	s.seen = seen.URL

	local := exec.Command(filepath.Join(bin, "local"), "-addr", "127.0.0.1:0")
	local.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "CLAUDE_BIN=" + cli, "ANTHROPIC_BASE_URL=" +
		s.api.URL(),
		"LOG_LEVEL=warn", "STANDBY=1", "MAX_PROCESSES=6", "QUEUE_LIMIT=1", "MAX_BODY_BYTES=1048576"}
	local.Stderr = s
	stdout, err := local.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, local.Start())
	t.Cleanup(func() {
		_ = local.Process.Signal(syscall.SIGTERM)
		_ = local.Wait()
	})
	line, _ := bufio.NewReader(stdout).ReadString('\n')
	url, ok := strings.CutPrefix(strings.TrimSpace(line), "ready ")
	require.True(t, ok, "the service doesn't serve: %s", s.log())
	s.url = url
	return s
}

// admit says what the API answers to credentials that name a status.
func admit(credential string) int {
	for name, status := range map[string]int{"refused": http.StatusUnauthorized, "forbidden": http.StatusForbidden} {
		if strings.Contains(credential, name) {
			return status
		}
	}
	return 0
}

// call is what is told of a call.
type call struct {
	Messages []string        `json:"messages"` // as "role: text"
	Aborted  bool            `json:"aborted"`
	Body     json.RawMessage `json:"body"`
}

// tell answers with the calls that were made for a text.
func (s *stage) tell(w http.ResponseWriter, r *http.Request) {
	asked := []call{}
	for _, c := range s.api.Calls() {
		messages := c.Messages()
		if n := len(messages); n > 0 && strings.Contains(messages[n-1], r.URL.Query().Get("text")) {
			asked = append(asked, call{Messages: messages, Aborted: c.Aborted, Body: c.Body})
		}
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(asked)
}

// Write keeps what the service logs.
func (s *stage) Write(line []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.said.Write(line)
}

func (s *stage) log() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.said.String()
}
