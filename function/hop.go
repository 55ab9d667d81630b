package function

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"claudepool/infra/hop"
	"claudepool/pool/api"
	"claudepool/router"
)

// body is what a call sends. The transport keeps a request until its answer has ended, and with it the body: dropped, a
// large one doesn't stay in memory for as long as a stream lasts. It may be used concurrently.
type body struct{ bytes atomic.Pointer[[]byte] }

func newBody(b []byte) *body {
	all := new(body)
	all.bytes.Store(&b)
	return all
}

// drop makes the body an empty one.
func (b *body) drop() { b.bytes.Store(new([]byte)) }

// small is how many bytes aren't worth dropping. They go with the headers in one write, as the transport knows what a
// bytes.Reader is, and that it doesn't have to be waited for.
const small = 2 << 10

func (b *body) open() (io.ReadCloser, error) {
	if all := *b.bytes.Load(); len(all) <= small {
		return io.NopCloser(bytes.NewReader(all)), nil
	}
	return io.NopCloser(&bodyReader{of: b}), nil
}

type bodyReader struct {
	of *body
	at int
}

func (r *bodyReader) Read(p []byte) (int, error) {
	all := *r.of.bytes.Load()
	if r.at >= len(all) {
		return 0, io.EOF
	}
	n := copy(p, all[r.at:])
	r.at += n
	return n, nil
}

// credentialOf is the body of a request with the credential alone.
func credentialOf(req *api.Request) []byte {
	alone := api.Request{APIKey: req.APIKey}
	if req.OAuth != nil {
		alone.OAuth = &api.OAuthCredentials{AccessToken: req.OAuth.AccessToken}
	}
	text, _ := json.Marshal(alone) // #nosec G117 -- it goes to where it is used, encrypted; strings can't fail
	return text
}

type ownerKey struct{}

func newHop(ctx context.Context, owner router.Owner, method, path string, body *body) (*http.Request, error) {
	r, err := newRequest(ctx, owner, method, path)
	if err != nil || method == http.MethodGet {
		return r, err
	}
	r.ContentLength, r.GetBody = int64(len(*body.bytes.Load())), body.open
	r.Body, _ = body.open()
	return r, nil
}

// newRequest returns a request to an instance. Its URL names the instance by its fingerprint instead of its address,
// because connections are kept and used again by the URL's host: an address may be another instance's by then.
func newRequest(ctx context.Context, owner router.Owner, method, path string) (*http.Request, error) {
	ctx = context.WithValue(ctx, ownerKey{}, owner)
	r, err := http.NewRequestWithContext(ctx, method, "https://instance-"+owner.Fingerprint+path, nil)
	if err != nil {
		return nil, err
	}
	r.Host = owner.Addr
	return r, nil
}

// Client makes the requests to instances, and keeps connections to them.
type Client struct {
	http *http.Transport
	hops http.RoundTripper // the same, measured where anything is
}

// Reach leaves a connection to an instance for the next request, which then doesn't wait for one.
func (c *Client) Reach(ctx context.Context, owner router.Owner) error {
	r, err := newRequest(ctx, owner, http.MethodGet, "/health")
	if err != nil {
		return err
	}
	response, err := c.http.RoundTrip(r)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	_, err = io.Copy(io.Discard, response.Body) // or the connection isn't kept
	return err
}

// Measure puts something around the transport of what clients' requests ask of instances. It is to be called before
// the first of them.
func (c *Client) Measure(around func(http.RoundTripper) http.RoundTripper) { c.hops = around(c.http) }

// NewClient returns a Client. Front.Drain closes its connections.
func NewClient() *Client {
	to := &http.Transport{
		DialTLSContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			owner := ctx.Value(ownerKey{}).(router.Owner)
			return hop.Dial(ctx, owner.Addr, owner.Fingerprint)
		},
		DisableCompression: true, ResponseHeaderTimeout: hopSilence, MaxIdleConnsPerHost: 256,
		IdleConnTimeout: 5 * time.Minute,
	}
	return &Client{http: to, hops: to}
}
