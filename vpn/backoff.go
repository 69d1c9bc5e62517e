package vpn

import (
	"context"
	"errors"
	"log/slog"
	"syscall"
	"time"
)

// backoff paces a loop whose reading fails: it waits minBackoff after the first error and twice as long after each
// further one, up to maxBackoff, and warns once per warnInterval.
type backoff struct {
	log    *slog.Logger
	wait   time.Duration
	warned time.Time // zero: never
	first  time.Time // failure of a series without a pause of its own; zero: none
	until  time.Time // when the newest failure was waited for
}

// failed waits; it reports whether ctx was not done before.
func (b *backoff) failed(ctx context.Context, doing string, err error) bool {
	level := slog.LevelDebug
	if now := time.Now(); b.warned.IsZero() || now.Sub(b.warned) >= warnInterval {
		level, b.warned = slog.LevelWarn, now
	}
	b.log.Log(ctx, level, doing, "error", err)
	var system syscall.Errno
	if now := time.Now(); !errors.As(err, &system) || system == syscall.ENOBUFS || system == syscall.ENOMEM {
		b.first = time.Time{}
	} else if b.first.IsZero() || now.Sub(b.until) > failsAtOnce {
		b.first = now
	}
	b.wait = min(max(2*b.wait, minBackoff), maxBackoff)
	awake := sleep(ctx, b.wait)
	b.until = time.Now()
	return awake
}

// lasting reports whether the system has refused to read, each time at once, for failingFor. Errors that came after
// waiting for something to read, as a host without traffic may see them, do not count together; nor does a shortage of
// memory, or what was read but could not be taken apart.
func (b *backoff) lasting() bool { return !b.first.IsZero() && b.until.Sub(b.first) >= failingFor }

func (b *backoff) succeeded() { b.wait, b.first = 0, time.Time{} }

// sleep reports whether ctx was not done before.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
