package api

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"strings"

	"github.com/tidwall/gjson"
)

// HistoryDigest identifies a conversation by what was said in it: the users' texts, images and documents, and the final
// texts of the assistant. Tool use, tool results and thinking don't count, and of several assistant messages in a row
// only the last does, so that a client needs to keep no more than the texts to find its conversation again.
func HistoryDigest(messages []Message) [32]byte {
	var digest [32]byte
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
			digest = chain(digest, "assistant", trim(reply))
			replied = false
		}
		digest = chain(digest, "user", m.said())
	}
	if replied {
		digest = chain(digest, "assistant", trim(reply))
	}
	return digest
}

// ExtendDigest is the digest of a conversation after one more turn:
// ExtendDigest(HistoryDigest(h), m, reply) == HistoryDigest(h + m + reply).
func ExtendDigest(digest [32]byte, m Message, reply string) [32]byte {
	return chain(chain(digest, "user", m.said()), "assistant", trim(reply))
}

func chain(digest [32]byte, role, said string) [32]byte {
	h := sha256.New()
	h.Write(digest[:])
	h.Write([]byte(role))
	var size [8]byte
	binary.BigEndian.PutUint64(size[:], uint64(len(said)))
	h.Write(size[:])
	h.Write([]byte(said))
	return [32]byte(h.Sum(nil))
}

func trim(text string) string { return strings.TrimRight(text, " \t\r\n") }

// Text is the message's text: the string, or its text blocks joined.
func (m Message) Text() string { return textOf(gjson.ParseBytes(m.Content)) }

func textOf(content gjson.Result) string {
	if content.Type == gjson.String {
		return content.Str
	}
	var b strings.Builder
	content.ForEach(func(_, block gjson.Result) bool {
		if block.Get("type").Str == "text" {
			b.WriteString(block.Get("text").Str)
		}
		return true
	})
	return b.String()
}

// said is what of a user's message counts: its text, and images and documents by their digest.
func (m Message) said() string {
	content := gjson.ParseBytes(m.Content)
	text := trim(textOf(content))
	if content.Type == gjson.String {
		return text
	}
	var b strings.Builder
	b.WriteString(text)
	content.ForEach(func(_, block gjson.Result) bool {
		switch kind := block.Get("type").Str; kind {
		case "image", "document":
			sum := sha256.Sum256([]byte(block.Get("source").Raw))
			b.WriteString("\x00" + kind)
			b.Write(sum[:])
		}
		return true
	})
	return b.String()
}

func (m Message) onlyToolResults() bool {
	if !bytes.HasPrefix(m.Content, []byte("[")) {
		return false // as most
	}
	content := gjson.ParseBytes(m.Content)
	only := true
	content.ForEach(func(_, block gjson.Result) bool {
		only = block.Get("type").Str == "tool_result"
		return only
	})
	return only
}
