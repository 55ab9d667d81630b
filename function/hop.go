package function

import (
	"bytes"
	"context"
	"net"
	"net/http"
	"time"

	"claudepool/infra/hop"
	"claudepool/router"
)

type ownerKey struct{}

// newHop returns a request to an instance. Its URL names the instance by its fingerprint instead of its address, because
// connections are kept and used again by the URL's host: an address may be another instance's by then.
func newHop(ctx context.Context, owner router.Owner, path string, body []byte) (*http.Request, error) {
	ctx = context.WithValue(ctx, ownerKey{}, owner)
	url := "https://instance-" + owner.Fingerprint + path
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	r.Host = owner.Addr
	return r, nil
}

// newClient returns a client for what newHop makes.
func newClient() *http.Client {
	return &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			DialTLSContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				owner := ctx.Value(ownerKey{}).(router.Owner)
				return hop.Dial(ctx, owner.Addr, owner.Fingerprint)
			},
			DisableCompression: true, ResponseHeaderTimeout: hopSilence, MaxIdleConnsPerHost: 256, IdleConnTimeout: 5 * time.Minute,
		},
	}
}
