package function

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"claudepool/infra/logging"
	"claudepool/pool/api"
)

// channelPause is how long a channel's stream must have lasted to be taken up again here: else its client, who waits
// longer each time, is to come again.
const channelPause = time.Second

// channelPatience is how long a channel's stream waits for its user's next owner: above a lease.
const channelPatience = 30 * time.Second

// channelStream hands over what a conversation's channel has to tell, for as long as the client listens. Whatever
// instance the user is moved to, the stream goes on there.
func (f *Front) channelStream(w http.ResponseWriter, r *http.Request) {
	f.onChannel(w, r, func(ctx context.Context, c call, credential *api.Request, id string) error {
		ctx, cut := context.WithCancelCause(ctx)
		defer cut(nil)
		control := http.NewResponseController(w)
		defer context.AfterFunc(f.closing, func() {
			cut(errEnding)
			_ = control.SetWriteDeadline(time.Now().Add(lastWrite)) // of a reader who reads no more
		})()
		about, err := json.Marshal(api.Request{OAuth: credential.OAuth, APIKey: credential.APIKey, // #nosec G117
			SessionID: id})
		if err != nil {
			return err
		}
		c.path, c.last, c.body = api.PathChannelStream, r.Header.Get(api.HeaderLastEvent), newBody(about)
		answer, err := f.forward(ctx, c)
		if err != nil {
			return err
		}
		if answer.StatusCode != http.StatusOK {
			defer func() { _ = answer.Body.Close() }()
			f.passError(ctx, w, c, answer)
			return nil
		}
		f.followChannel(ctx, f.pass(w, c.id), c, answer)
		return nil
	})
}

// followChannel passes on what an instance tells, and goes on with the next owner when that ends.
func (f *Front) followChannel(ctx context.Context, client sink, c call, answer *http.Response) {
	client.open(answer.Header)
	out := &relay{front: f, client: client, user: c.user, last: c.last, hasIDs: true, isWhole: true}
	defer out.charge(0)
	for {
		began := time.Now()
		gone := out.copy(answer.Body)
		_ = answer.Body.Close()
		if gone || ctx.Err() != nil || time.Since(began) < channelPause {
			return // the client comes again, or gets to know then why it shouldn't
		}
		c.last = out.last
		if answer = f.followAgain(ctx, client, c); answer == nil {
			return
		}
	}
}

// followAgain has whoever owns the user now tell what follows, nil if nobody does in time or there is nothing any more.
// The client has pings meanwhile.
func (f *Front) followAgain(ctx context.Context, client sink, c call) *http.Response {
	for end := time.Now().Add(channelPatience); ctx.Err() == nil && time.Now().Before(end); {
		c.once = logging.RequestID(nil)
		answer, err := f.forward(ctx, c)
		switch {
		case err == nil && answer.StatusCode == http.StatusOK:
			return answer
		case err == nil:
			_ = answer.Body.Close()
			if answer.StatusCode < http.StatusInternalServerError {
				return nil
			}
		}
		if !client.write([]byte(api.Ping)) {
			return nil
		}
		select {
		case <-ctx.Done():
		case <-time.After(channelPause):
		}
	}
	return nil
}

// channelSend gives the owner what a client says on a channel.
func (f *Front) channelSend(w http.ResponseWriter, r *http.Request) {
	f.onChannel(w, r, func(ctx context.Context, c call, credential *api.Request, id string) error {
		body, err := f.readBody(ctx, w, r, f.intake)
		if err != nil {
			return err
		}
		defer body.Release()
		composed, err := api.ComposeSending(body.Bytes, credential, id)
		if err == nil {
			_, err = api.DecodeSending(composed)
		}
		if err != nil {
			return err
		}
		c.path, c.body = api.PathChannelSend, newBody(composed)
		answer, err := f.forward(ctx, c)
		if err != nil {
			return err
		}
		defer func() { _ = answer.Body.Close() }()
		f.limitWrite(http.NewResponseController(w))
		if answer.StatusCode != http.StatusOK {
			f.passError(ctx, w, c, answer)
			return nil
		}
		passAnswer(w, c.id, answer)
		return nil
	})
}

// onChannel checks what all requests of a channel have in common, and answers with the error of what is done about it.
func (f *Front) onChannel(w http.ResponseWriter, r *http.Request,
	do func(ctx context.Context, c call, credential *api.Request, id string) error) {
	request := logging.RequestID(r.Header)
	ctx, cut := context.WithCancelCause(logging.WithRequest(r.Context(), request, r.Header))
	defer cut(nil)
	defer f.cutBeforeDeadline(ctx, cut)()
	if err := f.precheck(w, r); err != nil {
		f.refuse(w, r, request, err)
		return
	}
	credential, err := api.CredentialIn(r.Header)
	id := ""
	if err == nil {
		id, err = api.CheckSession(r.PathValue("id"))
	}
	if err == nil {
		err = f.opts.Limits.user(ctx, w.Header(), credential.UserID())
	}
	if err == nil {
		err = do(ctx, call{id: request, once: logging.RequestID(nil), trace: r.Header, user: credential.UserID(),
			service: f.opts.APIKeys.idOf(r)}, credential, id)
	}
	if err != nil {
		f.refuse(w, r, request, public(ctx, err))
	}
}
