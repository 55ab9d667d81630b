package function

import (
	"crypto/subtle"
	"encoding/csv"
	"errors"
	"mime"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"claudepool/infra/logging"
	"claudepool/infra/prices"
	"claudepool/infra/usage"
	"claudepool/pool/api"
)

const (
	// usualDays are told of where no days are asked for.
	usualDays = 30
	// usualSubjects and mostSubjects are how many users an operator is told of at a time.
	usualSubjects, mostSubjects = 100, 500
	// usageRetry is when sums may be there that aren't now, restoreRetry when Redis has lost them.
	usageRetry, restoreRetry = time.Second, 5 * time.Second
	// headerNext is where an answer says that is no JSON what Next says in one that is.
	headerNext = "X-Claudepool-Next"
)

var subjectForm = regexp.MustCompile(`^(key-)?[0-9a-f]{1,16}$`)

// usage tells who asks what its turns took.
func (f *Front) usage(w http.ResponseWriter, r *http.Request) {
	id := logging.RequestID(r.Header)
	report, err := f.usageOfUser(w, r)
	f.answerUsage(w, r, id, report, err)
}

func (f *Front) usageOfUser(w http.ResponseWriter, r *http.Request) (*api.UsageReport, error) {
	if err := f.precheck(w, r); err != nil {
		return nil, err
	}
	req, err := api.CredentialIn(r.Header)
	if err != nil {
		return nil, err
	}
	if err := f.opts.Limits.user(r.Context(), w.Header(), req.UserID()); err != nil {
		return nil, err
	}
	report, days, err := askedDays(r.URL.Query(), time.Now())
	if err != nil {
		return nil, err
	}
	rows, err := f.opts.Usage.Of(r.Context(), req.UserID(), days)
	if err != nil {
		return nil, err
	}
	var total usage.Sum
	for _, row := range rows {
		total.Add(row.Sum)
		row.User = ""
		report.Usage = append(report.Usage, rowOf(row))
	}
	sum := totalOf(total)
	report.Total = &sum
	return report, nil
}

// adminUsage tells the operator what all users' turns took.
func (f *Front) adminUsage(w http.ResponseWriter, r *http.Request) {
	id := logging.RequestID(r.Header)
	report, err := f.usageOfAll(w, r)
	f.answerUsage(w, r, id, report, err)
}

func (f *Front) usageOfAll(w http.ResponseWriter, r *http.Request) (*api.UsageReport, error) {
	if f.opts.StatsToken == "" {
		return nil, api.NotFound("there is no STATS_TOKEN, without which nobody is told")
	}
	if subtle.ConstantTimeCompare([]byte(api.Bearer(r.Header)), []byte(f.opts.StatsToken)) != 1 {
		w.Header().Set("WWW-Authenticate", "Bearer")
		return nil, api.Authentication("usage of all users needs the stats token")
	}
	query := r.URL.Query()
	report, days, err := askedDays(query, time.Now())
	if err != nil {
		return nil, err
	}
	after, most := query.Get("after"), usualSubjects
	if after != "" && !subjectForm.MatchString(after) {
		return nil, api.Invalid("after: must be what next was in the answer before")
	}
	if text := query.Get("limit"); text != "" {
		if most, err = strconv.Atoi(text); err != nil || most < 1 || most > mostSubjects {
			return nil, api.Invalid("limit: must be a whole number from 1 to %d", mostSubjects)
		}
	}
	rows, next, err := f.opts.Usage.All(r.Context(), days, after, most)
	if err != nil {
		return nil, err
	}
	report.Next = next
	for _, row := range rows {
		report.Usage = append(report.Usage, rowOf(row))
	}
	return report, nil
}

