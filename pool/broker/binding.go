package broker

import (
	"io"
	"net/http"
)

// binding is whose a process's calls are, and what becomes of them.
type binding struct {
	credential Credential
	rewriter   Rewriter // nil: calls are passed on as they are
	bill       Bill     // nil: nobody is told of calls
}

// Rewriter changes a call on its way to the API, without changing its length. Its methods may be called concurrently.
type Rewriter interface {
	Reader(body io.Reader) io.Reader
	ReplaceString(header string) string
}

// Bind makes the calls that begin from now on those of the credential's owner. The error is ErrBound or ErrBusy.
func (g *Grant) Bind(c Credential) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.credential == c {
		return nil
	}
	if g.credential != (Credential{}) {
		return ErrBound
	}
	if g.open > 0 {
		return ErrBusy
	}
	g.credential = c
	return nil
}

// Rebind makes the calls that begin from now on those of another credential of the same person. The error is ErrBound
// if the Grant stands for neither.
func (g *Grant) Rebind(from, to Credential) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.credential != from && g.credential != to {
		return ErrBound
	}
	g.credential = to
	return nil
}

// Rewrite has the calls that begin from now on changed.
func (g *Grant) Rewrite(r Rewriter) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.rewriter = r
}

// change changes a call of the process.
func change(r *http.Request, by Rewriter) {
	r.Body = struct {
		io.Reader
		io.Closer
	}{by.Reader(r.Body), r.Body}
	for _, values := range r.Header {
		for i, value := range values {
			values[i] = by.ReplaceString(value)
		}
	}
}

// Charge has the calls that begin from now on be told to the bill.
func (g *Grant) Charge(b Bill) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.bill = b
}
