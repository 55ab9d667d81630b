// Package contract holds the answers that tests get from fronts against the description of the service, whatever else
// the tests are about.
package contract

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/gorillamux"

	"claudepool/function/openapi"
)

// maxBody is how much of a body is kept to be checked; of a longer one only the head is.
const maxBody = 4 << 20

// Tests is a *testing.M.
type Tests interface{ Run() int }

// Checked are the tests, which fail if http.DefaultClient gets an answer from a front that isn't as it is described.
func Checked(tests Tests) Tests { return checked{tests} }

type checked struct{ tests Tests }

func (c checked) Run() int {
	t, err := New(http.DefaultTransport)
	if err != nil {
		fmt.Fprintln(os.Stderr, "the description of the service:", err)
		return 1
	}
	http.DefaultClient.Transport = t
	code := c.tests.Run()
	for _, violation := range t.Violations() {
		fmt.Fprintln(os.Stderr, "not as the service is described:", violation)
		code = max(code, 1)
	}
	return code
}

// Transport checks the answers of fronts that come through it.
type Transport struct {
	next   http.RoundTripper
	doc    *openapi3.T
	router routers.Router

	mu         sync.Mutex // guards the following
	violations []string
}

// New returns a Transport.
func New(next http.RoundTripper) (*Transport, error) {
	doc, err := openapi3.NewLoader().LoadFromData(openapi.Document())
	if err != nil {
		return nil, err
	}
	if err := doc.Validate(context.Background()); err != nil {
		return nil, err
	}
	for _, kind := range []string{"text/html", "text/css", "text/javascript", "image/svg+xml"} {
		openapi3filter.RegisterBodyDecoder(kind, openapi3filter.FileBodyDecoder) // which takes a body as it is
	}
	router, err := gorillamux.NewRouter(doc)
	return &Transport{next: next, doc: doc, router: router}, err
}

// CloseIdleConnections is what http.Client's asks of a transport.
func (t *Transport) CloseIdleConnections() {
	if next, ok := t.next.(interface{ CloseIdleConnections() }); ok {
		next.CloseIdleConnections()
	}
}

// Violations tell, each once, what was not as described.
func (t *Transport) Violations() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.violations)
}

// RoundTrip is http.RoundTripper's.
func (t *Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	sent := r.Clone(context.WithoutCancel(r.Context()))
	answer, err := t.next.RoundTrip(r)
	if err != nil || answer.StatusCode == http.StatusRequestHeaderFieldsTooLarge { // net/http's own: no path was looked at
		return answer, err
	}
	route, params, found := t.router.FindRoute(sent)
	if errors.Is(found, routers.ErrPathNotFound) {
		return answer, nil // of another server, or tests look at it themselves
	}
	e := &exchange{answer: answer, sent: sent, route: route, params: params}
	answer.Body = &recorded{ReadCloser: answer.Body, done: func(body []byte, whole bool) {
		if err := t.check(e, body, whole); err != nil {
			t.violated(e, err)
		}
	}}
	return answer, nil
}

func (t *Transport) violated(e *exchange, err error) {
	text := fmt.Sprintf("%s %s: %d: %v", e.sent.Method, e.sent.URL.Path, e.answer.StatusCode, err)
	t.mu.Lock()
	defer t.mu.Unlock()
	if !slices.Contains(t.violations, text) {
		t.violations = append(t.violations, text)
	}
}

// exchange is a request and its answer.
type exchange struct {
	answer *http.Response
	sent   *http.Request
	route  *routers.Route // nil: the path has no such method
	params map[string]string
}

// check checks an answer, and what was asked if it was served.
func (t *Transport) check(e *exchange, body []byte, whole bool) error {
	if e.route == nil {
		return t.checkOther(e, body)
	}
	asked := &openapi3filter.RequestValidationInput{Request: e.sent, PathParams: e.params, Route: e.route,
		Options: &openapi3filter.Options{IncludeResponseStatus: true,
			AuthenticationFunc: openapi3filter.NoopAuthenticationFunc}}
	contentType := e.answer.Header.Get("Content-Type")
	isStream := strings.HasPrefix(contentType, "text/event-stream")
	asked.Options.ExcludeResponseBody = isStream || !whole
	asked.Options.WithCustomSchemaErrorFunc(brief)
	given := &openapi3filter.ResponseValidationInput{RequestValidationInput: asked, Status: e.answer.StatusCode,
		Header: e.answer.Header, Body: io.NopCloser(bytes.NewReader(body)), Options: asked.Options}
	if err := openapi3filter.ValidateResponse(context.Background(), given); err != nil {
		return fmt.Errorf("%w: %s", err, body[:min(len(body), 500)])
	}
	described := response(e.route.Operation, e.answer.StatusCode)
	if err := checkNames(described, e.answer.Header); err != nil {
		return err
	}
	if isStream {
		if err := t.checkStream(described, body); err != nil {
			return err
		}
	}
	return checkAsked(asked, e)
}

