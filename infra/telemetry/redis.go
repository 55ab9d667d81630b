package telemetry

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/redis/go-redis/extra/redisotel/v9"
	"github.com/redis/go-redis/v9"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/semconv/v1.43.0/dbconv"
)

// Redis has the client's commands traced and timed. Their arguments have users' ids in them and stay out of it.
func (t *Telemetry) Redis(client *redis.Client) error {
	if t == nil {
		return nil
	}
	if t.traces != nil {
		err := redisotel.InstrumentTracing(client, redisotel.WithTracerProvider(t.traces),
			redisotel.WithDBStatement(false), redisotel.WithCallerEnabled(false))
		if err != nil {
			return fmt.Errorf("telemetry: %w", err)
		}
	}
	if t.metrics == nil {
		return nil
	}
	duration, err := dbconv.NewClientOperationDuration(t.Meter())
	if err != nil {
		return fmt.Errorf("telemetry: %w", err)
	}
	client.AddHook(redisTimes{duration.Inst(), NewSets(redisCommand.attributes)})
	return nil
}

// redisTimes records how long commands take. The library's own metrics are in milliseconds and nanoseconds, of which
// Prometheus' lint disapproves, and there for each address.
type redisTimes struct {
	duration metric.Float64Histogram
	sets     *Sets[redisCommand]
}

// redisCommand is what commands are timed by.
type redisCommand struct{ operation, failure string }

func (c redisCommand) attributes() []attribute.KeyValue {
	of := []attribute.KeyValue{semconv.DBSystemNameRedis, semconv.DBOperationName(c.operation)}
	if c.failure != "" {
		of = append(of, semconv.ErrorTypeKey.String(c.failure))
	}
	return of
}

// DialHook is of redis.Hook.
func (redisTimes) DialHook(next redis.DialHook) redis.DialHook {
	return func(ctx context.Context, network, addr string) (net.Conn, error) { return next(ctx, network, addr) }
}

// ProcessHook is of redis.Hook.
func (h redisTimes) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, command redis.Cmder) error {
		began := time.Now()
		err := next(ctx, command)
		h.record(ctx, command.Name(), began, err)
		return err
	}
}

// ProcessPipelineHook is of redis.Hook.
func (h redisTimes) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, commands []redis.Cmder) error {
		began := time.Now()
		err := next(ctx, commands)
		h.record(ctx, "pipeline", began, err)
		return err
	}
}

func (h redisTimes) record(ctx context.Context, operation string, began time.Time, err error) {
	set := h.sets.Of(redisCommand{operation, failureOf(err)})
	h.duration.Record(ctx, time.Since(began).Seconds(), set.Record...)
}

// failureOf names what went wrong; empty: nothing did.
func failureOf(err error) string {
	var refused redis.Error
	switch {
	case err == nil, errors.Is(err, redis.Nil), redis.HasErrorPrefix(err, "NOSCRIPT"): // which is then sent
		return ""
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return "timeout"
	case errors.As(err, &refused):
		return "redis"
	}
	return "connection"
}
