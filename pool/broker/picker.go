package broker

import (
	"bytes"
	"slices"

	"github.com/tidwall/gjson"
)

const (
	// maxPicked is how much of a value is kept, in bytes.
	maxPicked = 64 << 10
	// longestName is how long a name is at most that is looked for.
	longestName = 16
)

// picker picks members by their names out of the outermost object of a JSON text, which comes in parts. An argument of
// a tool may be called the same, but is deeper. It keeps nothing else of the text.
type picker struct {
	names []string

	depth    int
	inString bool
	escaped  bool // by the character before
	atName   bool // of the outermost object's members, it is the name's turn
	name     []byte
	picking  *member // whose value is being read
	picked   []*member
	isOver   bool // the object has come to its end
}

type member struct {
	name  string
	value []byte
}

// get is the value of a member. It doesn't exist before all of it is there; of several of a name it is the first.
func (p *picker) get(name string) gjson.Result {
	for _, m := range p.picked {
		if m.name == name {
			return gjson.ParseBytes(m.value)
		}
	}
	return gjson.Result{}
}

func (p *picker) look(part []byte) {
	for len(part) > 0 {
		n := 1
		if p.inString {
			n = p.spell(part)
		} else {
			p.next(part[0])
		}
		part = part[n:]
	}
}

// next takes a character that is in no string.
func (p *picker) next(c byte) {
	switch c {
	case '"':
		p.inString = true
		if p.atName {
			p.name = p.name[:0]
		}
	case '{', '[':
		p.depth++
		p.atName = p.depth == 1
	case '}', ']':
		p.depth--
	case ',':
		p.atName = p.depth == 1
	case ':':
		if p.depth == 1 {
			p.begin()
			return
		}
	}
	isBehind := p.depth == 0 || p.depth == 1 && c == ','
	if !isBehind {
		p.keep(c)
	}
	if isBehind || p.depth == 1 && (c == '}' || c == ']') {
		p.end()
	}
	p.isOver = p.isOver || p.depth == 0 && (c == '}' || c == ']')
}

// spell takes what comes of a string, up to the next character that matters, and returns how much that is.
func (p *picker) spell(part []byte) int {
	n := 1
	if !p.escaped {
		for n < len(part) && part[n-1] != '"' && part[n-1] != '\\' {
			n++
		}
	}
	if p.atName {
		p.name = append(p.name, part[:min(n, longestName+1-len(p.name))]...)
	}
	p.keep(part[:n]...)
	switch last := part[n-1]; {
	case p.escaped:
		p.escaped = false
	case last == '\\':
		p.escaped = true
	case last == '"':
		p.inString = false
		if p.depth == 1 && !p.atName {
			p.end()
		}
	}
	return n
}

// begin is before a value of the outermost object.
func (p *picker) begin() {
	p.atName = false
	name := string(bytes.TrimSuffix(p.name, []byte{'"'}))
	if slices.Contains(p.names, name) && !p.get(name).Exists() {
		p.picking = &member{name: name}
	}
}

func (p *picker) keep(some ...byte) {
	if p.picking != nil {
		p.picking.value = append(p.picking.value, some[:min(len(some), maxPicked-len(p.picking.value))]...)
	}
}

// end is behind a value of the outermost object, or at its last character.
func (p *picker) end() {
	if p.picking != nil {
		p.picked = append(p.picked, p.picking)
		p.picking = nil
	}
}
