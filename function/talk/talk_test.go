package talk

import (
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"claudepool/function/page"
)

func all() map[string]page.File {
	files := make(map[string]page.File)
	for _, f := range Files() {
		files[f.Name] = f
	}
	return files
}

func TestFiles_ThePageNamesAllOfThemAndNobodyElse(t *testing.T) {
	files, named := all(), []string{""}
	shared := make(map[string]bool)
	for _, f := range page.Files() {
		shared[f.Name] = true
	}
	for name, f := range files {
		require.NotRegexp(t, `//[a-z]+\.`, string(f.Text), name)
		for _, m := range regexp.MustCompile(`(?:(?:href|src)="|from ")([^"]+)"`).FindAllSubmatch(f.Text, -1) {
			file := strings.TrimLeft(string(m[1]), "./")
			if theirs, ok := strings.CutPrefix(file, "pool/"); ok {
				require.True(t, shared[theirs], file)
				continue
			}
			named = append(named, strings.TrimPrefix(file, "talk/"))
		}
	}
	slices.Sort(named)
	require.Equal(t, slices.Sorted(maps.Keys(files)), slices.Compact(named))
}

// The policy would stop these too; whoever writes one is to hear of it here.
func TestFiles_NothingIsInlineOrStoredAndTextsAreTexts(t *testing.T) {
	for name, f := range all() {
		require.NotRegexp(t, `<style|\sstyle=|\son[a-z]+=|<script>|javascript:`, string(f.Text), name)
		require.NotRegexp(t, `(inner|outer|Adjacent)HTML|document\.write|eval\(|Storage|cookie|indexedDB`, string(f.Text),
			name)
	}
}
