package function

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"claudepool/pool/api"
)

const replaced = `{"oauth_credentials":{"access_token":"sk-ant-oat01-new",` +
	`"previous_access_token":"sk-ant-oat01-old"},"messages":[{"role":"user","content":"hi"}]}`

func TestFront_WhoHasAPreviousTokenIsRoutedTogetherWithIt(t *testing.T) {
	_, url, r := newFront(t, refuse(http.StatusMisdirectedRequest, false), events(api.Done))
	status, _, body := post(t, url, replaced)
	require.Equal(t, 200, status, body)
	now := api.Request{OAuth: &api.OAuthCredentials{AccessToken: "sk-ant-oat01-new",
		PreviousAccessToken: "sk-ant-oat01-old"}}
	both := now.UserID() + " " + now.Former().UserID()
	require.Equal(t, []string{both, both}, r.together)
	require.Equal(t, 2, r.misdirected, "of each of the two it is forgotten where it was")
}

func TestFront_PassesOnWhatWasForgotten(t *testing.T) {
	var path string
	_, url, _ := newFront(t, func(w http.ResponseWriter, r *http.Request) {
		path = r.URL.Path
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintln(w, `{"deleted":2}`)
	})
	for body, want := range map[string]int{
		`{"oauth_credentials":{"access_token":"sk-ant-oat01-secret"}}`:                        200,
		`{"oauth_credentials":{"access_token":"sk-ant-oat01-secret"},"session_id":"../../x"}`: 400,
		`{"session_id":"6f1b3a55-1a5c-4a43-9d8f-94ab34b4c3a1"}`:                               401,
	} {
		response, err := http.Post(url+api.PathDelete, "application/json", strings.NewReader(body))
		require.NoError(t, err)
		text, err := io.ReadAll(response.Body)
		require.NoError(t, err)
		require.NoError(t, response.Body.Close())
		require.Equal(t, want, response.StatusCode, body)
		if want == 200 {
			require.Equal(t, "{\"deleted\":2}\n", string(text))
		}
	}
	require.Equal(t, api.PathDelete, path)
}
