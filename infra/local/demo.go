package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"time"

	"claudepool/infra/testkit"
	"claudepool/infra/testkit/client"
	"claudepool/pool/api"
)

// The demo's cast. The tokens are of nobody.
var cast = []struct{ name, token string }{
	{"ada", "sk-ant-oat01-demo-ada"}, {"bob", "sk-ant-oat01-demo-bob"}, {"cleo", "sk-ant-oat01-demo-cleo"},
}

var questions = []string{"Hello, who are you?", "What did I just say?", "Thank you, good bye."}

const (
	// standbyIn is how long the instances may take to have processes ready.
	standbyIn = 30 * time.Second
	// standbys are as many as each instance has by default.
	standbys = 2
)

// demo plays three users with three requests each against the service at url, and shows what became of them.
func demo(ctx context.Context, out io.Writer, url string) error {
	c := &client.Client{URL: url, HTTP: http.DefaultClient}
	p := painter{out: out, colour: isTerminal(out)}
	p.line("", "claudepool demo: three users, three requests each, two instances, the real CLI, no network")
	if err := awaitStandbys(ctx, c); err != nil {
		return err
	}
	p.line("2", fmt.Sprintf("%-6s %-3s %-18s %-8s %-14s %s", "user", "#", "instance", "pid", "first token", "process"))
	for i, question := range questions {
		for _, user := range cast {
			a, err := c.Ask(ctx, user.token, question)
			if err != nil {
				return fmt.Errorf("%s: %w", user.name, err)
			}
			colour := "33"
			if a.Process != "cold" {
				colour = "32"
			}
			p.line(colour, fmt.Sprintf("%-6s %-3d %-18s %-8d %-14s %s", user.name, i+1, a.Instance, a.PID,
				a.FirstToken.Round(time.Millisecond), a.Process))
		}
	}
	time.Sleep(2100 * time.Millisecond) // a snapshot is written at most every two seconds
	return p.stats(ctx, c)
}

// awaitStandbys waits until every instance has processes ready for users who haven't come yet.
func awaitStandbys(ctx context.Context, c *client.Client) error {
	return testkit.Await(ctx, "standbys", standbyIn, func() (bool, error) {
		stats, err := c.Stats(ctx)
		few := func(i api.Instance) bool { return i.Standby < standbys }
		return len(stats.Instances) > 0 && !slices.ContainsFunc(stats.Instances, few), err
	})
}

// painter writes lines, in colour where somebody looks.
type painter struct {
	out    io.Writer
	colour bool
}

func (p painter) line(colour, text string) {
	if p.colour && colour != "" {
		text = "\x1b[" + colour + "m" + text + "\x1b[0m"
	}
	fmt.Fprintln(p.out, text)
}

func isTerminal(out io.Writer) bool {
	f, ok := out.(*os.File)
	if !ok || os.Getenv("NO_COLOR") != "" {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// stats prints the service's own view.
func (p painter) stats(ctx context.Context, c *client.Client) error {
	text, err := c.Get(ctx, "/v1/pool/stats")
	if err != nil {
		return err
	}
	p.line("2", "\nGET /v1/pool/stats")
	fmt.Fprint(p.out, string(text))
	return nil
}
