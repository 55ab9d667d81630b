package messages

import (
	"regexp"
	"slices"
	"strings"
)

// Ignored are the names of parameters without effect, in order.
type Ignored []string

const maxIgnored = 32

var parameterForm = regexp.MustCompile(`^[A-Za-z0-9_.]{1,64}$`)

// Add notes a parameter. For names that are none, or too many, there is but a mark.
func (i *Ignored) Add(name string) {
	if !parameterForm.MatchString(name) {
		name = "*"
	}
	at, known := slices.BinarySearch(*i, name)
	if !known && len(*i) >= maxIgnored {
		name = "*"
		at, known = slices.BinarySearch(*i, name)
	}
	if !known {
		*i = slices.Insert(*i, at, strings.Clone(name))
	}
}
