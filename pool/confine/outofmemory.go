package confine

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Whom the kernel ends first when memory runs out: the higher the score the sooner. The service comes last.
const (
	childYield  = 300 // on top of the service's own score
	growerScore = 900
	maxScore    = 1000
)

// limit keeps a child from dumping core and makes it give way to the service when memory runs out. What the child has
// forked by then isn't reached; that costs comfort, not safety.
func limit(pid int) error {
	err := unix.Prlimit(pid, unix.RLIMIT_CORE, &unix.Rlimit{}, nil)
	return errors.Join(err, writeScore(pid, childScore()))
}

// SetOOMVictim has the kernel end the processes before others' when memory runs out, and last of them the child itself,
// whose pid is given, or no longer.
func (f Family) SetOOMVictim(pid int, yield bool) {
	for _, p := range f {
		score := childScore()
		switch {
		case yield && p.pid == pid:
			score = growerScore
		case yield:
			score = maxScore
		}
		if p.exists() {
			_ = writeScore(p.pid, score) // or it has just ended
		}
	}
}

func childScore() int {
	text, err := os.ReadFile("/proc/self/oom_score_adj")
	own, parseErr := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || parseErr != nil {
		own = 0
	}
	return min(max(own, 0)+childYield, maxScore)
}

func writeScore(pid, score int) error {
	return os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid), []byte(strconv.Itoa(score)), 0)
}
