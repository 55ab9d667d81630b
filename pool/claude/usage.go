package claude

import "github.com/tidwall/gjson"

// Usage is what API calls took.
type Usage struct {
	InputTokens         int64
	OutputTokens        int64
	CacheReadTokens     int64
	CacheCreationTokens int64
	CostUSD             float64
}

// usageOf sums what a result says of each model. `usage` of a result leaves compaction and subagents out, and
// `total_cost_usd` and `modelUsage` are running totals, which go on in a process that resumes.
func usageOf(models gjson.Result) (sum Usage) {
	models.ForEach(func(_, of gjson.Result) bool {
		sum.InputTokens += of.Get("inputTokens").Int()
		sum.OutputTokens += of.Get("outputTokens").Int()
		sum.CacheReadTokens += of.Get("cacheReadInputTokens").Int()
		sum.CacheCreationTokens += of.Get("cacheCreationInputTokens").Int()
		sum.CostUSD += of.Get("costUSD").Float()
		return true
	})
	return sum.valid()
}

// valid is the usage without a cost that is no number: what a CLI writes is not to be relied on.
func (u Usage) valid() Usage {
	if !(u.CostUSD >= 0 && u.CostUSD < 1e9) {
		u.CostUSD = 0
	}
	return u
}

// Plus is what both took.
func (u Usage) Plus(o Usage) Usage {
	return Usage{u.InputTokens + o.InputTokens, u.OutputTokens + o.OutputTokens, u.CacheReadTokens + o.CacheReadTokens,
		u.CacheCreationTokens + o.CacheCreationTokens, u.CostUSD + o.CostUSD}
}
