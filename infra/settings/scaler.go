package settings

import (
	"crypto/x509"
	"log/slog"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

var workerPool = regexp.MustCompile(`^projects/[^/ ]+/locations/[^/ ]+/workerPools/[^/ ]+$`)

// Scaler are the settings of the scaler. It serves nothing and signs nothing, so it has none of the others but those by
// which it finds Redis and writes its log. List is without them.
type Scaler struct {
	RedisURL   Secret        `env:"REDIS_URL" envDefault:"redis://127.0.0.1:6379/0"`
	RedisCA    string        `env:"REDIS_CA"`
	LogLevel   slog.Level    `env:"LOG_LEVEL" envDefault:"info"`
	LogFormat  string        `env:"LOG_FORMAT" envDefault:"json"`
	WorkerPool string        `env:"WORKER_POOL"`
	Min        int           `env:"MIN_INSTANCES" envDefault:"1"`
	Max        int           `env:"MAX_INSTANCES" envDefault:"10"`
	Target     int           `env:"TARGET_PERCENT" envDefault:"70"`
	Calm       time.Duration `env:"SHRINK_AFTER" envDefault:"10m"`
	DryRun     bool          `env:"DRY_RUN" envDefault:"false"`
}

// LoadScaler reads the scaler's settings as LoadFront does a front's.
func LoadScaler(environ []string) (Scaler, error) {
	var scaler Scaler
	err := load(&scaler, scaler.validate, environ)
	return scaler, err
}

func (s *Scaler) validate() map[string]bool {
	_, redisErr := redis.ParseURL(s.RedisURL.Reveal())
	return map[string]bool{
		"REDIS_URL":      redisErr == nil && !strings.HasPrefix(s.RedisURL.Reveal(), "unix:"),
		"REDIS_CA":       s.RedisCA == "" || x509.NewCertPool().AppendCertsFromPEM([]byte(s.RedisCA)),
		"LOG_LEVEL":      slices.Contains(levels, s.LogLevel),
		"LOG_FORMAT":     s.LogFormat == "json" || s.LogFormat == "text",
		"WORKER_POOL":    workerPool.MatchString(s.WorkerPool),
		"MIN_INSTANCES":  s.Min >= 1 && s.Min <= s.Max,
		"MAX_INSTANCES":  s.Max >= 1 && s.Max <= 1000,
		"TARGET_PERCENT": s.Target >= 10 && s.Target <= 100,
		"SHRINK_AFTER":   s.Calm >= time.Minute,
		"DRY_RUN":        true,
	}
}
