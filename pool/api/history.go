package api

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"slices"
	"strings"
	"unicode"

	"github.com/tidwall/gjson"
)

// Digest identifies what was said in a conversation.
type Digest [sha256.Size]byte

// Digests identify what was said in a conversation, in each of the ways in which a client may have kept the answers.
// The zero value is that of a conversation in which nothing was said.
type Digests [ways]Digest

// The ways in which a client may keep the assistant's part of a turn, the fullest first. One that is empty is left out.
const (
	keptAll     = iota // the texts of all its messages, also of those before a tool call
	keptMessage        // the text of the last message
	keptBlock          // the last text block
	keptDeltas         // all texts that were streamed, of answers that were begun anew too
	keptShown          // all texts of a stream of /v1/messages
	looseAll           // as keptAll and keptShown, with any white space in and between the texts
	looseShown
	keptFormer // as releases before this one took it: the result's text, and blocks by their bytes
	ways
)

// Reply is the assistant's part of a turn, as far as it is text.
type Reply struct {
	All     string // of all its messages
	Message string // of the last message
	Block   string // of the last block
	Deltas  string // of all that was streamed
	Result  string // that of the CLI's result
	Shown   string // of a stream of /v1/messages
}

// History is what a request says was said before: in one of the ways, nobody knows which, in one with any white space,
// and as releases before this one took it.
type History struct{ Now, Loose, Former Digest }

// HistoryOf is that of messages as a client sends them. Users' texts, images and documents count, and the texts of the
// assistant; tool use, tool results and thinking don't, so that a client needs to keep no more than the texts to find
// its conversation again.
func HistoryOf(messages []Message) History {
	now, loose := digestNow(messages)
	return History{now, loose, digestFormer(messages)}
}

// Begin are the digests of a conversation that begins with a history.
func (h History) Begin() (d Digests) {
	for way := range d {
		d[way] = h.Now
	}
	d[looseAll], d[looseShown], d[keptFormer] = h.Loose, h.Loose, h.Former
	return d
}

// Extend are the digests after one more turn: what the user asked, which may have been several messages, and the reply.
// HistoryOf(h + asked + reply).Now is one of HistoryOf(h).Begin().Extend(asked, reply), however the client has kept the
// reply.
func (d Digests) Extend(asked []Message, reply Reply) Digests {
	isNew, before := d == (Digests{}), d
	replies := [keptFormer]string{reply.All, reply.Message, reply.Block, reply.Deltas, reply.Shown, reply.All, reply.Shown}
	for way, text := range replies {
		if !isNew && before[way] == (Digest{}) { // it isn't known
			continue
		}
		same, extend := keptAll, extendNow
		if way >= looseAll {
			same, extend = looseAll, extendLoose
		}
		for before[same] != before[way] || replies[same] != text {
			same++
		}
		if d[way] = d[same]; same == way { // mostly only the first of them is
			d[way] = extend(before[way], asked, text)
		}
	}
	for _, m := range asked {
		switch {
		case m.Role == "assistant": // an empty answer that was kept
			d[keptFormer] = chain(d[keptFormer], "assistant", trim(m.Text()))
		case !m.onlyToolResults():
			d[keptFormer] = chain(d[keptFormer], "user", m.formerText())
		}
	}
	d[keptFormer] = chain(d[keptFormer], "assistant", trim(reply.Result))
	return d
}

// Complete has the ways that aren't known, as of what a release before this one has kept, be those of the same history.
func (d Digests) Complete(h History) Digests {
	for way, begun := range h.Begin() {
		if d[way] == (Digest{}) {
			d[way] = begun
		}
	}
	return d
}

// Former is the one that releases before this one know.
func (d Digests) Former() []byte { return slices.Clone(d[keptFormer][:]) }

// Bytes are all of them, for DigestsFrom.
func (d Digests) Bytes() (all []byte) {
	for _, one := range d {
		all = append(all, one[:]...)
	}
	return all
}

// DigestsFrom are those of Bytes, also of a release that knows the former one only, or not all ways.
func DigestsFrom(former, all []byte) (d Digests) {
	copy(d[keptFormer][:], former)
	for way := range min(len(all)/len(Digest{})-1, keptFormer) { // of which the last is the former one
		copy(d[way][:], all[way*len(Digest{}):])
	}
	return d
}

// Way is the fullest way in which the conversation's client may have kept it, if what was said before is h.
func (d Digests) Way(h Digest) (way int, found bool) {
	way = slices.Index(d[:], h)
	return way, way >= 0
}