// askedDays reads for which days the usage is asked.
func askedDays(query url.Values, now time.Time) (*api.UsageReport, []string, error) {
	report := &api.UsageReport{From: query.Get("from"), To: query.Get("to"), Usage: []api.UsageRow{}}
	if report.To == "" {
		report.To = usage.Day(now)
	}
	last, err := time.Parse(time.DateOnly, report.To)
	if err != nil {
		return nil, nil, api.Invalid("to: must be a day such as 2026-11-28")
	}
	if report.From == "" {
		report.From = usage.Day(last.AddDate(0, 0, 1-usualDays))
	}
	first, err := time.Parse(time.DateOnly, report.From)
	if err != nil || first.After(last) {
		return nil, nil, api.Invalid("from: must be a day such as 2026-11-01, and not after to")
	}
	days := usage.Days(report.From, report.To)
	if len(days) > usage.KeepDays {
		return nil, nil, api.Invalid("from: at most %d days are told of at a time", usage.KeepDays)
	}
	return report, days, nil
}

func rowOf(r usage.Row) api.UsageRow {
	return api.UsageRow{Day: r.Day, UserID: r.User, KeyID: r.Key, Model: r.Model, UsageTotal: totalOf(r.Sum)}
}

func totalOf(s usage.Sum) api.UsageTotal {
	return api.UsageTotal{APICalls: s.Calls, Input: s.Input, Output: s.Output, CacheRead: s.CacheRead,
		CacheWrite5m: s.CacheWrite5m, CacheWrite1h: s.CacheWrite1h, WebSearches: s.WebSearches,
		CostUSD: float64(s.Cost) / prices.Dollar}
}

func (f *Front) answerUsage(w http.ResponseWriter, r *http.Request, id string, report *api.UsageReport, err error) {
	w.Header().Set("Cache-Control", "no-store")
	switch {
	case errors.As(err, new(*api.Error)):
		api.WriteError(w, id, err)
	case errors.Is(err, usage.ErrRestoring):
		api.WriteError(w, id, api.Unavailable(restoreRetry, "usage can't be told yet, try again"))
	case err != nil:
		f.opts.Logger.WarnContext(r.Context(), "usage can't be read", "error", err)
		api.WriteError(w, id, api.Unavailable(usageRetry, "usage can't be told now, try again"))
	case wantsCSV(r):
		f.limitWrite(http.NewResponseController(w))
		api.SetRequestID(w.Header(), id)
		writeCSV(w, report)
	default:
		f.limitWrite(http.NewResponseController(w))
		api.SetRequestID(w.Header(), id)
		writeJSON(w, report)
	}
}

func wantsCSV(r *http.Request) bool {
	if format := r.URL.Query().Get("format"); format != "" {
		return format == "csv"
	}
	for kind := range strings.SplitSeq(r.Header.Get("Accept"), ",") {
		if name, _, _ := mime.ParseMediaType(kind); name == "text/csv" {
			return true
		}
	}
	return false
}

// writeCSV writes the rows, with the names of columns in the first line.
func writeCSV(w http.ResponseWriter, report *api.UsageReport) {
	h := w.Header()
	h.Set("Content-Type", "text/csv; charset=utf-8; header=present")
	h.Set("X-Content-Type-Options", "nosniff")
	if report.Next != "" {
		h.Set(headerNext, report.Next)
	}
	out := csv.NewWriter(w)
	_ = out.Write([]string{"day", "user_id", "key_id", "model", "api_calls", "input_tokens", "output_tokens",
		"cache_read_input_tokens", "cache_creation_5m_input_tokens", "cache_creation_1h_input_tokens", "web_search_requests",
		"cost_usd"})
	for _, r := range report.Usage {
		line := []string{r.Day, r.UserID, r.KeyID, r.Model}
		for _, n := range []int64{r.APICalls, r.Input, r.Output, r.CacheRead, r.CacheWrite5m, r.CacheWrite1h, r.WebSearches} {
			line = append(line, strconv.FormatInt(n, 10))
		}
		_ = out.Write(append(line, strconv.FormatFloat(r.CostUSD, 'f', -1, 64)))
	}
	out.Flush()
}
