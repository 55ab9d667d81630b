// Package talk is the page on which people talk to the service: what a browser fetches of it, and nothing else. It is
// the same for everybody and has no data. Its scripts use the service as any client does, with the credential that
// somebody has typed in, which they keep in memory and nowhere else.
package talk

import (
	"embed"
	"path"

	"claudepool/function/page"
)

// Path is below which there is what the page is made of, which itself is at the service's root.
const Path = "/talk"

//go:embed assets
var sources embed.FS

// Files returns the page, which has no name, and all that it is made of, but for what it has from the operators' page.
func Files() []page.File {
	files := []page.File{
		{Name: "", Type: "text/html; charset=utf-8", Text: read("talk.html")},
		{Name: "talk.css", Type: "text/css; charset=utf-8", Text: read("talk.css")},
	}
	for _, name := range []string{"talk.js", "conversation.js", "service.js", "list.js", "log.js", "asks.js", "prose.js"} {
		files = append(files, page.File{Name: name, Type: "text/javascript; charset=utf-8", Text: read(name)})
	}
	return files
}

func read(name string) []byte {
	text, err := sources.ReadFile(path.Join("assets", name))
	if err != nil {
		panic(err) // it is part of the program
	}
	return text
}
