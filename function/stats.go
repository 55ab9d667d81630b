package function

import (
	"cmp"
	"maps"
	"net/http"
	"slices"
	"time"

	"claudepool/infra/latency"
	"claudepool/infra/logging"
	"claudepool/infra/snapshot"
	"claudepool/pool/api"
)

// private lets only those have an answer who may see the stats, and nobody keep it.
func (f *Front) private(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		if !f.authorized(r) {
			w.Header().Set("WWW-Authenticate", "Bearer")
			api.WriteError(w, logging.RequestID(r.Header), api.Authentication("stats need the stats token"))
			return
		}
		next(w, r)
	}
}

func (f *Front) stats(w http.ResponseWriter, _ *http.Request) {
	list, asOf, stale := f.opts.View.List()
	f.limitWrite(http.NewResponseController(w))
	writeJSON(w, aggregate(list, asOf, stale, time.Now()))
}

// aggregate merges the instances' snapshots. A user who is just moving stands in two of them: the entry used last wins.
func aggregate(list []snapshot.Instance, asOf time.Time, stale bool, now time.Time) api.Stats {
	stats := api.Stats{ActiveUsers: []api.ActiveUser{}, Instances: []api.Instance{}, AsOf: asOf.UTC(), Stale: stale}
	type place struct {
		user     snapshot.User
		instance string
	}
	users := make(map[string]place)
	var lifetime float64 // seconds, of all that were cleaned
	for _, i := range list {
		stats.PoolSize += i.Processes
		stats.MaxIdleTime, stats.CleanupInterval = i.MaxIdle.Seconds(), i.CleanupInterval.Seconds()
		stats.Cleanup.TotalCleaned += i.Cleanup.Total
		lifetime += i.Cleanup.AvgLifetime.Seconds() * float64(i.Cleanup.Total)
		if last := i.Cleanup.Last; !last.IsZero() && (stats.Cleanup.LastCleanup == nil ||
			last.After(*stats.Cleanup.LastCleanup)) {
			stats.Cleanup.LastCleanup = &last
		}
		stats.Instances = append(stats.Instances, api.Instance{ID: i.ID, Age: max(0, now.Sub(i.At).Seconds()),
			Processes: i.Processes, Busy: i.Busy, Pending: i.Pending, Served: api.Served(i.Served),
			Standby: i.Standby, StandbyMisses: i.Misses, Parked: i.Parked, ParkedMisses: i.ParkedMisses,
			MovedTooLarge: i.MovedTooLarge,
			Queued:        i.Queued, Capacity: i.Capacity, Draining: i.Draining, Protections: i.Protections})
		for _, u := range i.Users {
			if known, ok := users[u.ID]; !ok || u.LastUsed.After(known.user.LastUsed) {
				users[u.ID] = place{u, i.ID}
			}
		}
	}
	if stats.Cleanup.TotalCleaned > 0 {
		stats.Cleanup.AvgLifetime = lifetime / float64(stats.Cleanup.TotalCleaned)
	}
	for id, p := range users {
		stats.ActiveUsers = append(stats.ActiveUsers, activeUser(id, p.user, p.instance, now))
	}
	slices.SortFunc(stats.ActiveUsers, func(a, b api.ActiveUser) int { return cmp.Compare(a.UserID, b.UserID) })
	stats.FirstToken = firstToken(list, now)
	slices.SortFunc(stats.Instances, func(a, b api.Instance) int { return cmp.Compare(a.ID, b.ID) })
	return stats
}

// activeUser describes a user as of now: idle time goes on after the snapshot, unless a turn is running.
func activeUser(id string, u snapshot.User, instance string, now time.Time) api.ActiveUser {
	idle := now.Sub(u.LastUsed).Seconds()
	if u.Busy {
		idle = 0
	}
	return api.ActiveUser{UserID: api.ShortUser(id) + "...", IdleTime: max(0, idle),
		Uptime:    max(0, now.Sub(u.CreatedAt).Seconds()),
		CreatedAt: u.CreatedAt.UTC(), LastUsed: u.LastUsed.UTC(), PID: u.PID, Alive: u.Alive, Processes: u.Processes,
		Busy: u.Busy, Instance: instance}
}

// recentMinutes is how many minutes the present times to the first token are of.
const recentMinutes = 5

// firstToken adds up what the instances counted in the same minutes.
func firstToken(list []snapshot.Instance, now time.Time) api.FirstToken {
	var recent latency.Sum
	minutes := make(map[time.Time]*latency.Sum)
	present := now.UTC().Truncate(time.Minute)
	for _, i := range list {
		for _, m := range i.FirstTokens {
			age := int(present.Sub(m.Start) / time.Minute)
			if age >= latency.Minutes {
				continue // it has grown old since the snapshot
			}
			if age < recentMinutes {
				recent.Add(m)
			}
			sum := minutes[m.Start.UTC()]
			if sum == nil {
				sum = &latency.Sum{}
				minutes[m.Start.UTC()] = sum
			}
			sum.Add(m)
		}
	}
	all := api.FirstToken{Period: (recentMinutes * time.Minute).Seconds(), Quantiles: quantiles(&recent),
		Minutes: []api.FirstTokenMinute{}}
	for _, start := range slices.SortedFunc(maps.Keys(minutes), time.Time.Compare) {
		all.Minutes = append(all.Minutes, api.FirstTokenMinute{Start: start, Quantiles: quantiles(minutes[start])})
	}
	return all
}

func quantiles(of *latency.Sum) api.Quantiles {
	return api.Quantiles{Count: of.Count(), P50: of.Quantile(0.5).Seconds(), P95: of.Quantile(0.95).Seconds(),
		P99: of.Quantile(0.99).Seconds()}
}
