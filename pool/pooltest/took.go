package pooltest

import (
	"fmt"
	"strings"

	"claudepool/pool/pooltest/directive"
)

// Took is what a call took, in tokens.
type Took struct{ Input, Output, CacheRead, CacheWrite5m, CacheWrite1h int64 }

// Plus is what both took.
func (t Took) Plus(o Took) Took {
	return Took{t.Input + o.Input, t.Output + o.Output, t.CacheRead + o.CacheRead, t.CacheWrite5m + o.CacheWrite5m,
		t.CacheWrite1h + o.CacheWrite1h}
}

// Billed is what all calls so far took, by credential.
func (a *API) Billed() map[string]Took {
	a.mu.Lock()
	defer a.mu.Unlock()
	billed := make(map[string]Took)
	for _, c := range a.calls {
		if c.Took != (Took{}) {
			billed[credentialIn(c.Header)] = billed[credentialIn(c.Header)].Plus(c.Took)
		}
	}
	return billed
}

// tookOf is what a call takes for which there are directives.
func tookOf(d directive.Set) Took {
	t := Took{Input: 10, Output: 5}
	if d.Has("input_tokens") {
		t.Input = int64(d.Number("input_tokens"))
	}
	_, _ = fmt.Sscan(d["usage"], &t.Input, &t.Output, &t.CacheRead, &t.CacheWrite5m, &t.CacheWrite1h)
	return t
}

// begun is what an answer has taken when it begins.
func (t Took) begun() Took {
	t.Output = min(1, t.Output)
	return t
}

// json is how the API says it.
func (t Took) json() string {
	text := fmt.Sprintf(`{"input_tokens":%d,"output_tokens":%d`, t.Input, t.Output)
	if cached := t.CacheRead + t.CacheWrite5m + t.CacheWrite1h; cached > 0 {
		text += fmt.Sprintf(`,"cache_read_input_tokens":%d,"cache_creation_input_tokens":%d,"cache_creation":`+
			`{"ephemeral_5m_input_tokens":%d,"ephemeral_1h_input_tokens":%d}`, t.CacheRead, t.CacheWrite5m+t.CacheWrite1h,
			t.CacheWrite5m, t.CacheWrite1h)
	}
	return text + "}"
}

// credentialIn is the credential of a call.
func credentialIn(h map[string][]string) string {
	for _, name := range []string{"Authorization", "X-Api-Key"} {
		if v := h[name]; len(v) > 0 {
			return strings.TrimPrefix(v[0], "Bearer ")
		}
	}
	return ""
}
