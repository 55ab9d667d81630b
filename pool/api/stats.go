package api

import "time"

// Stats is the answer of GET /v1/pool/stats: all instances' processes. Times are in seconds where they are numbers.
type Stats struct {
	PoolSize        int          `json:"pool_size"`
	MaxIdleTime     float64      `json:"max_idle_time"`
	CleanupInterval float64      `json:"cleanup_interval"`
	ActiveUsers     []ActiveUser `json:"active_users"`
	Cleanup         CleanupStats `json:"cleanup_stats"`
	Instances       []Instance   `json:"instances"`
	FirstToken      FirstToken   `json:"first_token"`
	AsOf            time.Time    `json:"as_of"`
	Stale           bool         `json:"stale"`
}

// ActiveUser is a user with at least one process; where there are more, the one that was used last is described.
type ActiveUser struct {
	UserID    string    `json:"user_id"`
	IdleTime  float64   `json:"idle_time"`
	Uptime    float64   `json:"uptime"`
	CreatedAt time.Time `json:"created_at"`
	LastUsed  time.Time `json:"last_used"`
	PID       int       `json:"pid"`
	Alive     bool      `json:"alive"`
	Processes int       `json:"processes"`
	Busy      bool      `json:"busy"`
	Instance  string    `json:"instance"`
}

// CleanupStats tell what the reapers of all instances did.
type CleanupStats struct {
	LastCleanup  *time.Time `json:"last_cleanup"`
	TotalCleaned int64      `json:"total_cleaned"`
	AvgLifetime  float64    `json:"avg_lifetime"`
}

// Instance is one pool instance. Age is that of its snapshot. Queued requests wait for their conversation;
// StandbyMisses are the first requests since the start that found no standby ready, ParkedMisses those of conversations
// with a past that found no parked process, MovedTooLarge those that had too many files to go on in one's workspace.
// Busy are processes with a turn; Pending are those that start or end, and users who wait for one.
type Instance struct {
	ID            string          `json:"id"`
	Age           float64         `json:"age"`
	Processes     int             `json:"processes"`
	Busy          int             `json:"busy"`
	Pending       int             `json:"pending"`
	Standby       int             `json:"standby"`
	StandbyMisses int64           `json:"standby_misses"`
	Parked        int             `json:"parked"`
	ParkedMisses  int64           `json:"parked_misses"`
	MovedTooLarge int64           `json:"moved_too_large"`
	Queued        int             `json:"queued"`
	Capacity      int             `json:"capacity"`
	Draining      bool            `json:"draining"`
	Protections   map[string]bool `json:"protections"`
	Served        Served          `json:"served"`
}

// Served is how many turns there were since the instance's start, by how they found their process, as a Receipt says.
type Served struct {
	Standby int64 `json:"standby"`
	Reused  int64 `json:"reused"`
	Resumed int64 `json:"resumed"`
	Cold    int64 `json:"cold"`
}

// FirstToken is how long turns of all instances took from their request until their first token: of the last Period,
// and of each of the last 15 minutes that had any.
type FirstToken struct {
	Period float64 `json:"period"`
	Quantiles
	Minutes []FirstTokenMinute `json:"minutes"`
}

// FirstTokenMinute is the same of one minute.
type FirstTokenMinute struct {
	Start time.Time `json:"start"`
	Quantiles
}

// Quantiles are times that so many percent of Count stayed below, within 9 %; 0 where Count is.
type Quantiles struct {
	Count int64   `json:"count"`
	P50   float64 `json:"p50"`
	P95   float64 `json:"p95"`
	P99   float64 `json:"p99"`
}
