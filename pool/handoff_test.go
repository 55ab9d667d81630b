package pool_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"claudepool/infra/archive"
	"claudepool/pool"
	"claudepool/pool/seal"
)

// kept is an archive in a folder, for several instances.
func kept(t *testing.T) (archive.Store, string) {
	t.Helper()
	dir := t.TempDir()
	return archive.NewFolder(dir, time.Hour), dir
}

func keepingIn(store archive.Store, more ...func(*pool.Options)) func(*pool.Options) {
	return func(o *pool.Options) {
		o.Archive, o.ArchiveMaxBytes = store, 1<<20
		for _, change := range more {
			change(o)
		}
	}
}

// saved waits until n versions of all conversations together have been saved.
func saved(t *testing.T, dir string, n int) {
	t.Helper()
	require.Eventually(t, func() bool {
		versions := 0
		_ = walkFiles(dir, func(path string, content []byte) {
			_, rest, ok := strings.Cut(string(content), `"Version":`)
			if ok && strings.HasSuffix(path, ".record") && !deleted(content) {
				versions += int(rest[0] - '0')
			}
		})
		return versions == n
	}, time.Minute, 10*time.Millisecond)
}

// deleted reports whether all that a record says is that it was deleted.
func deleted(content []byte) bool { return bytes.Contains(content, []byte(`"Deleted":true}`)) }

func gzipped(t *testing.T, text string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, err := w.Write([]byte(text))
	require.NoError(t, err)
	require.NoError(t, w.Close())
	return b.Bytes()
}

// zipped are the beginnings of what anything in the content decompresses to.
func zipped(content []byte) (texts []string) {
	for i := range content {
		r, err := gzip.NewReader(bytes.NewReader(content[i:]))
		if err != nil {
			continue
		}
		text := make([]byte, 100)
		if n, _ := io.ReadFull(r, text); n > 0 {
			texts = append(texts, string(text[:n]))
		}
	}
	return texts
}

func TestHandoff_AnotherInstanceGoesOnWithTheRealCLI(t *testing.T) {
	t.Parallel()
	store, dir := kept(t)
	first := newService(t, keepingIn(store))
	named := uuid.NewString()
	require.Equal(t, "reply to: first question", first.ask("ada", "first question", fields{"system": "be brief"}).text(t))
	require.Equal(t, "reply to: other", first.ask("ada", "other", fields{"session_id": named}).text(t))
	first.pool.Close() // as when the instance ends by SIGTERM

	require.Equal(t, []string{"plain"}, zipped(append([]byte("before"), gzipped(t, "plain")...)), "the control")
	require.NoError(t, walkFiles(dir, func(_ string, content []byte) {
		// none so short that noise has it
		for _, word := range []string{"question", "reply to", "be brief", token("ada"), named, userID("ada")} {
			require.NotContains(t, string(content), word)
		}
		require.Empty(t, zipped(content), "a transcript is compressed, and then sealed")
	}))

	second := newService(t, keepingIn(store))
	next := second.ask("ada", "two", nil)
	require.Equal(t, "reply to: two", next.text(t))
	require.Equal(t, pool.ProcessResumed, next.process)
	require.Equal(t, []string{"user: first question", "assistant: reply to: first question", "user: two"},
		second.lastCall().Messages())
	require.Contains(t, string(second.lastCall().Body), "be brief")
	require.Equal(t, "reply to: more", second.ask("ada", "more", fields{"session_id": named}).text(t))
	require.Equal(t, []string{"user: other", "assistant: reply to: other", "user: more"}, second.lastCall().Messages())
	withHistory := fields{"messages": []fields{{"role": "user", "content": "first question"},
		{"role": "assistant", "content": "reply to: first question"},
		{"role": "user", "content": "two"}, {"role": "assistant", "content": "reply to: two"},
		{"role": "user", "content": "three"}}}
	require.Equal(t, next.pid, second.ask("ada", "", withHistory).pid, "found by its history")
}

