package function

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"claudepool/function/messages"
	"claudepool/pool/api"
)

// largeTurn are the events of a turn that says so many mebibytes.
func largeTurn(mebibytes int) []string {
	word := strings.Replace(answered[3], "Hel", strings.Repeat("x", 1<<20), 1)
	lines := append([]string{}, answered[:3]...)
	for range mebibytes {
		lines = append(lines, word)
	}
	return append(framed(append(lines, answered[5:]...)...), api.Done)
}

func TestMessages_AnAnswerThatIsTooLargeIsNoneHoweverItComes(t *testing.T) {
	f, _, _ := newFront(t, events())
	w := httptest.NewRecorder()
	r := f.reply(w, "req_1", "ada", answering{&messages.Asked{}, messages.Frames{}})
	defer r.release()
	r.open(http.Header{})
	r.write([]byte(strings.Join(largeTurn(maxMessage>>20), "")))
	require.Equal(t, 502, w.Code)
	require.Equal(t, "false", w.Header().Get(api.HeaderShouldRetry))
}

func TestRelay_WhatHasComeOfEventsHasABoundForAUserAndInAll(t *testing.T) {
	f := &Front{events: newKept(0, 1<<20)} // two of such a size in all
	relays := make([]relay, 4)
	for i, user := range []string{"ada", "ada", "bob", "eve"} {
		relays[i] = relay{front: f, user: user, isWhole: true}
	}
	comes := func(r *relay, text string) bool {
		r.whole([]byte(text))
		return r.charge(len(r.pending))
	}
	const part = 512 << 10
	half := "data: " + strings.Repeat("x", part)
	require.True(t, comes(&relays[0], half))
	require.True(t, comes(&relays[1], half))
	require.False(t, comes(&relays[1], half), "a user leaves room to others")
	require.True(t, comes(&relays[2], half))
	require.True(t, comes(&relays[3], half))
	require.True(t, comes(&relays[0], "\n\ndata: "), "it is whole")
	require.Less(t, cap(relays[0].pending), unchargedBytes, "what was before isn't kept")
	require.True(t, comes(&relays[2], half[:part/4]))
	for i := range relays {
		relays[i].charge(0)
	}
	require.Zero(t, f.events.all)
	require.Empty(t, f.events.taken)
}

func TestRelay_TakesLittleOfWhatHasLittleToTell(t *testing.T) {
	r := relay{isWhole: true}
	buffer := make([]byte, quietBuffer)
	reads := func(text string) {
		r.whole([]byte(text))
		buffer = r.fitting(buffer, copy(buffer, text))
	}
	reads("data: hi\n\n")
	require.Len(t, buffer, quietBuffer)
	reads("data: " + strings.Repeat("x", quietBuffer) + "\n\n")
	require.Len(t, buffer, copyBuffer)
	reads("data: hi\n\n")
	require.Len(t, buffer, copyBuffer)
	reads(api.Ping)
	require.Len(t, buffer, quietBuffer)
}

func TestMessages_AnswersThatAreKeptHaveABoundForAUserAndInAll(t *testing.T) {
	const mebibytes = 20
	said, goOn := make(chan struct{}, 1), make(chan struct{})
	letGo := sync.OnceFunc(func() { close(goOn) })
	var turns atomic.Int32
	f, url, _ := newFront(t, func(w http.ResponseWriter, r *http.Request) {
		all := largeTurn(mebibytes)
		if turns.Add(1) > 1 {
			events(all...)(w, r)
			return
		}
		events(all[:len(all)-1]...)(w, r)
		said <- struct{}{}
		<-goOn
		events(api.Done)(w, r)
	})
	t.Cleanup(letGo)
	first := make(chan int, 1)
	go func() {
		response, _ := say(t, url, "")
		first <- response.StatusCode
	}()
	<-said
	held := func() int64 { f.kept.mu.Lock(); defer f.kept.mu.Unlock(); return f.kept.all }
	require.Eventually(t, func() bool { return held() > (mebibytes-1)<<20 }, 10*time.Second, time.Millisecond)
	response, body := say(t, url, "")
	require.Equal(t, api.StatusOverloaded, response.StatusCode)
	require.Equal(t, "false", response.Header.Get(api.HeaderShouldRetry), "the turn was run")
	require.Empty(t, response.Header.Get("Retry-After"))
	require.Contains(t, body, "overloaded_error")
	other := []string{"X-Api-Key", "sk-ant-api03-another", "Authorization", ""}
	response, body = do(t, http.MethodPost, url+api.PathMessagesAPI, fmt.Sprintf(asChatRequest, `,"max_tokens":1`),
		other...)
	require.Equal(t, 200, response.StatusCode, "one user leaves room to others: %s", body[:min(len(body), 500)])
	response, _ = say(t, url, `,"stream":true`)
	require.Equal(t, 200, response.StatusCode)
	letGo()
	require.Equal(t, 200, <-first)
	response, _ = say(t, url, "")
	require.Equal(t, 200, response.StatusCode, "the room is given back")
	require.Zero(t, held())
	require.Empty(t, f.kept.taken)
}
