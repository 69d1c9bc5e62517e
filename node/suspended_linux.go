package node

import (
	"time"

	"golang.org/x/sys/unix"
)

// suspended returns for how long the host has been suspended since its boot: a clock that was set does not change it.
func suspended() (total time.Duration, known bool) {
	var all, awake unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &all) != nil || unix.ClockGettime(unix.CLOCK_MONOTONIC, &awake) != nil {
		return 0, false
	}
	return time.Duration(all.Nano() - awake.Nano()), true
}
