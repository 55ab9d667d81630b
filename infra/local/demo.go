package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"claudepool/pool/api"
)

// The demo's cast. The tokens are of nobody.
var cast = []struct{ name, token string }{
	{"ada", "sk-ant-oat01-demo-ada"}, {"bob", "sk-ant-oat01-demo-bob"}, {"cleo", "sk-ant-oat01-demo-cleo"},
}

var questions = []string{"Hello, who are you?", "What did I just say?", "Thank you, good bye."}

// demo plays three users with three requests each against the service at url, and shows what became of them.
func demo(ctx context.Context, out io.Writer, url string) error {
	p := painter{out: out, colour: isTerminal(out)}
	p.line("", "claudepool demo: three users, three requests each, two instances, the real CLI, no network")
	if err := awaitStandbys(ctx, url); err != nil {
		return err
	}
	p.line("2", fmt.Sprintf("%-6s %-3s %-18s %-8s %-14s %s", "user", "#", "instance", "pid", "first token", "process"))
	for i, question := range questions {
		for _, user := range cast {
			a, err := ask(ctx, url, user.token, question)
			if err != nil {
				return fmt.Errorf("%s: %w", user.name, err)
			}
			colour := "33"
			if a.process != "cold" {
				colour = "32"
			}
			p.line(colour, fmt.Sprintf("%-6s %-3d %-18s %-8s %-14s %s", user.name, i+1, a.instance, a.pid,
				a.firstToken.Round(time.Millisecond), a.process))
		}
	}
	time.Sleep(2100 * time.Millisecond) // a snapshot is written at most every two seconds
	return p.stats(ctx, url)
}

// awaitStandbys waits until every instance has processes ready for users who haven't come yet.
func awaitStandbys(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		stats, err := get(ctx, url+"/v1/pool/stats")
		if err != nil {
			return fmt.Errorf("no standby in time: %w", err)
		}
		var s api.Stats
		if err := json.Unmarshal(stats, &s); err != nil {
			return err
		}
		ready := len(s.Instances) > 0
		for _, i := range s.Instances {
			ready = ready && i.Standby >= 2
		}
		if ready {
			return nil
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func get(ctx context.Context, url string) ([]byte, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	return io.ReadAll(response.Body)
}

type answer struct {
	instance, pid, process string
	firstToken             time.Duration
}

// ask sends one message and reads its stream to the end.
func ask(ctx context.Context, url, token, text string) (answer, error) {
	body, err := json.Marshal(map[string]any{
		"oauth_credentials": map[string]string{"access_token": token},
		"messages":          []map[string]string{{"role": "user", "content": text}},
		"model":             "haiku",
	})
	if err != nil {
		return answer{}, err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/v1/messages/pooled", strings.NewReader(string(body)))
	if err != nil {
		return answer{}, err
	}
	r.Header.Set("Content-Type", "application/json")
	sent := time.Now()
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		return answer{}, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		detail, _ := io.ReadAll(io.LimitReader(response.Body, 4096))
		return answer{}, fmt.Errorf("%s: %s", response.Status, detail)
	}
	a := answer{instance: response.Header.Get(api.HeaderInstance), pid: response.Header.Get(api.HeaderPID), process: response.Header.Get(api.HeaderProcess)}
	lines := bufio.NewReader(response.Body)
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			return a, fmt.Errorf("the stream broke: %w", err)
		}
		switch {
		case a.firstToken == 0 && strings.Contains(line, `"text_delta"`):
			a.firstToken = time.Since(sent)
		case strings.HasPrefix(line, `data: {"type":"error"`):
			return a, fmt.Errorf("%s", strings.TrimSpace(line))
		case line == strings.TrimSuffix(api.Done, "\n"):
			return a, nil
		}
	}
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
func (p painter) stats(ctx context.Context, url string) error {
	text, err := get(ctx, url+"/v1/pool/stats")
	if err != nil {
		return err
	}
	p.line("2", "\nGET /v1/pool/stats")
	fmt.Fprint(p.out, string(text))
	return nil
}