func digestNow(messages []Message) (now, loose Digest) {
	for i := 0; i < len(messages); {
		if m := messages[i]; m.Role == "user" {
			if i++; !m.onlyToolResults() {
				said := m.digestText()
				now, loose = chain(now, "user/2", said), chain(loose, "user/2", said)
			}
			continue
		}
		var reply strings.Builder
		for ; i < len(messages) && (messages[i].Role == "assistant" || messages[i].onlyToolResults()); i++ {
			if messages[i].Role == "assistant" {
				reply.WriteString(messages[i].Text())
			}
		}
		now, loose = extendNow(now, nil, reply.String()), chainLoose(loose, reply.String())
	}
	return now, loose
}

func extendLoose(d Digest, asked []Message, reply string) Digest {
	return chainLoose(extendNow(d, asked, ""), reply)
}

// chainLoose adds a reply without its white space.
func chainLoose(d Digest, reply string) Digest {
	if isBlank(reply) {
		return d
	}
	return chain(d, "assistant/3", strings.Map(func(r rune) rune {
		if unicode.IsSpace(r) {
			return -1
		}
		return r
	}, reply))
}

func extendNow(d Digest, asked []Message, reply string) Digest {
	for _, m := range asked {
		if m.Role == "user" && !m.onlyToolResults() { // else it is an empty answer that was kept
			d = chain(d, "user/2", m.digestText())
		}
	}
	if !isBlank(reply) {
		d = chain(d, "assistant/2", trim(reply))
	}
	return d
}

// digestFormer is what releases before this one knew a history by: of several assistant messages in a row only the last
// counts.
func digestFormer(messages []Message) (d Digest) {
	reply, replied := "", false
	for _, m := range messages {
		if m.Role == "assistant" {
			reply, replied = m.Text(), true
			continue
		}
		if m.onlyToolResults() {
			continue
		}
		if replied {
			d = chain(d, "assistant", trim(reply))
			replied = false
		}
		d = chain(d, "user", m.formerText())
	}
	if replied {
		d = chain(d, "assistant", trim(reply))
	}
	return d
}

func chain(digest Digest, role, said string) Digest {
	var room [512]byte
	head := append(append(room[:0], digest[:]...), role...)
	head = binary.BigEndian.AppendUint64(head, uint64(len(said)))
	if len(head)+len(said) <= len(room) { // without a hasher, which is an allocation as its sum is
		return sha256.Sum256(append(head, said...))
	}
	h := sha256.New()
	h.Write(bytes.Clone(head)) // else room were on the heap, always
	writeText(h, said)
	return Digest(h.Sum(nil))
}

// writeText hashes a text in parts: what is hashed at once can't be interrupted, and holds up all others for that long.
func writeText(h hash.Hash, text string) {
	buffer := make([]byte, min(len(text), 32<<10))
	for len(text) > 0 {
		n := copy(buffer, text)
		h.Write(buffer[:n])
		text = text[n:]
	}
}

func sumOf(text string) []byte {
	h := sha256.New()
	writeText(h, text)
	return h.Sum(nil)
}

func trim(text string) string { return strings.TrimRight(text, " \t\r\n") }

// Text is the message's text: the string, or its text blocks joined.
func (m Message) Text() string {
	content := m.parsed()
	if content.Type == gjson.String {
		return content.Str
	}
	var texts []string
	m.blocks(func(kind string, block gjson.Result) bool {
		if kind == "text" {
			texts = append(texts, block.Get("text").Str)
		}
		return true
	})
	return strings.Join(texts, "")
}

// digestText is what of a user's message counts: its text, and of other blocks what they mean, however that is written.
func (m Message) digestText() string {
	return m.textWith(func(kind string, block gjson.Result) string {
		if kind == "text" || kind == "tool_result" {
			return ""
		}
		return canonical(block)
	})
}

// formerText is digestText for releases before this one.
func (m Message) formerText() string {
	return m.textWith(func(kind string, block gjson.Result) string {
		if kind == "image" || kind == "document" {
			return block.Get("source").Raw
		}
		return ""
	})
}

// textWith is a message's text, and of each block what tells it from others.
func (m Message) textWith(mark func(kind string, block gjson.Result) string) string {
	text := trim(m.Text())
	if m.parsed().Type == gjson.String {
		return text
	}
	marks := []string{text}
	m.blocks(func(kind string, block gjson.Result) bool {
		if what := mark(kind, block); what != "" {
			marks = append(marks, "\x00"+kind, string(sumOf(what)))
		}
		return true
	})
	return strings.Join(marks, "")
}
