package server

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"claudepool/infra/hop"
	"claudepool/pool/api"
	"claudepool/pool/channel"
)

// interruptTime is how long an interrupted turn may take to say that it is.
const interruptTime = 10 * time.Second

var (
	errUnsupported = api.Invalid("this control request is not supported")
	errInterrupted = api.Unavailable(0, "the message was interrupted before its turn had begun")
)

// send takes what a client says in a conversation: messages, control requests, and answers to what was asked. What
// comes of it stands in the channel's log. To send the same twice is to send it once.
func (s *Server) send(ctx context.Context, claims hop.Claims, r *http.Request, out *stream) error {
	var sending *api.Sending
	_, release, err := s.read(r, claims, func(body []byte) (*api.Request, error) {
		decoded, err := api.DecodeSending(body)
		if err != nil {
			return nil, err
		}
		sending = decoded
		return decoded.Request, nil
	})
	if err != nil {
		return err
	}
	body := newShared(release)
	defer body.release()
	t, _, leave, err := s.attend(ctx, sending.Request, claims.Outage)
	if err != nil {
		if t, leave = s.channels.awaiting(sending); t == nil {
			return err
		}
	}
	used := newShared(leave)
	defer used.release()
	s.dedup.begin(claims.RequestID)
	accepted := 0
	for _, p := range sending.Payloads {
		end, err := t.came.begin(ctx, p.UUID)
		if err != nil {
			return err
		}
		if end == nil {
			continue
		}
		m := &said{Payload: p, service: r.Header.Get(api.HeaderServiceKey), outage: claims.Outage}
		err = s.take(ctx, t, m, body, used)
		if end(err == nil); err != nil {
			return err
		}
		accepted++
	}
	out.answer(api.Sent{Accepted: accepted})
	return nil
}

// shared is something that several use, and that is released when none does any more.
type shared struct {
	uses chan int // one value, which is taken to be changed
	end  func()
}

func newShared(end func()) *shared {
	s := &shared{make(chan int, 1), end}
	s.uses <- 1
	return s
}

// use returns what ends one more use.
func (s *shared) use() (release func()) {
	s.uses <- 1 + <-s.uses
	return s.release
}

func (s *shared) release() {
	left := <-s.uses - 1
	s.uses <- left
	if left == 0 {
		s.end()
	}
}

// take does what one payload asks. A control request is answered in the log, whatever it asks.
func (s *Server) take(ctx context.Context, t *talk, m *said, body, used *shared) error {
	switch m.Type {
	case api.TypeUser:
		return s.takeMessage(t, m, body, used)
	case api.TypeControlRequest:
		answer, err := t.control(ctx, m.Payload)
		t.log.Append(channel.Event{Source: sourceWorker, Payload: controlResponse(m.RequestID, answer, err)})
	case api.TypeControlResponse:
		return t.asks.answer(m.Payload)
	}
	return nil // who takes a request back has had its answer
}

// takeMessage has a message's turn run, or gives it to the turn that runs.
func (s *Server) takeMessage(t *talk, m *said, body, used *shared) error {
	t.spoken.Store(true)
	echo := channel.Event{ID: m.UUID, Source: sourceClient, Payload: m.Raw}
	if t.steer(m, echo) {
		return nil
	}
	m.release = body.use()
	isFirst, err := t.enqueue(m)
	if err != nil {
		m.release()
		return err
	}
	t.log.Append(echo)
	t.deliver(m.UUID, "RECEIVED")
	if isFirst {
		leave := used.use()
		s.finishing.Go(func() {
			defer leave()
			t.run()
		})
	}
	return nil
}

// control does what a control request asks, and returns what answers it.
func (t *talk) control(ctx context.Context, p api.Payload) (answer any, err error) {
	switch p.Subtype {
	case "initialize":
		init, err := api.DecodeInitialize(p.Body)
		if err != nil {
			return nil, err
		}
		return initialized, t.initialize(init)
	case "interrupt":
		return t.interrupt(ctx)
	case "set_model":
		model, err := api.DecodeModel(p.Body)
		if err == nil {
			t.wish(func(w *wishes) { w.model = &model })
		}
		return struct{}{}, err
	case "set_permission_mode":
		mode, err := api.DecodePermissionMode(p.Body)
		if err == nil {
			err = t.channels.server.backend.Allowed(&api.Request{PermissionMode: mode})
		}
		if err == nil {
			t.wish(func(w *wishes) { w.permission = mode })
		}
		return map[string]string{"mode": mode}, err
	}
	return nil, errUnsupported
}

// initialized is what the SDK wants to know of a CLI. A process's own answer is no client's business: it tells of the
// machine it runs on.
var initialized = map[string]any{"commands": []string{}, "output_style": "default",
	"available_output_styles": []string{"default"}, "models": []string{}, "account": struct{}{}, "agents": []string{}}

// interrupt ends the turn that runs, or that is being made ready. Those that wait go on.
func (t *talk) interrupt(ctx context.Context) (answer any, err error) {
	turn, waiting := t.giveUp(errInterrupted)
	if turn != nil {
		ctx, cancel := context.WithTimeout(ctx, interruptTime)
		defer cancel()
		err = t.stop(ctx, turn)
	}
	return map[string]any{"still_queued": waiting}, err
}

// controlResponse is the line that answers a control request.
func controlResponse(id string, answer any, err error) []byte {
	response := map[string]any{"subtype": "success", "request_id": id, "response": answer}
	if err != nil {
		response = map[string]any{"subtype": "error", "request_id": id, "error": api.Known(err).Message}
	}
	text, _ := json.Marshal(map[string]any{"type": api.TypeControlResponse, "response": response}) // can't fail
	return text
}
