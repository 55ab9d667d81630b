package hostile

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A stranger's bodies are as large as may be and of every shape that becomes large when it is read. A front with 512
// MiB and instances with 1 GiB outlive that, and users who are known go on.
func TestHostile_LargeBodiesOfEveryShapeTakeNobodyDown(t *testing.T) {
	s := newStage(t, limits{front: 512 << 20, instance: 1 << 30})
	known := s.newUsers()
	shapes := shapes()
	var sent, accepted atomic.Int64
	known.under(func(ctx context.Context) {
		var all sync.WaitGroup
		began, before := time.Now(), processorTime()
		for n := range 20 {
			all.Go(func() {
				for i := n; ctx.Err() == nil; i++ {
					if s.post(ctx, shapes[i%len(shapes)]) == http.StatusOK {
						accepted.Add(1)
					}
					sent.Add(1)
					sparing(began, before)
				}
			})
		}
		all.Wait()
	})
	require.Positive(t, sent.Load())
	for _, p := range append(s.instances[:], s.front) {
		require.True(t, p.Runs(), p)
	}
	t.Logf("%d bodies of 32 MiB, of which %d were valid and taken; the front has %d MiB now, the instances %d and %d",
		sent.Load(),
		accepted.Load(), resident(s.front)>>20, resident(s.instances[0])>>20, resident(s.instances[1])>>20)
}

const bodySize = 32 << 20

// shapes are bodies of 32 MiB less a little.
func shapes() (all [][]byte) {
	head := `{"oauth_credentials":{"access_token":"sk-ant-oat01-stranger-%d"},"model":"haiku",`
	for i, shape := range []struct{ before, each, after string }{
		{`"messages":[`, `{},`, `{"role":"user","content":"x"}]}`},
		{`"messages":[{"role":"user","content":[`, `{},`, `{"type":"text","text":"x"}]}]}`},
		{`"messages":[{"role":"user","content":[`, `{"type":"text","text":"x"},`, `{"type":"text","text":"x"}]}]}`},
		{`"messages":[`, `{"role":"user","content":"a"},{"role":"assistant","content":"b"},`,
			`{"role":"user","content":"x"}]}`},
		{`"messages":[{"role":"user","content":"`, `x`, `"}]}`},
		{`"messages":[{"role":"user","content":"x"}],"system":"`, `x`, `"}`},
		{`"messages":[{"role":"user","content":"x"}],"mcp_servers":{"a":{"url":"http://127.0.0.1:1"}`, `,"a":{}`, `}}`},
		{`"messages":[{"role":"user","content":`, `[`, ``},
		{`"unknown":[`, `0,`, `0],"messages":[{"role":"user","content":"x"}]}`},
	} {
		begin := fmt.Sprintf(head, i) + shape.before
		n := (bodySize - len(begin) - len(shape.after)) / len(shape.each)
		all = append(all, []byte(begin+strings.Repeat(shape.each, n)+shape.after))
	}
	return all
}

// post sends a body and reads the answer to its end. It returns the status, or 0 where there was none.
func (s *stage) post(ctx context.Context, body []byte) int {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, s.client.URL+"/v1/messages/pooled", bytes.NewReader(body))
	require.NoError(s, err)
	r.Header.Set("Content-Type", "application/json")
	answer, err := s.client.HTTP.Do(r)
	if err != nil {
		return 0
	}
	defer answer.Body.Close()
	_, _ = io.Copy(io.Discard, answer.Body)
	return answer.StatusCode
}
