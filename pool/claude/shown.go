package claude

import "strings"

// shown is the text that a client of /v1/messages sees as it is streamed. After a text that was cut and doesn't count,
// the next answer goes on in the same block if its first text begins with all of that; else both are seen. Answers
// that weren't streamed are seen as if they had been.
type shown struct {
	text   strings.Builder
	isText bool // the present block is one, which is the answer's block number source, and begins at from in text
	source int
	from   int
	repeat string // what may be repeated by the next answer
	said   int    // bytes of it that have been
	maybe  bool   // whether it is isn't known yet
}

// block begins a block of a streamed answer.
func (s *shown) block(source int, isText bool) {
	if s.maybe && isText && source == 0 {
		return
	}
	s.endRepeat()
	s.isText, s.source, s.from = isText, source, s.text.Len()
}

// cut ends an answer of which nothing counts from the abandoned block on.
func (s *shown) cut(abandoned int) {
	switch {
	case s.maybe:
		s.said = 0
	case s.isText && s.source == abandoned:
		s.repeat, s.said, s.maybe = s.text.String()[s.from:], 0, true
	}
}

// unasked is a text of an answer that wasn't streamed, or another block without one.
func (s *shown) unasked(text string) {
	s.say(text)
	s.endRepeat()
	s.isText = false
}

func (s *shown) say(text string) {
	rest := s.repeat[s.said:]
	switch {
	case !s.maybe:
		s.text.WriteString(text)
	case strings.HasPrefix(rest, text):
		s.said += len(text)
	case strings.HasPrefix(text, rest):
		s.maybe, s.source = false, 0
		s.text.WriteString(text[len(rest):])
	default:
		s.diverge(text)
	}
}

// endRepeat decides that no more of what may be repeated is than has been.
func (s *shown) endRepeat() {
	if s.maybe && s.said < len(s.repeat) {
		s.diverge("")
	}
	s.maybe = false
}

// diverge has what the answer has said so far be seen beside what it doesn't repeat.
func (s *shown) diverge(more string) {
	s.maybe, s.isText, s.source, s.from = false, true, 0, s.text.Len()
	s.text.WriteString(s.repeat[:s.said] + more)
}
