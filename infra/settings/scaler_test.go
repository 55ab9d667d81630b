package settings

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestLoadScaler_HasDefaultsForAllButTheWorkerPool(t *testing.T) {
	_, err := LoadScaler(nil)
	require.EqualError(t, err, "WORKER_POOL must be projects/PROJECT/locations/REGION/workerPools/NAME")

	s, err := LoadScaler([]string{"WORKER_POOL=projects/p/locations/l/workerPools/w"})
	require.NoError(t, err)
	require.Equal(t, []int{1, 10, 70}, []int{s.Min, s.Max, s.Target})
	require.Equal(t, 10*time.Minute, s.Calm)
	require.False(t, s.DryRun)
}

func TestLoadScaler_TellsOfEverythingThatIsWrongWithoutShowingIt(t *testing.T) {
	wrong := map[string]string{"REDIS_URL": "http://:hunter2@host", "REDIS_CA": "hunter2", "LOG_LEVEL": "loud",
		"LOG_FORMAT":  "xml",
		"WORKER_POOL": "claudepool-pool", "MIN_INSTANCES": "0", "MAX_INSTANCES": "1001", "TARGET_PERCENT": "101",
		"SHRINK_AFTER": "1s", "DRY_RUN": "hunter2"}
	var environ []string
	for name, value := range wrong {
		environ = append(environ, name+"="+value)
	}
	_, err := LoadScaler(environ)
	require.Error(t, err)
	for name := range wrong {
		require.ErrorContains(t, err, name+" must ")
	}
	require.NotContains(t, err.Error(), "hunter2")

	_, err = LoadScaler([]string{"WORKER_POOL=projects/p/locations/l/workerPools/w", "MIN_INSTANCES=3", "MAX_INSTANCES=2"})
	require.EqualError(t, err, "MIN_INSTANCES must be a whole number from 1 to MAX_INSTANCES")
}
