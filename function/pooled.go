package function

import (
	"net/http"

	"claudepool/pool/api"
)

// messages begins a turn.
func (f *Front) messages(w http.ResponseWriter, r *http.Request) {
	f.serve(w, r, kind{decode: decodePooled, begin: to(api.PathMessages)})
}

// decodePooled refuses what a stream of the pooled contract has no answer to.
func decodePooled(body []byte) (*api.Request, error) {
	req, err := api.Decode(body)
	if err == nil && req.ClientTools != nil {
		return nil, api.Invalid("client_tools: tools of the client are for %s", api.PathMessagesAPI)
	}
	return req, err
}

// resume goes on with the stream of a turn that was begun before.
func (f *Front) resume(w http.ResponseWriter, r *http.Request) {
	f.serve(w, r, kind{decode: api.DecodeCredential, begin: func(*api.Body) (call, error) {
		last := r.Header.Get(api.HeaderLastEvent)
		_, _, err := api.ParseEventID(last)
		return call{path: api.PathResume, last: last}, err
	}})
}

// giveAnswer gives a turn that runs what it has asked of its client.
func (f *Front) giveAnswer(w http.ResponseWriter, r *http.Request) {
	f.serve(w, r, kind{decode: func(body []byte) (*api.Request, error) {
		answer, err := api.DecodeAnswer(body)
		if err != nil {
			return nil, err
		}
		return answer.Request, nil
	}, begin: to(api.PathAnswer), isFree: true}) // or who has asked too much could not even answer
}

// delete deletes conversations of the user.
func (f *Front) delete(w http.ResponseWriter, r *http.Request) {
	f.serve(w, r, kind{decode: api.DecodeDeletion, begin: to(api.PathDelete)})
}

// to is what begins requests of which nothing but the path matters.
func to(path string) func(*api.Body) (call, error) {
	return func(*api.Body) (call, error) { return call{path: path}, nil }
}
