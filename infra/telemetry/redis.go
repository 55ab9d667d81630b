package telemetry

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/semconv/v1.43.0/dbconv"
)

// Redis has the client's commands traced and timed. Their arguments have users' ids in them and stay out of it. The
// library's own instrumentation begins a span for each, traced or not, and its metrics are in milliseconds and
// nanoseconds, of which Prometheus' lint disapproves, and there for each address.
func (t *Telemetry) Redis(client *redis.Client) error {
	if t == nil {
		return nil
	}
	duration, err := dbconv.NewClientOperationDuration(t.Meter())
	if err != nil {
		return fmt.Errorf("telemetry: %w", err)
	}
	client.AddHook(redisHook{duration.Inst(), NewSets(redisCommand.attributes)})
	return nil
}

// redisHook measures commands.
type redisHook struct {
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
func (redisHook) DialHook(next redis.DialHook) redis.DialHook { return next }

// ProcessHook is of redis.Hook.
func (h redisHook) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, command redis.Cmder) error {
		return h.measure(ctx, command.Name(), func(ctx context.Context) error { return next(ctx, command) })
	}
}

// ProcessPipelineHook is of redis.Hook.
func (h redisHook) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, commands []redis.Cmder) error {
		return h.measure(ctx, "pipeline", func(ctx context.Context) error { return next(ctx, commands) })
	}
}

func (h redisHook) measure(ctx context.Context, operation string, run func(context.Context) error) error {
	began := time.Now()
	within, span := Span(ctx, operation, toOthers...)
	err := run(within)
	command := redisCommand{operation, failureOf(err)}
	if span.IsRecording() {
		span.SetAttributes(command.attributes()...)
	}
	if command.failure == "" {
		span.End()
	} else {
		End(span, err)
	}
	h.duration.Record(ctx, time.Since(began).Seconds(), h.sets.Of(command).Record...)
	return err
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