// An instance that was killed has saved what its last good turn led to. Here it lives on, and comes back with what is
// old.
func TestHandoff_WhoHasTheUserNextIsRightAndAnOldOwnerIsNot(t *testing.T) {
	store, dir := kept(t)
	first, second := newScriptedService(t, keepingIn(store)), newScriptedService(t, keepingIn(store))
	first.ask("ada", "one", nil).text(t)
	saved(t, dir, 1)
	second.ask("ada", "two", nil).text(t)
	saved(t, dir, 2)
	first.owner.cutOff(true)
	first.ask("ada", "elsewhere", nil).text(t) // across a split network: it doesn't know that it isn't the owner
	require.Eventually(t, func() bool {
		return strings.Contains(first.logs.String(), "the archive can't be written")
	}, 10*time.Second, 10*time.Millisecond)
	second.ask("ada", "three", nil).text(t)
	require.Equal(t, []string{"user: one", "assistant: reply to: one", "user: two", "assistant: reply to: two",
		"user: three"}, second.lastCall().Messages())
	saved(t, dir, 3)

	first.pool.Evict(userID("ada"))
	require.Eventually(t, func() bool { return len(first.owner.releasedUsers()) == 1 }, 10*time.Second,
		10*time.Millisecond)
	first.ask("ada", "four", nil).text(t)
	require.Len(t, first.lastCall().Messages(), 7, "back at the first instance, all that was said at the second is there")
	require.NotContains(t, string(first.lastCall().Body), "elsewhere")
}

// overtaken is an archive that others save to just before the first save, if anybody wants to.
type overtaken struct {
	archive.Store
	once   sync.Once
	others func()
}

func (o *overtaken) Save(ctx context.Context, owner string, r archive.Record, body []byte) error {
	o.once.Do(o.others)
	return o.Store.Save(ctx, owner, r, body)
}

// A former owner's last save is under way while the user is moved: what it brings must not be what the next one finds.
func TestHandoff_WhatAFormerOwnerSavesLateIsReplaced(t *testing.T) {
	t.Parallel()
	store, dir := kept(t)
	first := newScriptedService(t, keepingIn(store))
	first.ask("ada", "one", nil).text(t)
	saved(t, dir, 1)
	late := &overtaken{Store: store, others: func() {
		first.ask("ada", "late", nil).text(t)
		saved(t, dir, 2)
	}}
	second := newScriptedService(t, keepingIn(late))
	second.ask("ada", "two", nil).text(t)
	saved(t, dir, 3)
	second.ask("ada", "three", nil).text(t)
	saved(t, dir, 4)
	require.Equal(t, 1, strings.Count(second.logs.String(), "what a former owner has mirrored is replaced"))
	third := newScriptedService(t, keepingIn(store))
	third.ask("ada", "four", nil).text(t)
	require.Equal(t, []string{"user: one", "assistant: reply to: one", "user: two", "assistant: reply to: two",
		"user: three", "assistant: reply to: three", "user: four"}, third.lastCall().Messages())
}

// Nor does a user who has moved while that is found out, or has had the conversation deleted, get its old owner's.
func TestHandoff_WhoHasMovedMeanwhileOrDeletedIsNotReplaced(t *testing.T) {
	t.Parallel()
	for _, why := range []string{"moved", "deleted"} {
		t.Run(why, func(t *testing.T) {
			t.Parallel()
			store, dir := kept(t)
			first := newScriptedService(t, keepingIn(store))
			first.ask("ada", "one", nil).text(t)
			saved(t, dir, 1)
			var second *service
			second = newScriptedService(t, keepingIn(&overtaken{Store: store, others: func() {
				if why == "deleted" {
					require.Equal(t, `{"deleted":1}`, first.forget("ada", ""))
					return
				}
				first.ask("ada", "newer", nil).text(t)
				saved(t, dir, 2)
				second.owner.move(userID("ada"))
			}}))
			second.ask("ada", "two", nil)
			require.Eventually(t, func() bool {
				return strings.Contains(second.logs.String(), "a conversation is not mirrored any more")
			}, 10*time.Second, 10*time.Millisecond)
			saved(t, dir, map[string]int{"moved": 2, "deleted": 0}[why])
		})
	}
}

// A program that speaks for many people with one key begins one conversation after the other.
func TestHandoff_OfAUsersConversationsTheArchiveKeepsThoseUsedLast(t *testing.T) {
	t.Parallel()
	store, _ := kept(t)
	few := keepingIn(store, func(o *pool.Options) { o.MaxConversations = 1 })
	first := newScriptedService(t, few)
	const all, most = 16, 10
	for i := range all {
		first.ask("ada", fmt.Sprint("question ", i), fields{"session_id": numbered(i)}).text(t)
	}
	first.pool.Close()
	second := newScriptedService(t, few)
	for i := all - 1; i > all-most; i-- {
		r := second.ask("ada", "more", fields{"session_id": numbered(i)})
		require.Equal(t, "reply to: more", r.text(t))
		require.Len(t, second.lastCall().Messages(), 3, "conversation %d", i)
	}
	second.ask("ada", "more", fields{"session_id": numbered(0)}).text(t)
	require.Len(t, second.lastCall().Messages(), 1, "it begins anew")
	records, err := store.List(t.Context(), seal.Derive(token("ada")).Owner())
	require.NoError(t, err)
	require.LessOrEqual(t, len(records), most)
}

