package testkit

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// ReportMark is the line of a Markdown file after which results stand.
const ReportMark = "<!-- results -->"

// WriteReport puts results in the place of what stands after the mark of the file at path.
func WriteReport(path, results string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	before, _, found := bytes.Cut(text, []byte(ReportMark))
	if !found {
		return fmt.Errorf("%s has no line %s", path, ReportMark)
	}
	return os.WriteFile(path, fmt.Appendf(nil, "%s%s\n\n%s", before, ReportMark, results), 0o644)
}

// Output is what a program prints, for a report, or "unknown" if it fails.
func Output(name string, args ...string) string {
	out, err := exec.Command(name, args...).Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}

// LoadAverages are the machine's over 1, 5 and 15 minutes.
func LoadAverages() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	return strings.Join(strings.Fields(string(text))[:3], " ")
}
