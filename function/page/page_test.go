package page

import (
	"crypto/sha512"
	"encoding/base64"
	"maps"
	"regexp"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// The hashes of what is not ours, of uplot@1.6.32, whose package npm has as
// sha512-KIMVnG68zvu5XXUbC4LQEPnhwOxBuLyW1AHtpm6IKTXImkbLgkMy+jabjLgSLMasNuGGzQm/ep3tOkyTxpiQIw==
// (`npm view uplot@1.6.32 dist.integrity`).
var foreign = map[string]string{
	"uplot.js":  "sha384-Gx3t0zdBAuQOuvvmaLZj7HKEiSgWTAs+VdtNY7wt19QDPTDQjFIwAuXDj0zeN00c",
	"uplot.css": "sha384-IfV0B7MIOYuO95kO9G5ySKPz/85zqFNOAs8iy4tkK5zd9izhJAB8b7lHrwYqqmYE",
}

func all() map[string]File {
	files := make(map[string]File)
	for _, f := range Files() {
		files[f.Name] = f
	}
	return files
}

func TestFiles_WhatIsNotOursIsWhatWasPublishedAndBrowsersCheckItToo(t *testing.T) {
	files := all()
	for name, hash := range foreign {
		sum := sha512.Sum384(files[name].Text)
		require.Equal(t, hash, "sha384-"+base64.StdEncoding.EncodeToString(sum[:]), name)
		require.Contains(t, string(files[""].Text), `="pool/`+name+`" integrity="`+hash+`"`)
	}
	require.Contains(t, string(files["uplot.js"].Text[:100]), "(v1.6.32)")
	require.Contains(t, string(files["uplot.txt"].Text), "The MIT License (MIT)")
}

func TestFiles_ThePageNamesAllOfThemAndNobodyElse(t *testing.T) {
	files, named := all(), []string{""}
	for name, f := range files {
		if foreign[name] != "" || name == "uplot.txt" || name == "icon.svg" {
			continue
		}
		require.NotRegexp(t, `//[a-z]+\.`, string(f.Text), name)
		for _, m := range regexp.MustCompile(`(?:(?:href|src)="pool/|from "\./)([^"]+)"`).FindAllSubmatch(f.Text, -1) {
			named = append(named, string(m[1]))
		}
	}
	slices.Sort(named)
	require.Equal(t, slices.Sorted(maps.Keys(files)), slices.Compact(named))
}

// The policy would stop these too; whoever writes one is to hear of it here.
func TestFiles_NothingIsInlineAndTextsAreTexts(t *testing.T) {
	require.NotRegexp(t, `<style|\sstyle=|\son[a-z]+=|<script>|javascript:`, string(all()[""].Text))
	for name, f := range all() {
		if foreign[name] == "" && f.Type == script {
			require.NotRegexp(t, `(inner|outer|Adjacent)HTML|document\.write|eval\(|localStorage`, string(f.Text), name)
		}
	}
}
