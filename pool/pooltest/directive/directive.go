// Package directive reads the [[name=value]] directives that tests put into a user's text to tell a stand-in what to
// do.
package directive

import (
	"regexp"
	"strconv"
	"strings"
	"time"
)

var form = regexp.MustCompile(`(?s)\[\[((?:\d+:)?[a-z_]+)(?:=(.*?))?\]\]`)

// Set holds a text's directives by name. What is missing or malformed reads as zero.
type Set map[string]string

// Parse returns the directives in text. The names of those that are for one call only begin with its number and a
// colon.
func Parse(text string) Set {
	s := Set{}
	for _, m := range form.FindAllStringSubmatch(text, -1) {
		s[m[1]] = m[2]
	}
	return s
}

// Strip is the text without directives.
func Strip(text string) string { return strings.TrimSpace(form.ReplaceAllString(text, "")) }

// Call are the directives for the nth call: those for it alone, and those for all.
func (s Set) Call(n int) Set {
	all := Set{}
	for name, value := range s {
		if !strings.Contains(name, ":") {
			all[name] = value
		}
	}
	for name, value := range s {
		if own, ok := strings.CutPrefix(name, strconv.Itoa(n)+":"); ok {
			all[own] = value
		}
	}
	return all
}

// Has reports whether the directive is there.
func (s Set) Has(name string) bool {
	_, ok := s[name]
	return ok
}

// Duration is the directive's value as time.ParseDuration reads it.
func (s Set) Duration(name string) time.Duration {
	v, _ := time.ParseDuration(s[name])
	return v
}

// Number is the directive's value as a decimal number.
func (s Set) Number(name string) int {
	n, _ := strconv.Atoi(s[name])
	return n
}
