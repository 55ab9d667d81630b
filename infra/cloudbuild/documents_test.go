package cloudbuild

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var (
	fenced = regexp.MustCompile("(?ms)^ *```sh\n(.*?)^ *```")
	inline = regexp.MustCompile("(?s)`((?:gcloud|terraform) [^`]*)`(.{0,4})")
	remark = regexp.MustCompile(`\s#\s.*`)
	called = regexp.MustCompile(`(?m)^\s*(?:gcloud|terraform) .*$`)
)

// A command of a document is one that its reader can type: it exists, and so do its flags.
func TestDocuments_CommandsExistAsTheyAreWritten(t *testing.T) {
	commands := 0
	for _, document := range []string{"../OPERATIONS.md", "../../README.md"} {
		text, err := os.ReadFile(document)
		require.NoError(t, err)
		var all []string
		for _, block := range fenced.FindAllStringSubmatch(string(text), -1) {
			for _, line := range called.FindAllString(joined.ReplaceAllString(block[1], " "), -1) {
				require.Contains(t, line, "# ☁", "%s: it needs the cloud and doesn't say so", document)
				all = append(all, remark.ReplaceAllString(line, ""))
			}
		}
		for _, span := range inline.FindAllStringSubmatch(fenced.ReplaceAllString(string(text), ""), -1) {
			isMarked := strings.HasPrefix(span[2], " ☁") || strings.HasPrefix(span[2], "\n☁")
			require.True(t, isMarked || !strings.Contains(span[1], " -"),
				"%s: %s needs the cloud and doesn't say so", document, span[1])
			all = append(all, span[1])
		}
		for _, line := range all {
			for _, command := range []string{"gcloud", "terraform"} {
				checkFlags(t, command, line)
			}
		}
		commands += len(all)
	}
	require.Greater(t, commands, 10, "the walk is found")
}

func TestFlags_AreComparedAsAWhole(t *testing.T) {
	const help = "    --[no-]enable-auth\n    --async\n    --region=REGION\n  -backend-config=path  x\n  -lock-timeout=0s"
	for flag, there := range map[string]bool{
		"--region": true, "--reg": false, "--enable-auth": true, "--no-enable-auth": true,
		"--no-region": false, "--no-async": true, "--auth": false,
		"-backend-config": true, "-backend": false, "-lock": false, "-lock-timeout": true,
	} {
		require.Equal(t, there, offers(help, flag), flag)
	}
}
