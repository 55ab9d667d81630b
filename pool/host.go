package pool

import (
	"encoding/json"
	"errors"

	"github.com/tidwall/gjson"

	"claudepool/pool/api"
	"claudepool/pool/cli"
)

// nobodyAnswers is what a model or a CLI is told where nobody is there who could answer.
const nobodyAnswers = "Nobody is connected to this conversation who could answer this."

// hosting has a request's host answer what a process asks. It is a cli.Host.
type hosting struct {
	host    api.Host // nil: nobody answers
	pool    *Pool
	process *cli.Process
	isRest  bool // the turn isn't the host's: what it asks of its client isn't asked of the host
}

// host says who answers what the process asks from now on. What a client has registered hooks or servers for is asked
// of that client in others' turns, too.
func (s *slot) host(req *api.Request) {
	if req.Host != nil {
		s.asking = req.Host
		s.process.SetHost(hosting{host: s.asking, pool: s.pool, process: s.process})
		return
	}
	if rest := s.restOf(s.process); rest != nil {
		s.process.SetHost(rest)
	}
}

// restOf is who is asked what turns of others aren't asked of their own clients; nil: nobody has to be.
func (s *slot) restOf(process *cli.Process) cli.Host {
	if s.asking == nil && s.settings.Client == nil {
		return nil
	}
	return hosting{host: s.asking, pool: s.pool, process: process, isRest: true}
}

// Asked is of cli.Host.
func (h hosting) Asked(a cli.Ask) cli.Taking {
	ask := api.Ask{ID: a.ID, Subtype: a.Subtype, Line: a.Line,
		Answer: func(response json.RawMessage) error { return notAsked(h.process.Answer(a.ID, response)) },
		Refuse: func(why string) error { return notAsked(h.process.AnswerError(a.ID, why)) }}
	ask.Answer = h.checked(ask)
	switch {
	case h.isRest && (a.Subtype == api.AskTool || a.Subtype == api.AskElicitation):
		return cli.Refuse
	case h.host == nil:
		go func() { _ = ask.AnswerForNobody(nobodyAnswers) }() // which a process that doesn't read may outlast
	case h.host.Asked(ask):
		return cli.Show
	}
	return cli.Take
}

// Withdrawn is of cli.Host.
func (h hosting) Withdrawn(id string) {
	if h.host != nil {
		h.host.Withdrawn(id)
	}
}

// checked passes a client's answer on, if it is one that clients may give. Else nobody has given one: a client of a
// channel sends again what is refused, and gives up without a word, so the model is told instead.
func (h hosting) checked(ask api.Ask) func(response json.RawMessage) error {
	asked, unchecked := gjson.GetBytes(ask.Line, "request"), ask
	return func(response json.RawMessage) error {
		setsMode, err := api.AnswersAll(asked, gjson.ParseBytes(response), h.pool.opts.permissions())
		if err != nil {
			return unchecked.AnswerForNobody("What the client has answered is refused: " + err.Error())
		}
		if setsMode {
			h.process.PermissionChanged()
		}
		return unchecked.Answer(response)
	}
}

func notAsked(err error) error {
	if errors.Is(err, cli.ErrNotAsked) {
		return api.ErrNotAsked
	}
	return err
}
