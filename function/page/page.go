// Package page is the page on which operators see the service run: what a browser fetches of it, and nothing else. It
// is the same for everybody and has no data. Its script reads the stream of the stats, with the token that the operator
// has given it, if one is asked for.
package page

import (
	"embed"
	"path"
)

// Path is where the page is; what it is made of is below.
const Path = "/pool"

// Policy is the Content-Security-Policy of all of it: it is from here alone, runs and styles nothing that stands in the
// page itself, sends nothing anywhere else, and is in nobody's frame.
const Policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types"

// uPlot draws the chart: https://github.com/leeoniya/uPlot. The files are those of `npm pack uplot@1.6.32`. The page
// and a test have their hashes.
//
//go:embed assets uplot
var sources embed.FS

// File is one that browsers fetch, by its name below Path.
type File struct {
	Name, Type string
	Text       []byte
}

// Files returns the page, which has no name, and all that it is made of.
func Files() []File {
	files := []File{
		{"", "text/html; charset=utf-8", read("assets/page.html")},
		{"uplot.js", script, read("uplot/uPlot.iife.min.js")},
		{"uplot.css", style, read("uplot/uPlot.min.css")},
		{"uplot.txt", "text/plain; charset=utf-8", read("uplot/LICENSE")},
		{"icon.svg", "image/svg+xml", read("assets/icon.svg")},
		{"page.css", style, read("assets/page.css")},
	}
	for _, name := range []string{"page.js", "feed.js", "view.js", "chart.js", "text.js"} {
		files = append(files, File{name, script, read(path.Join("assets", name))})
	}
	return files
}

const script, style = "text/javascript; charset=utf-8", "text/css; charset=utf-8"

func read(name string) []byte {
	text, err := sources.ReadFile(name)
	if err != nil {
		panic(err) // it is part of the program
	}
	return text
}
