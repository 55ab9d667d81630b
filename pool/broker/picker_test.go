package broker

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// pick picks from a text in parts of a size.
func pick(text string, size int) *picker {
	p := &picker{names: []string{memberModel, memberStream}}
	for at := 0; at < len(text); at += size {
		p.look([]byte(text[at:min(at+size, len(text))]))
	}
	return p
}

func TestPicker_FindsWhatStandsInTheOutermostObjectWhereverTheTextIsSplit(t *testing.T) {
	long := strings.Repeat("x", 1000)
	for text, want := range map[string][2]string{ // the model, and what stream is
		streamed: {"m", "true"}, single: {"m", "false"}, "": {}, `{"stream":tru`: {}, `{"stream":true,`: {"", "true"},
		`{"a":{"stream":true},"stream":false}`:                      {"", "false"},
		`{"a":"\"stream\":true"}`:                                   {},
		`{"a\\":"{","b":["}"],"stream":true}`:                       {"", "true"},
		`{"x":"stream","b":true}`:                                   {},
		"{\n\t\"stream\" : true , \"model\" : \"m\"\n}":             {"m", "true"},
		`{"stream":true,"model":"b"}`:                               {"b", "true"},
		`{"a":{"model":"no"},"model":"yes"}`:                        {"yes", ""},
		`{"a":["model",{"model":"no"}],"b":"model","model":"yes"}`:  {"yes", ""},
		`{"a":"model","b":"no"}`:                                    {},
		`{"model":5,"x":"no"}`:                                      {},
		`{"a":"\"model\":\"no\""}`:                                  {},
		`{"model":"` + long + `"}`:                                  {long, ""},
		`{"model":"cut`:                                             {},
		`{"model":"first","model":"second"}`:                        {"first", ""},
		`{"model":"m`:                                               {},
		`{"model":"m"`:                                              {"m", ""},
		`{"a model":"no","models":"no","a_very_long_name":"model"}`: {},
		`"model":"no"`:                                              {},
	} {
		for size := 1; size <= min(len(text), 100)+1; size++ {
			p := pick(text, size)
			require.Equal(t, want, [2]string{p.get(memberModel).Str, p.get(memberStream).Raw}, "%s in parts of %d", text, size)
			require.Equal(t, strings.HasSuffix(text, "}"), p.isOver, text)
		}
	}
}

func TestPicker_KeepsNothingOfWhatIsLong(t *testing.T) {
	members := strings.Repeat(`"model":"`+strings.Repeat("m", 1000)+`",`, 1000)
	p := pick(`{`+members+`"stream":"`+strings.Repeat("s", 1<<20)+`"}`, 5000)
	kept := cap(p.name)
	for _, m := range p.picked {
		kept += cap(m.value)
	}
	require.Len(t, p.picked, 2)
	require.Less(t, kept, 2*maxPicked)
}
