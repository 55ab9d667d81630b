package telemetry

import (
	"sync"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// Sets keeps the sets of attributes that are measured with, each by what it is made of: few are used again and again,
// and to make one takes longer than to measure. It may be used concurrently.
type Sets[K comparable] struct {
	attributes func(K) []attribute.KeyValue
	mu         sync.Mutex // guards made
	made       map[K]Set
}

// Set is one, as counters and as histograms take it.
type Set struct {
	Add    []metric.AddOption
	Record []metric.RecordOption
}

// NewSets returns Sets of what has those attributes. There may be only so many of it.
func NewSets[K comparable](attributes func(K) []attribute.KeyValue) *Sets[K] {
	return &Sets[K]{attributes: attributes, made: make(map[K]Set)}
}

// Of is the set of what k says.
func (s *Sets[K]) Of(k K) Set {
	s.mu.Lock()
	defer s.mu.Unlock()
	set, isMade := s.made[k]
	if !isMade {
		option := metric.WithAttributeSet(attribute.NewSet(s.attributes(k)...))
		set = Set{Add: []metric.AddOption{option}, Record: []metric.RecordOption{option}}
		s.made[k] = set
	}
	return set
}
