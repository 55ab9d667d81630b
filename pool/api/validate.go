package api

import (
	"encoding/json"
	"net/url"
	"regexp"
	"strings"
)

var (
	uuidForm   = regexp.MustCompile(`^[0-9a-fA-F]{8}-([0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}$`)
	modelForm  = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._:@/\[\]-]*$`)
	serverForm = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)
)

func (r *Request) validate() error {
	if err := r.validateCredential(); err != nil {
		return err
	}
	if err := r.validateMessages(); err != nil {
		return err
	}
	if err := r.validateSession(); err != nil {
		return err
	}
	for field, model := range map[string]*string{"model": &r.Model, "fallback_model": r.FallbackModel} {
		if model != nil && *model != "" && (len(*model) > maxModel || !modelForm.MatchString(*model)) {
			return Invalid("%s: must be a model's name", field)
		}
	}
	if r.System != nil && len(*r.System) > maxSystem {
		return Invalid("system: must not be longer than %d bytes", maxSystem)
	}
	if r.System != nil && strings.ContainsRune(*r.System, 0) {
		return Invalid("system: must not contain NUL")
	}
	if r.PermissionMode != "" && !isMode(r.PermissionMode) {
		return Invalid("permission_mode: must be one of default, acceptEdits, plan, bypassPermissions, dontAsk")
	}
	if r.OnDisconnect != "" && r.OnDisconnect != Interrupt && r.OnDisconnect != Finish {
		return Invalid("on_disconnect: must be interrupt or finish")
	}
	if r.Background != "" && r.Background != None && r.Background != Wait {
		return Invalid("background: must be none or wait")
	}
	if err := r.validateLimits(); err != nil {
		return err
	}
	if err := r.validateServers(); err != nil {
		return err
	}
	return r.validateClientTools()
}

// isMode reports whether the CLI has a permission mode of that name.
func isMode(name string) bool {
	switch name {
	case "default", "acceptEdits", "plan", "bypassPermissions", "dontAsk":
		return true
	}
	return false
}

// mostTurns and mostBudget are what a request's own limits may be at most.
const mostTurns, mostBudget = 1_000_000, 1_000_000

func (r *Request) validateLimits() error {
	if b := r.MaxBudgetUSD; b != nil && !(*b > 0 && *b <= mostBudget) {
		return Invalid("max_budget_usd: must be a number above 0 and at most %d", mostBudget)
	}
	if n := r.MaxTurns; n != nil && (*n < 1 || *n > mostTurns) {
		return Invalid("max_turns: must be a whole number from 1 to %d", mostTurns)
	}
	return nil
}

func (r *Request) validateCredential() error {
	switch {
	case r.OAuth != nil && r.APIKey != "":
		return Invalid("oauth_credentials and api_key exclude each other")
	case r.OAuth == nil && r.APIKey == "":
		return Authentication("oauth_credentials.access_token or api_key is required")
	case r.OAuth != nil && r.OAuth.AccessToken == "":
		return Authentication("oauth_credentials.access_token is required")
	case r.OAuth == nil && strings.HasPrefix(r.APIKey, OAuthPrefix):
		return Invalid("api_key: an OAuth token belongs into oauth_credentials.access_token")
	case !isToken(r.Token()):
		return Invalid("the credential must be 8 to 4096 printable ASCII characters without spaces")
	}
	switch former := r.formerToken(); {
	case former == "":
	case !isToken(former):
		return Invalid("oauth_credentials.previous_access_token: must be 8 to 4096 printable ASCII characters without spaces")
	case former == r.Token():
		return Invalid("oauth_credentials.previous_access_token: must not be the present one")
	}
	return nil
}

func isToken(text string) bool {
	isOther := func(r rune) bool { return r < '!' || r > '~' }
	return len(text) >= 8 && len(text) <= 4096 && !strings.ContainsFunc(text, isOther)
}

func (r *Request) validateSession() error {
	if r.SessionID == "" {
		return nil
	}
	if !uuidForm.MatchString(r.SessionID) {
		return Invalid("session_id: must be a UUID")
	}
	r.SessionID = strings.ToLower(r.SessionID)
	return nil
}

func (r *Request) validateServers() error {
	if len(r.MCPServers) > maxServers {
		return Invalid("mcp_servers: at most %d are accepted", maxServers)
	}
	if len(r.MCPServers) == 0 {
		return nil
	}
	if text, _ := json.Marshal(r.MCPServers); len(text) > maxServersSize { // of strings only: can't fail
		return Invalid("mcp_servers: must not be longer than %d bytes in all", maxServersSize)
	}
	for name, s := range r.MCPServers {
		if !serverForm.MatchString(name) || r.containsToken(name) { // messages below repeat the name
			return Invalid("mcp_servers: a name must match %s", serverForm)
		}
		if name == ToolServer {
			return Invalid("mcp_servers.%s: the name is that of the tools' own server, choose another one", ToolServer)
		}
		if s.Type == "" && s.Command != "" {
			s.Type = "stdio"
		}
		if err := s.validate(name); err != nil {
			return err
		}
		r.MCPServers[name] = s
	}
	return nil
}

// containsToken reports whether a text holds a token of the request.
func (r *Request) containsToken(text string) bool {
	former := r.formerToken()
	return strings.Contains(text, r.Token()) || former != "" && strings.Contains(text, former)
}

func (s MCPServer) validate(name string) error {
	switch s.Type {
	case "stdio":
		if s.Command == "" || s.URL != "" {
			return Invalid("mcp_servers.%s: a stdio server needs a command and no url", name)
		}
	case "http", "sse":
		u, err := url.Parse(s.URL)
		if s.Command != "" || err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			return Invalid("mcp_servers.%s: an http or sse server needs an http(s) url and no command", name)
		}
	default:
		return Invalid("mcp_servers.%s.type: must be stdio, http or sse", name)
	}
	for _, text := range append(append([]string{s.Command}, s.Args...), flatten(s.Env)...) {
		if strings.ContainsRune(text, 0) {
			return Invalid("mcp_servers.%s: must not contain NUL", name)
		}
	}
	for key := range s.Env {
		if key == "" || strings.Contains(key, "=") {
			return Invalid("mcp_servers.%s.env: a name must not be empty or contain =", name)
		}
	}
	for _, text := range flatten(s.Headers) {
		if strings.ContainsAny(text, "\x00\r\n") {
			return Invalid("mcp_servers.%s.headers: must not contain line breaks or NUL", name)
		}
	}
	for _, text := range append(flatten(s.Headers), s.URL) {
		if strings.Contains(text, "${") { // the CLI puts its environment there
			return Invalid("mcp_servers.%s: a url and headers must not contain ${", name)
		}
	}
	return nil
}

func flatten(m map[string]string) []string {
	var all []string
	for k, v := range m {
		all = append(all, k, v)
	}
	return all
}
