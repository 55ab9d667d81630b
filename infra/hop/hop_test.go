package hop

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const (
	oldKey = "old-old-old-old-old-old-old-old-1"
	newKey = "new-new-new-new-new-new-new-new-2"
)

var (
	noon   = time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)
	claims = Claims{Instance: "i-1", User: "abc1234500000000", RequestID: "req_0123", Outage: true, Version: 1}
)

func keysOf(t testing.TB, list string) Keys {
	t.Helper()
	keys, err := ParseKeys(list)
	require.NoError(t, err)
	return keys
}

func TestKeys_VerifyReturnsWhatWasSigned(t *testing.T) {
	keys := keysOf(t, newKey)
	for _, want := range []Claims{claims, {Version: 1}, {User: `quote " dot . newline` + "\n", Version: 1}} {
		got, err := keys.Verify(keys.Sign(want, noon), noon)
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
}

func TestKeys_TokenIsGoodForAMinuteEitherWay(t *testing.T) {
	keys := keysOf(t, newKey)
	token := keys.Sign(claims, noon)
	for offset, want := range map[time.Duration]error{
		0:                           nil,
		Window:                      nil,
		-Window:                     nil,
		Window + time.Millisecond:   ErrExpired,
		-Window - time.Millisecond:  ErrExpired,
		24 * time.Hour:              ErrExpired,
		-100 * 365 * 24 * time.Hour: ErrExpired,
	} {
		_, err := keys.Verify(token, noon.Add(offset))
		require.ErrorIs(t, err, want, "%s", offset)
	}
}

func TestKeys_AnotherKeyIsRefused(t *testing.T) {
	token := keysOf(t, oldKey).Sign(claims, noon)
	_, err := keysOf(t, newKey).Verify(token, noon)
	require.ErrorIs(t, err, ErrSignature)
	_, err = Keys{}.Verify(token, noon)
	require.ErrorIs(t, err, ErrSignature, "no keys accept nothing")
}

func TestKeys_RotationNeedsNoPause(t *testing.T) {
	before, during, after := keysOf(t, oldKey), keysOf(t, newKey+" , "+oldKey), keysOf(t, newKey)
	for name, pair := range map[string][2]Keys{
		"old signs, both verify": {before, during},
		"new signs, both verify": {during, during},
		"new signs, new verify":  {during, after},
	} {
		_, err := pair[1].Verify(pair[0].Sign(claims, noon), noon)
		require.NoError(t, err, name)
	}
	_, err := before.Verify(during.Sign(claims, noon), noon)
	require.ErrorIs(t, err, ErrSignature, "the first key signs")
}

func TestKeys_EveryTruncationIsRefused(t *testing.T) {
	keys := keysOf(t, newKey)
	token := keys.Sign(claims, noon)
	for n := range len(token) {
		_, err := keys.Verify(token[:n], noon)
		require.Error(t, err, "first %d", n)
		_, err = keys.Verify(token[n+1:], noon)
		require.Error(t, err, "without the first %d", n+1)
	}
}

func TestKeys_EveryFlippedBitIsRefused(t *testing.T) {
	keys := keysOf(t, newKey)
	token := keys.Sign(claims, noon)
	for i := range len(token) {
		for bit := range 8 {
			forged := []byte(token)
			forged[i] ^= 1 << bit
			_, err := keys.Verify(string(forged), noon)
			require.Error(t, err, "byte %d bit %d", i, bit)
		}
	}
}

func TestKeys_OddTokensAreMalformed(t *testing.T) {
	keys := keysOf(t, newKey)
	good := keys.Sign(claims, noon)
	for _, token := range []string{
		"", ".", "..", "v1", "v1.", "v1..", "v1.x", "v" + good[2:], "v0" + good[2:], "v01" + good[2:], "v+1" +
			good[2:], "w1" + good[2:], " " + good, good + " ", good + "=", good + ".", good + "\n",
		strings.Replace(good, ".", ".\n", 1), strings.Repeat("v1.", maxToken), "v1." +
			good[strings.LastIndexByte(good, '.')+1:],
	} {
		_, err := keys.Verify(token, noon)
		require.ErrorIs(t, err, ErrMalformed, "%q", token)
	}
	signed := "v1." + encoding.EncodeToString([]byte("no json"))
	_, err := keys.Verify(signed+"."+encoding.EncodeToString(keyOf([]byte(newKey)).sum([]byte(signed))), noon)
	require.ErrorIs(t, err, ErrMalformed)
}

func TestParseKeys_RefusesShortAndMissingOnesWithoutShowingThem(t *testing.T) {
	for _, list := range []string{"", " ", "secret-but-short", newKey + ",", newKey + ",secret-but-short", "," + newKey} {
		_, err := ParseKeys(list)
		require.Error(t, err, "%q", list)
		require.NotContains(t, err.Error(), "secret")
		require.NotContains(t, err.Error(), newKey)
	}
}

func TestKeys_NeverPrintThemselves(t *testing.T) {
	keys := keysOf(t, newKey)
	var out strings.Builder
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		fmt.Fprintf(&out, verb+verb, keys, &keys)
		fmt.Fprintf(&out, verb+verb, struct{ K Keys }{keys}, struct{ hidden Keys }{keys})
	}
	slog.New(slog.NewJSONHandler(&out, nil)).Info("keys", "k", keys, "in", struct{ K Keys }{keys})
	slog.New(slog.NewTextHandler(&out, nil)).Info("keys", "k", keys, "in", struct{ K Keys }{keys})
	body, err := json.Marshal(map[string]any{"k": keys})
	require.NoError(t, err)
	out.Write(body)
	require.NotContains(t, out.String(), newKey)
	require.NotContains(t, out.String(), fmt.Sprintf("%x", newKey))
	require.NotContains(t, out.String(), fmt.Sprint([]byte(newKey))[1:20])
}

func TestNewKey_MakesAGoodKeyEachTime(t *testing.T) {
	require.NotEqual(t, NewKey(), NewKey())
	keys := keysOf(t, NewKey()+","+NewKey())
	_, err := keys.Verify(keys.Sign(claims, noon), noon)
	require.NoError(t, err)
}

func FuzzVerify(f *testing.F) {
	keys := keysOf(f, newKey+","+oldKey)
	good := keys.Sign(claims, noon)
	for _, seed := range []string{good, good[:len(good)-1], "v1..", "", keysOf(f, oldKey).Sign(Claims{User: "u"}, noon)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, token string) {
		got, err := keys.Verify(token, noon)
		if err != nil {
			require.Equal(t, Claims{}, got)
			return
		}
		// Only the seeds carry a signature: whatever else passes was forged.
		require.Contains(t, []string{good, keysOf(t, oldKey).Sign(Claims{User: "u"}, noon)}, token)
	})
}
