package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"text/tabwriter"
	"time"

	"github.com/google/uuid"

	"claudepool/function/messages"
	"claudepool/infra/testkit"
	"claudepool/pool/api"
)

// translation compares POST /v1/messages with the pooled endpoint, whose stream it translates: of the same service with
// the scripted CLI, in turn, and by the same conversations. Each round has a new service.
type translation struct {
	*lab
	sizes translationSizes

	first, total, time figure
}

// translationSizes are how much is compared.
type translationSizes struct {
	rounds, requests      int // pairs of short requests in each round
	streams, events, runs int // at once, of each, and pairs of runs
	resamples             int
}

var (
	fullTranslation  = translationSizes{rounds: 12, requests: 60, streams: 200, events: 500, runs: 6, resamples: 4000}
	quickTranslation = translationSizes{rounds: 2, requests: 2, streams: 2, events: 100, runs: 1, resamples: 100}
)

// endpoints are the sides of this comparison: the pooled one is the base.
var endpoints = [2]string{base: api.PathMessages, now: api.PathMessagesAPI}

// translated measures both endpoints and prints their ratios.
func (l *lab) translated(ctx context.Context, isQuick bool, out io.Writer) error {
	t := &translation{lab: l, sizes: fullTranslation}
	if isQuick {
		t.sizes = quickTranslation
	}
	load := testkit.LoadAverages()
	for n := range t.sizes.rounds {
		if err := t.round(ctx, n); err != nil {
			return err
		}
		l.say("endpoints: round %d of %d", n+1, t.sizes.rounds)
	}
	return t.write(out, isQuick, load)
}

func (t *translation) round(ctx context.Context, n int) error {
	s, err := t.startService(ctx, t.scripted, 0)
	if err != nil {
		return err
	}
	defer s.stop()
	talkers := make([]*talker, t.sizes.streams)
	for i := range talkers {
		talkers[i] = &talker{s.newUser(), uuid.NewString()}
		for _, path := range endpoints { // which starts its process, and knows both ways
			if _, err := talkers[i].ask(ctx, path, 1); err != nil {
				return err
			}
		}
	}
	err = abba(n, t.sizes.requests, func(_, side int) (sample, error) {
		return talkers[0].ask(ctx, endpoints[side], 1)
	}, func(got [2]sample) {
		t.first.add(n, pair{float64(got[base].first), float64(got[now].first)})
		t.total.add(n, pair{float64(got[base].total), float64(got[now].total)})
	})
	if err != nil {
		return err
	}
	all := float64(t.sizes.streams * t.sizes.events)
	return abba(n, t.sizes.runs, func(_, side int) (time.Duration, error) {
		return atOnce(len(talkers), func(i int) error {
			_, err := talkers[i].ask(ctx, endpoints[side], t.sizes.events)
			return err
		})
	}, func(got [2]time.Duration) { t.time.add(n, pair{float64(got[base]) / all, float64(got[now]) / all}) })
}

// talker is a user with one conversation, which is asked by either endpoint.
type talker struct {
	*user
	session string
}

// ask has an answer of n events and reads it as cheaply as it can be checked.
func (t *talker) ask(ctx context.Context, path string, n int) (sample, error) {
	began := time.Now()
	answer, err := t.service.HTTP.Do(t.request(ctx, path, n))
	if err != nil {
		return sample{}, err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		detail, _ := io.ReadAll(answer.Body)
		return sample{}, fmt.Errorf("%s: %s: %s", path, answer.Status, detail)
	}
	got, deltas, end := sample{}, 0, []byte(nil)
	buffer := make([]byte, 64<<10)
	for err == nil {
		var size int
		size, err = answer.Body.Read(buffer)
		deltas += bytes.Count(buffer[:size], textDelta) // one that is cut in two isn't counted
		if got.first == 0 && deltas > 0 {
			got.first = time.Since(began)
		}
		end = append(end, buffer[:size]...)
		end = end[max(0, len(end)-maxEnd):]
	}
	got.total = time.Since(began)
	whole := bytes.Contains(end, []byte("message_stop")) || bytes.HasSuffix(end, []byte(api.Done))
	if !errors.Is(err, io.EOF) || !whole || deltas < n*9/10 {
		return got, fmt.Errorf("%s: after %d of %d events: %w", path, deltas, n, err)
	}
	return got, nil
}

// maxEnd is how much of a stream's end is looked at for its end mark, in bytes.
const maxEnd = 4 << 10

// request is one that the endpoint at the path takes.
func (t *talker) request(ctx context.Context, path string, n int) *http.Request {
	fields := map[string]any{"model": "haiku",
		"messages": []map[string]string{{"role": "user", "content": events(n) + "[[framed]]"}}}
	header := http.Header{"Content-Type": {"application/json"}}
	if path == api.PathMessagesAPI {
		fields["max_tokens"], fields["stream"] = 1000, true
		header.Set("Authorization", "Bearer "+t.token)
		header.Set(messages.HeaderSession, t.session)
	} else {
		fields["session_id"] = t.session
		fields["oauth_credentials"] = map[string]string{"access_token": t.token}
	}
	body, _ := json.Marshal(fields) // neither can fail
	r, _ := http.NewRequestWithContext(ctx, http.MethodPost, t.service.URL+path, bytes.NewReader(body))
	r.Header = header
	return r
}

// write prints the table. Streams are compared by their events a second, of which more is better.
func (t *translation) write(out io.Writer, isQuick bool, load string) error {
	quick := ""
	if isQuick {
		quick = ". This was -quick: the numbers mean nothing"
	}
	fmt.Fprintf(out, "on %s; load averages at the start %s, at the end %s%s\n\n",
		machine(), load, testkit.LoadAverages(), quick)
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(table, "figure\t%s\t%s\tratio\t95 %% interval\tpairs\trounds\n", endpoints[base], endpoints[now])
	row := func(name string, of figure, show func(float64) string) {
		i := compare(of.rounds, t.sizes.resamples)
		fmt.Fprintf(table, "%s\t%s\t%s\t%.3f\t%.3f to %.3f\t%d\t%d\n", name,
			show(median(of.of(base))), show(median(of.of(now))), i.ratio, i.low, i.high, len(of.of(base)), len(of.rounds))
	}
	row("short request, first token", t.first, duration)
	row("short request, total", t.total, duration)
	row(fmt.Sprintf("events/s of %d streams", t.sizes.streams), t.time.rates(), count)
	return table.Flush()
}

// rates are how many a second there are of what takes so many nanoseconds.
func (f *figure) rates() (all figure) {
	for n, pairs := range f.rounds {
		for _, p := range pairs {
			all.add(n, pair{float64(time.Second) / p[base], float64(time.Second) / p[now]})
		}
	}
	return all
}