// numbered is the id of the conversation with a number.
func numbered(n int) string { return fmt.Sprintf("00000000-0000-4000-8000-%012d", n) }

func TestHandoff_OnlyGoodTurnsAreMirrored(t *testing.T) {
	t.Parallel()
	store, dir := kept(t)
	first := newScriptedService(t, keepingIn(store, func(o *pool.Options) { o.TurnTimeout = 2 * time.Second }))
	first.ask("ada", "one", nil).text(t)
	saved(t, dir, 1)
	require.Len(t, first.ask("ada", "two [[hang]]", nil).of("error"), 1)
	first.pool.Close()
	second := newScriptedService(t, keepingIn(store))
	second.ask("ada", "three", nil).text(t)
	require.Equal(t, []string{"user: one", "assistant: reply to: one", "user: three"}, second.lastCall().Messages())
}

func TestHandoff_AnotherTokenFindsNothing(t *testing.T) {
	store, _ := kept(t)
	first := newScriptedService(t, keepingIn(store))
	session := uuid.NewString()
	first.ask("ada", "one", fields{"session_id": session}).text(t)
	first.pool.Close()
	second := newScriptedService(t, keepingIn(store))
	second.ask("eve", "two", fields{"session_id": session}).text(t)
	require.Equal(t, []string{"user: two"}, second.lastCall().Messages())
}

func TestHandoff_WhatIsTooLargeOrChangedIsNotGoneOnWith(t *testing.T) {
	store, dir := kept(t)
	first := newScriptedService(t, keepingIn(store, func(o *pool.Options) { o.ArchiveMaxBytes = 8 << 10 }))
	first.ask("ada", "small", nil).text(t)
	saved(t, dir, 1)
	first.ask("ada", strings.Repeat("large ", 2000), nil).text(t)
	saved(t, dir, 0) // to go on from the first turn would lose the second
	first.ask("bob", "one", nil).text(t)
	first.pool.Close()

	files := records(t, dir)
	require.Len(t, files, 1)
	damage(t, files[0])
	second := newScriptedService(t, keepingIn(store))
	began := second.ask("bob", "two", nil)
	require.Equal(t, "reply to: two", began.text(t))
	require.Equal(t, "lost", began.receipt().Get("context").Str)
	require.Equal(t, []string{"user: two"}, second.lastCall().Messages(), "nothing of it is believed")
	second.ask("ada", "new", nil).text(t)
	require.Equal(t, []string{"user: new"}, second.lastCall().Messages())
}

// damage changes the end of a file.
func damage(t *testing.T, path string) {
	t.Helper()
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	text[len(text)-1] ^= 1
	require.NoError(t, os.WriteFile(path, text, 0o600))
}

// flaky is an archive that can be away, or lose the answer to what it has saved.
type flaky struct {
	archive.Store
	mu    sync.Mutex
	away  bool
	loses int // so many answers
	saves int // after so many more it is away; 0 is never
}

func (f *flaky) set(away bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.away = away
}

func (f *flaky) err() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.away {
		return errors.New("away")
	}
	return nil
}

func (f *flaky) List(ctx context.Context, owner string) ([]archive.Record, error) {
	if err := f.err(); err != nil {
		return nil, err
	}
	return f.Store.List(ctx, owner)
}

func (f *flaky) Save(ctx context.Context, owner string, r archive.Record, body []byte) error {
	if err := f.err(); err != nil {
		return err
	}
	f.mu.Lock()
	if f.saves == 1 {
		f.away = true
	}
	f.saves = max(0, f.saves-1)
	f.mu.Unlock()
	if err := f.Store.Save(ctx, owner, r, body); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.loses > 0 {
		f.loses--
		return errors.New("the answer was lost")
	}
	return nil
}

