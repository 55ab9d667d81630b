package server

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// ended takes a key of a user and has its turn end with an answer of so many bytes.
func (k *keys) ended(t *testing.T, user byte, text string, bytes int) *key {
	t.Helper()
	h := holder{id: string(rune(user)), digest: [32]byte{user}}
	one, isNew, err := k.take(h, newKeyID(text), [32]byte{})
	require.NoError(t, err)
	require.True(t, isNew)
	turn := newReplay(h.digest, bytes)
	turn.lines, turn.size = [][]byte{make([]byte, bytes)}, bytes
	k.begin(one, turn)
	k.end(one, false)
	return one
}

func (k *keys) refusal(user byte, text string) error {
	_, _, err := k.take(holder{id: string(rune(user)), digest: [32]byte{user}}, newKeyID(text), [32]byte{})
	return err
}

func TestKeys_HaveBoundsInNumberAndNoneIsForgottenBeforeItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKeys()
		const users = keysOfAll / keysOfUser
		for user := range byte(users) {
			for i := range keysOfUser {
				k.ended(t, user, fmt.Sprint(i), 1)
			}
			require.Equal(t, errManyKeys, k.refusal(user, "one more"))
		}
		require.Equal(t, errKeysFull, k.refusal(users, "the first"))
		require.NoError(t, k.refusal(0, "0"), "which is known")
		time.Sleep(keyKeep - time.Second)
		require.Equal(t, errKeysFull, k.refusal(users, "the first"))
		time.Sleep(time.Second)
		synctest.Wait()
		require.Empty(t, k.users)
		require.Zero(t, k.count+k.bytes+k.answers.Len())
	})
}

func TestKeys_AnswersHaveBoundsInBytesAndTheOldestGiveWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKeys()
		const large = answersOfUser / 4
		var all []*key
		for user := range byte(5) {
			for i := range 5 {
				all = append(all, k.ended(t, user, fmt.Sprint(i), large))
			}
			require.LessOrEqual(t, k.users[string(rune(user))].bytes, answersOfUser)
		}
		require.Equal(t, answersOfAll, k.bytes)
		for i, one := range all {
			_, _, done, err := k.read(one)
			if i < 5 || i%5 == 0 { // the first user's, and the first of each
				require.Equal(t, errKeyUsed, err, i)
				continue
			}
			require.NoError(t, err, i)
			done()
		}
		time.Sleep(keyKeep)
		synctest.Wait()
		require.Zero(t, k.count+k.bytes+k.answers.Len())
	})
}

func TestKeys_TwoTokensUnderOneUserIDShareNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKeys()
		k.ended(t, 'a', "one", 1)
		_, _, err := k.take(holder{id: "a", digest: [32]byte{'b'}}, newKeyID("one"), [32]byte{})
		require.Equal(t, errSharedUserID, err)
	})
}
