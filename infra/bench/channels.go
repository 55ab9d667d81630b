package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"text/tabwriter"
	"time"

	"github.com/google/uuid"

	"claudepool/infra/testkit"
	"claudepool/pool/api"
)

// channels are what channels cost, of one instance behind one front with the scripted CLI: readers to whom nothing is
// told, and readers of streams beside pooled requests of the same conversations that take turns with them.
type channels struct {
	*lab
	sizes channelSizes

	idle      [2]state         // without readers, and with them
	idleCPU   [2]time.Duration // of the service meanwhile
	time, cpu figure           // of an event
	reached   atomic.Int64     // events of channels that came to their readers
}

// channelSizes are how much is measured.
type channelSizes struct {
	readers, ofUser               int // who read conversations of their own, and how many of them are one user's
	idleOver                      time.Duration
	rounds, streams, events, runs int // streams at once, events of each, and pairs of runs in each round
	resamples                     int
}

var (
	fullChannels = channelSizes{readers: 1000, ofUser: 16, idleOver: time.Minute,
		rounds: 5, streams: 200, events: 500, runs: 4, resamples: 4000}
	quickChannels = channelSizes{readers: 5, ofUser: 2, idleOver: 100 * time.Millisecond,
		rounds: 2, streams: 2, events: 100, runs: 1, resamples: 100}
)

// readChannels measures it all and prints it.
func (l *lab) readChannels(ctx context.Context, isQuick bool, out io.Writer) error {
	c := &channels{lab: l, sizes: fullChannels}
	if isQuick {
		c.sizes = quickChannels
	}
	load := testkit.LoadAverages()
	if err := c.rest(ctx); err != nil {
		return fmt.Errorf("idle readers: %w", err)
	}
	for n := range c.sizes.rounds {
		if err := c.round(ctx, n); err != nil {
			return fmt.Errorf("streams: %w", err)
		}
		l.say("channels: round %d of %d", n+1, c.sizes.rounds)
	}
	return c.write(out, isQuick, load)
}

// rest looks at a service without readers, and with many to whom nothing but pings is told.
func (c *channels) rest(ctx context.Context) error {
	s, err := c.startService(ctx, c.scripted, 0)
	if err != nil {
		return err
	}
	defer s.stop()
	first, err := s.newUser().listen(ctx) // what is made once is there then
	if err != nil {
		return err
	}
	first.close()
	ctx, hangUp := context.WithCancel(ctx)
	var open sync.WaitGroup
	defer open.Wait()
	defer hangUp()
	for i, readers := range []int{0, c.sizes.readers} {
		var u *user
		for n := range readers {
			if n%c.sizes.ofUser == 0 {
				u = s.newUser()
			}
			l, err := u.listen(ctx)
			if err != nil {
				return err
			}
			open.Go(func() {
				defer l.close()
				_, _ = io.Copy(io.Discard, l.body)
			})
		}
		if err := c.atRest(ctx, s, i); err != nil {
			return err
		}
	}
	return nil
}

// atRest notes what a service takes that is left alone.
func (c *channels) atRest(ctx context.Context, s *service, i int) error {
	earlier, err := threadsOf(s.cmd.Process.Pid)
	if err != nil {
		return err
	}
	time.Sleep(c.sizes.idleOver)
	later, err := threadsOf(s.cmd.Process.Pid)
	if err != nil {
		return err
	}
	c.idleCPU[i] = later.since(earlier)
	if c.idle[i], err = s.state(ctx, "idle"); err == nil {
		c.say("channels: %+v, %s of CPU", c.idle[i], c.idleCPU[i])
	}
	return err
}

// round has many streams at once, by pooled requests and by channels in turn, at a new service.
func (c *channels) round(ctx context.Context, n int) error {
	s, err := c.startService(ctx, c.scripted, 0, "IDLE_TIMEOUT=1h", "PARKED=0")
	if err != nil {
		return err
	}
	defer s.stop()
	all := make([]*listener, c.sizes.streams)
	for i := range all {
		if all[i], err = s.newUser().listen(ctx); err != nil {
			return err
		}
		defer all[i].close()
		for _, ask := range all[i].ways() { // which starts its process, and knows both ways
			if _, err := ask(ctx, 1); err != nil {
				return err
			}
		}
	}
	return abba(n, c.sizes.runs, func(_, side int) (cost, error) { return c.run(ctx, s, all, side) },
		func(got [2]cost) {
			events := float64(c.sizes.streams * c.sizes.events)
			c.time.add(n, pair{float64(got[base].took) / events, float64(got[now].took) / events})
			c.cpu.add(n, pair{float64(got[base].cpu) / events, float64(got[now].cpu) / events})
		})
}

func (c *channels) run(ctx context.Context, s *service, all []*listener, side int) (cost, error) {
	earlier, err := threadsOf(s.cmd.Process.Pid)
	if err != nil {
		return cost{}, err
	}
	took, err := atOnce(len(all), func(i int) error {
		reached, err := all[i].ways()[side](ctx, c.sizes.events)
		if side == now {
			c.reached.Add(int64(reached))
		}
		return err
	})
	if err != nil {
		return cost{}, err
	}
	later, err := threadsOf(s.cmd.Process.Pid)
	time.Sleep(saving)
	return cost{took, later.since(earlier)}, err
}

// listener is a user who reads the channel of a conversation.
type listener struct {
	*user
	session string
	body    io.ReadCloser
}

