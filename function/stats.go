package function

import (
	"cmp"
	"net/http"
	"slices"
	"time"

	"claudepool/infra/logging"
	"claudepool/infra/snapshot"
	"claudepool/pool/api"
)

func (f *Front) stats(w http.ResponseWriter, r *http.Request) {
	if !f.authorized(r) {
		w.Header().Set("WWW-Authenticate", "Bearer")
		api.WriteError(w, logging.RequestID(r.Header), api.Authentication("stats need the stats token"))
		return
	}
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
			Processes: i.Processes,
			Standby:   i.Standby, StandbyMisses: i.Misses, Parked: i.Parked, ParkedMisses: i.ParkedMisses,
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
		Instance: instance}
}