// checkOther checks the answer to a method that the path doesn't have.
func (t *Transport) checkOther(e *exchange, body []byte) error {
	switch status := e.answer.StatusCode; {
	case e.sent.Method == http.MethodOptions && status == http.StatusNoContent: // a preflight
		return nil
	case status != http.StatusMethodNotAllowed && status != http.StatusServiceUnavailable:
		return errors.New("the path has no such method")
	case e.sent.Method == http.MethodHead:
		return nil
	}
	if err := t.matches("Error", body); err != nil {
		return t.matches("ChatError", body)
	}
	return nil
}

// checkAsked has what the service accepts be what the description accepts.
func checkAsked(asked *openapi3filter.RequestValidationInput, e *exchange) error {
	if e.answer.StatusCode != http.StatusOK || e.sent.Body != nil && e.sent.GetBody == nil {
		return nil
	}
	if e.sent.GetBody != nil {
		body, err := e.sent.GetBody()
		if err != nil {
			return err
		}
		asked.Request = e.sent.Clone(context.Background())
		asked.Request.Body = body
	}
	if err := openapi3filter.ValidateRequest(context.Background(), asked); err != nil {
		return fmt.Errorf("accepted, but: %w", err)
	}
	return nil
}

// response is what the operation has for the status.
func response(of *openapi3.Operation, status int) *openapi3.Response {
	if ref := of.Responses.Status(status); ref != nil {
		return ref.Value
	}
	return &openapi3.Response{} // a HEAD's
}

// ours are the headers that no answer has but where they are described.
var ours = []string{"x-claudepool-", "request-id", "x-request-id", "x-should-retry", "retry-after", "server-timing",
	"anthropic-", "www-authenticate"}

func checkNames(described *openapi3.Response, header http.Header) error {
	for name := range header {
		name = strings.ToLower(name)
		isOurs := slices.ContainsFunc(ours, func(p string) bool { return strings.HasPrefix(name, p) })
		if isOurs && described.Headers[name] == nil {
			return fmt.Errorf("header %s is not described", name)
		}
	}
	return nil
}

// checkStream checks the data of the events, and the receipt. Only before an error may an event be cut.
func (t *Transport) checkStream(described *openapi3.Response, body []byte) error {
	events := []any{}
	var cut error
	for line := range bytes.Lines(body) {
		data, isData := bytes.CutPrefix(line, []byte("data: "))
		receipt, isReceipt := bytes.CutPrefix(line, []byte(": receipt "))
		switch {
		case !bytes.HasSuffix(line, []byte("\n")), string(data) == "[DONE]\n": // the rest wasn't read, or is none
		case isReceipt:
			if err := t.matches("Receipt", receipt); err != nil {
				return err
			}
		case isData && cut != nil && t.matches("Error", data) != nil:
			return cut
		case isData:
			var event any
			if cut = json.Unmarshal(data, &event); cut == nil {
				events = append(events, event)
			}
		}
	}
	name, _ := described.Content.Get("text/event-stream").Extensions["x-event"].(string)
	if t.doc.Components.Schemas[name] == nil {
		return fmt.Errorf("there is no schema %q", name)
	}
	list := openapi3.NewArraySchema() // as each check compiles its schema
	list.Items = t.doc.Components.Schemas[name]
	return errors.Join(cut, visit(list, events))
}

// matches checks JSON against a schema of that name.
func (t *Transport) matches(name string, text []byte) error {
	var value any
	if err := json.Unmarshal(text, &value); err != nil {
		return err
	}
	if err := visit(t.doc.Components.Schemas[name].Value, value); err != nil {
		return fmt.Errorf("%w: %s", err, text[:min(len(text), 500)])
	}
	return nil
}

func visit(schema *openapi3.Schema, value any) error {
	return schema.VisitJSON(value, openapi3.EnableJSONSchema2020(), openapi3.SetSchemaErrorMessageCustomizer(brief))
}

// brief leaves the schema out, which can be long.
func brief(err *openapi3.SchemaError) string {
	return fmt.Sprintf("%s at /%s", err.Reason, strings.Join(err.JSONPointer(), "/"))
}
