package testenv

import (
	"os"
	"strconv"
	"time"
)

// Patience is how long a test waits for what takes d at most on a machine of today: more in a guest whose processor is emulated, which
// says by BRIG_TEST_PATIENCE how many times as long.
func Patience(d time.Duration) time.Duration {
	times, err := strconv.Atoi(os.Getenv("BRIG_TEST_PATIENCE"))
	if err != nil || times < 1 {
		return d
	}
	return d * time.Duration(times)
}
