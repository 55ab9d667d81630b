package hop

import (
	"fmt"
	"strconv"
	"strings"
)

// current is the version of the wire between fronts and instances that this release speaks: the token, the hop's
// headers and statuses, what the stream is made of. It is a text so that a linker can set it: the test of releases side
// by side builds later ones that way.
//
// What the other side may ignore, as a new field or header, is added without a new version. What an older release would
// misread gets one, and then speaks and takes the one before as well: releases are replaced one instance at a time.
// How a token is signed never changes with it.
var current = "1"

// Version is the version of the wire that this release speaks. It takes the one before as well.
func Version() int {
	n, err := strconv.Atoi(current)
	if err != nil {
		panic("hop: no version: " + current) // set by a linker
	}
	return n
}

// Common is the version to speak to an instance that speaks peer: the newest one that both do. With an instance that is
// more than one version behind there is none; it refuses what it gets, before anything is run.
func Common(peer int) int {
	return min(Version(), max(peer, oldest()))
}

func oldest() int { return max(1, Version()-1) }

// versionOf returns the version that a token says it is of.
func versionOf(token string) (int, error) {
	said, _, _ := strings.Cut(token, ".")
	n, err := strconv.Atoi(strings.TrimPrefix(said, "v"))
	if err != nil || n < 1 || said != prefix(n) { // one spelling
		return 0, ErrMalformed
	}
	return n, nil
}

func prefix(version int) string { return "v" + strconv.Itoa(version) }

// taken returns an ErrVersion for a version that this release doesn't take.
func taken(version int) error {
	if version < oldest() || version > Version() {
		return fmt.Errorf("%w: %d, this release takes %d to %d", ErrVersion, version, oldest(), Version())
	}
	return nil
}
