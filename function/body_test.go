package function

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"claudepool/pool/api"
)

// There are clients that read nothing before they have written all. Those too learn that it was too much.
func TestFront_ABodyThatIsTooLargeIsRefusedToWhoWritesBeforeReading(t *testing.T) {
	passed := 0
	_, url, _ := newFront(t, asked(&passed))
	const size = 40 << 20
	for _, head := range []string{fmt.Sprintf("Content-Length: %d\r\n\r\n", size), "Transfer-Encoding: chunked\r\n\r\n"} {
		conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
		require.NoError(t, err)
		defer conn.Close()
		require.NoError(t, conn.SetDeadline(time.Now().Add(time.Minute)))
		_, err = io.WriteString(conn, "POST "+api.PathMessages+" HTTP/1.1\r\nHost: h\r\nContent-Type: "+
			"application/json\r\n"+head)
		require.NoError(t, err)
		part := bytes.Repeat([]byte("x"), 1<<20)
		for range size / len(part) {
			if strings.HasPrefix(head, "Transfer") {
				_, err = fmt.Fprintf(conn, "%x\r\n%s\r\n", len(part), part)
			} else {
				_, err = conn.Write(part)
			}
			require.NoError(t, err, "the connection was cut before the answer could be read")
		}
		if strings.HasPrefix(head, "Transfer") {
			_, err = io.WriteString(conn, "0\r\n\r\n")
			require.NoError(t, err)
		}
		answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
		require.NoError(t, err)
		require.Equal(t, http.StatusRequestEntityTooLarge, answer.StatusCode)
		text, err := io.ReadAll(answer.Body)
		require.NoError(t, err)
		require.Contains(t, string(text), "request_too_large")
	}
	require.Zero(t, passed)
}

func TestFront_ACompressedBodyIsNotAccepted(t *testing.T) {
	passed := 0
	_, url, _ := newFront(t, asked(&passed))
	var body bytes.Buffer
	w := gzip.NewWriter(&body)
	_, _ = w.Write([]byte(question))
	require.NoError(t, w.Close())
	r, err := http.NewRequest(http.MethodPost, url+api.PathMessages, &body)
	require.NoError(t, err)
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Content-Encoding", "gzip")
	answer, err := http.DefaultClient.Do(r)
	require.NoError(t, err)
	defer answer.Body.Close()
	require.Equal(t, http.StatusUnsupportedMediaType, answer.StatusCode)
	require.Zero(t, passed)
}
