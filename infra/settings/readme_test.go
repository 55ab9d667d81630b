package settings

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var quoted = regexp.MustCompile("`([^`]*)`")

// The README's table has each setting once, and its default wherever that is a value.
func TestREADME_ListsEverySettingWithItsDefault(t *testing.T) {
	text, err := os.ReadFile("../../README.md")
	require.NoError(t, err)
	_, table, found := strings.Cut(string(text), "\n## Settings\n")
	require.True(t, found)
	table, _, _ = strings.Cut(table, "\n## ")
	told := map[string]string{} // default by name
	for _, row := range strings.Split(table, "\n") {
		cells := strings.Split(row, " | ")
		if !strings.HasPrefix(row, "| `") || len(cells) < 3 {
			continue
		}
		names := quoted.FindAllStringSubmatch(cells[0], -1)
		defaults := strings.Split(cells[1], ", ")
		for i, name := range names {
			require.NotContains(t, told, name[1])
			told[name[1]] = strings.Trim(defaults[min(i, len(defaults)-1)], "`")
		}
	}
	for _, s := range List() {
		require.Contains(t, told, s.Name)
		if s.Default != "" && !strings.Contains(told[s.Name], " ") { // "own IP + PORT" is no value
			require.Equal(t, s.Default, told[s.Name], s.Name)
		}
		delete(told, s.Name)
	}
	require.Empty(t, told, "what is no setting")
}
