package sdktest_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"claudepool/infra/testkit"
	"claudepool/infra/testkit/need"
	"claudepool/pool/pooltest"
)

// startTime is how long the service may take to start or to end, on a machine that others use as well.
const startTime = time.Minute

// ready is what the local service prints once it serves.
var ready = regexp.MustCompile(`(?m)^ready (http://\S+)$`)

// stage is the local service with the real CLI and a stand-in for the API.
type stage struct {
	url     string // the service's
	seen    string // where the stand-in's calls are told
	api     *pooltest.API
	service *testkit.Process
}

// newStage starts one. It has no spares: each user is new, so each would only be replaced by another.
func newStage(t *testing.T) *stage {
	t.Helper()
	return newStageOf(t, 1)
}

// newStageOf starts one of so many instances, with settings beside the usual ones.
func newStageOf(t *testing.T, instances int, more ...string) *stage {
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

	dir := testkit.Folder(t)
	env := []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "CLAUDE_BIN=" + cli, "ANTHROPIC_BASE_URL=" + s.api.URL(),
		"LOG_LEVEL=warn", "STANDBY=0", "MAX_PROCESSES=6", "QUEUE_LIMIT=1", "MAX_BODY_BYTES=1048576"}
	s.service, err = testkit.Start(dir, append(env, more...), filepath.Join(bin, "local"), "-addr", "127.0.0.1:0",
		"-instances", strconv.Itoa(instances))
	require.NoError(t, err)
	t.Cleanup(func() {
		assert.NoError(t, s.service.Terminate(startTime))
		s.service.Kill()
	})
	require.NoError(t, s.service.Await(t.Context(), "the service", startTime, func() (bool, error) {
		line := ready.FindStringSubmatch(s.service.Log())
		if line != nil {
			s.url = line[1]
		}
		return line != nil, nil
	}))
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
