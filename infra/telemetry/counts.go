package telemetry

import (
	"context"
	"sync"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// Counts is a counter by what K says, of which there may be only so many. It is read when somebody asks, so that to
// count takes a fraction of what the SDK's own counter does for it. It may be used concurrently.
type Counts[K comparable] struct {
	attributes func(K) []attribute.KeyValue
	mu         sync.Mutex // guards counted
	counted    map[K]int64
}

// NewCounts returns Counts that the meter reads under a name.
func NewCounts[K comparable](of metric.Meter, attributes func(K) []attribute.KeyValue, name, unit,
	about string) (*Counts[K], error) {
	c := &Counts[K]{attributes: attributes, counted: make(map[K]int64)}
	counter, err := of.Int64ObservableCounter(name, metric.WithUnit(unit), metric.WithDescription(about))
	if err == nil {
		_, err = of.RegisterCallback(func(_ context.Context, to metric.Observer) error {
			c.tell(func(n int64, set metric.MeasurementOption) { to.ObserveInt64(counter, n, set) })
			return nil
		}, counter)
	}
	return c, err
}

// Add counts one more.
func (c *Counts[K]) Add(k K) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.counted[k]++
}

func (c *Counts[K]) tell(to func(n int64, set metric.MeasurementOption)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for k, n := range c.counted {
		to(n, metric.WithAttributeSet(attribute.NewSet(c.attributes(k)...)))
	}
}