// listen begins to read the channel of a new conversation.
func (u *user) listen(ctx context.Context) (*listener, error) {
	l := &listener{user: u, session: uuid.NewString()}
	answer, err := l.do(ctx, http.MethodGet, api.PathStream, nil)
	if err != nil {
		return nil, err
	}
	l.body = answer.Body
	return l, nil
}

func (l *listener) close() { _ = l.body.Close() }

// do asks the front in the user's name about the conversation.
func (l *listener) do(ctx context.Context, method, path string, fields map[string]any) (*http.Response, error) {
	body, _ := json.Marshal(fields) // of strings: can't fail
	r, err := http.NewRequestWithContext(ctx, method, l.service.URL+strings.Replace(path, "{id}", l.session, 1),
		bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Authorization", "Bearer "+l.token)
	r.Header.Set("Content-Type", "application/json")
	answer, err := l.service.HTTP.Do(r)
	if err == nil && answer.StatusCode != http.StatusOK {
		detail, _ := io.ReadAll(answer.Body)
		_ = answer.Body.Close()
		err = fmt.Errorf("%s: %s: %s", path, answer.Status, detail)
	}
	return answer, err
}

// ways are the sides of the comparison: pooled requests are the base. Each has a turn of n events, and returns how many
// of them have come.
func (l *listener) ways() [2]func(ctx context.Context, n int) (int, error) {
	return [2]func(context.Context, int) (int, error){base: l.pooled, now: l.channel}
}

func (l *listener) pooled(ctx context.Context, n int) (int, error) {
	answer, err := l.do(ctx, http.MethodPost, api.PathMessages, map[string]any{"session_id": l.session,
		"oauth_credentials": map[string]string{"access_token": l.token},
		"messages":          []map[string]string{{"role": "user", "content": events(n)}}})
	if err != nil {
		return 0, err
	}
	defer answer.Body.Close()
	return readUntil(answer.Body, api.Done, n)
}

func (l *listener) channel(ctx context.Context, n int) (int, error) {
	message := map[string]string{"role": "user", "content": events(n)}
	answer, err := l.do(ctx, http.MethodPost, api.PathSend, map[string]any{"events": []any{map[string]any{
		"payload": map[string]any{"type": api.TypeUser, "message": message, "parent_tool_use_id": nil}}}})
	if err != nil {
		return 0, err
	}
	if err := answer.Body.Close(); err != nil {
		return 0, err
	}
	return readUntil(l.body, "DELIVERY_STATUS_PROCESSED", 0)
}

// readUntil counts a stream's texts up to its end as cheaply as that can be checked. There have to be nearly so many:
// one that is cut in two isn't counted.
func readUntil(stream io.Reader, mark string, least int) (texts int, err error) {
	buffer, end := make([]byte, 64<<10), []byte(nil)
	for err == nil {
		var size int
		size, err = stream.Read(buffer)
		texts += bytes.Count(buffer[:size], textDelta)
		end = append(end, buffer[:size]...)
		if end = end[max(0, len(end)-maxEnd):]; bytes.Contains(end, []byte(mark)) {
			err = nil
			break
		}
	}
	if err == nil && texts < least*9/10 {
		err = fmt.Errorf("only %d of %d events have come", texts, least)
	}
	return texts, err
}

// write prints the tables.
func (c *channels) write(out io.Writer, isQuick bool, load string) error {
	quick := ""
	if isQuick {
		quick = ". This was -quick: the numbers mean nothing"
	}
	fmt.Fprintf(out, "on %s; load averages at the start %s, at the end %s%s\n\n",
		machine(), load, testkit.LoadAverages(), quick)
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(table, "idle readers\theap and stacks\tresident\tgoroutines\topen files\tCPU in %s\n", c.sizes.idleOver)
	for i, readers := range []int{0, c.sizes.readers} {
		at := c.idle[i]
		fmt.Fprintf(table, "%d\t%.1f MiB\t%.1f MiB\t%d\t%d\t%s\n", readers, float64(at.Heap)/(1<<20), float64(at.RSS)/(1<<20),
			at.Goroutines, at.Files, c.idleCPU[i].Round(time.Millisecond))
	}
	n := float64(c.sizes.readers)
	fmt.Fprintf(table, "each\t%.1f KiB\t%.1f KiB\t\t\t%s\n\n", float64(c.idle[1].Heap-c.idle[0].Heap)/n/1024,
		float64(c.idle[1].RSS-c.idle[0].RSS)/n/1024, duration(float64(c.idleCPU[1]-c.idleCPU[0])/n))
	if err := table.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(table, "figure\tpooled\tchannel\tratio\t95 % interval\tpairs\trounds")
	for _, r := range []row{{fmt.Sprintf("events/s of %d streams", c.sizes.streams), c.time.rates(), count},
		{"CPU time of the service, of an event", c.cpu, duration}} {
		in := compare(r.of.rounds, c.sizes.resamples)
		fmt.Fprintf(table, "%s\t%s\t%s\t%.3f\t%.3f to %.3f\t%d\t%d\n", r.name, r.show(median(r.of.of(base))),
			r.show(median(r.of.of(now))), in.ratio, in.low, in.high, len(r.of.of(base)), len(r.of.rounds))
	}
	told := float64(c.sizes.streams * c.sizes.events * c.sizes.runs * c.sizes.rounds)
	fmt.Fprintf(table, "\n%.1f %% of the channels' events came to their readers.\n", 100*float64(c.reached.Load())/told)
	return table.Flush()
}
