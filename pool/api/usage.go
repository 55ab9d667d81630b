package api

// The paths at which fronts tell what users' turns took.
const (
	PathUsage      = "/v1/usage"
	PathAdminUsage = "/v1/admin/usage"
)

// UsageReport is what turns took in some days, in UTC.
type UsageReport struct {
	From  string      `json:"from"` // the first day, as 2026-11-28
	To    string      `json:"to"`   // the last one
	Usage []UsageRow  `json:"usage"`
	Total *UsageTotal `json:"total,omitempty"` // of one user
	Next  string      `json:"next,omitempty"`  // where the next part begins
}

// UsageRow is what calls of one model took on a day, of a user or, beside those, of all who came by a key of the
// service.
type UsageRow struct {
	Day    string `json:"day"`
	UserID string `json:"user_id,omitempty"`
	KeyID  string `json:"key_id,omitempty"`
	Model  string `json:"model"`
	UsageTotal
}

// UsageTotal is what calls of the API took, with those of subagents and for compaction.
type UsageTotal struct {
	APICalls     int64   `json:"api_calls"`
	Input        int64   `json:"input_tokens"`
	Output       int64   `json:"output_tokens"`
	CacheRead    int64   `json:"cache_read_input_tokens"`
	CacheWrite5m int64   `json:"cache_creation_5m_input_tokens"`
	CacheWrite1h int64   `json:"cache_creation_1h_input_tokens"`
	WebSearches  int64   `json:"web_search_requests"`
	CostUSD      float64 `json:"cost_usd"`
}