func TestHandoff_ASaveWhoseAnswerWasLostIsNotTakenForAnothers(t *testing.T) {
	store, dir := kept(t)
	first := newScriptedService(t, keepingIn(&flaky{Store: store, loses: 1}))
	first.ask("ada", "one", nil).text(t)
	saved(t, dir, 2) // and once more, to be sure
	first.ask("ada", "two", nil).text(t)
	first.pool.Close()
	second := newScriptedService(t, keepingIn(store))
	second.ask("ada", "three", nil).text(t)
	require.Len(t, second.lastCall().Messages(), 5)
}

func TestHandoff_WhatWasDeletedElsewhereDoesntComeBack(t *testing.T) {
	store, dir := kept(t)
	first, second := newScriptedService(t, keepingIn(store)), newScriptedService(t, keepingIn(store))
	session := fields{"session_id": uuid.NewString()}
	leave := func() { // the first instance
		n := len(first.owner.releasedUsers())
		first.pool.Evict(userID("ada"))
		require.Eventually(t, func() bool { return len(first.owner.releasedUsers()) == n+1 }, time.Minute, 5*time.Millisecond)
	}
	first.ask("ada", "heliotrope", session).text(t)
	saved(t, dir, 1)
	leave()
	require.Equal(t, `{"deleted":1}`, second.forget("ada", ""))
	first.ask("ada", "two", session).text(t)
	require.Equal(t, []string{"user: two"}, first.lastCall().Messages())
	require.Eventually(t, func() bool {
		left := false
		_ = walkFiles(first.root, func(_ string, content []byte) {
			left = left || strings.Contains(string(content), "heliotrope")
		})
		return !left
	}, time.Minute, 10*time.Millisecond, "nor are its files kept")

	saved(t, dir, 1)
	leave()
	require.Equal(t, `{"deleted":1}`, second.forget("ada", ""))
	second.ask("ada", "three", session).text(t)
	saved(t, dir, 1)
	first.ask("ada", "four", session).text(t)
	require.Equal(t, []string{"user: three", "assistant: reply to: three", "user: four"}, first.lastCall().Messages(),
		"one that was begun anew under its id is gone on with")
}

func TestHandoff_WhatIsOnlyKnownFromTheArchiveAndDeletedThereBeginsAnew(t *testing.T) {
	store, _ := kept(t)
	first := newScriptedService(t, keepingIn(store))
	first.ask("ada", "one", nil).text(t)
	first.pool.Close()
	second, third := newScriptedService(t, keepingIn(store)), newScriptedService(t, keepingIn(store))
	second.ask("ada", "other", fields{"session_id": uuid.NewString()}).text(t) // now it knows of the default one
	second.pool.Evict(userID("ada"))
	require.Eventually(t, func() bool { return len(second.owner.releasedUsers()) == 1 }, time.Minute, 5*time.Millisecond)
	third.forget("ada", "")
	second.ask("ada", "two", nil).text(t)
	require.Equal(t, []string{"user: two"}, second.lastCall().Messages())
}

// An instance that isolates its processes runs programs as MCP servers; one that doesn't must not, whoever began it.
func TestHandoff_ProgramsAreNotRunWhereNothingIsIsolated(t *testing.T) {
	t.Parallel()
	store, _ := kept(t)
	first := newService(t, keepingIn(store, func(o *pool.Options) { o.Confined = true }))
	began := first.ask("ada", "one", fields{"mcp_servers": fields{"birds": fields{"command": "/bin/cat"}}})
	began.text(t)
	require.NotEmpty(t, began.birds())
	first.pool.Close()
	second := newService(t, keepingIn(store))
	next := second.ask("ada", "two", nil)
	require.Equal(t, "reply to: two", next.text(t))
	require.Empty(t, next.birds())
	require.Len(t, second.lastCall().Messages(), 3)
}

func TestHandoff_WithoutTheArchiveRequestsAreServedAndMirroredLater(t *testing.T) {
	t.Parallel()
	store, dir := kept(t)
	way := &flaky{Store: store}
	s := newScriptedService(t, keepingIn(way))
	s.ask("bob", "before", nil).text(t)
	saved(t, dir, 1)
	way.set(true)
	require.Equal(t, "reply to: one", s.ask("ada", "one", nil).text(t))
	require.Equal(t, "reply to: two", s.ask("bob", "two", nil).text(t))
	unknown := s.ask("cleo", "three", fields{"session_id": uuid.NewString()})
	require.Equal(t, http.StatusServiceUnavailable, unknown.status, "whether there is such a conversation can't be told")
	require.NotEmpty(t, unknown.header.Get("Retry-After"))
	way.set(false)
	saved(t, dir, 3)
}
