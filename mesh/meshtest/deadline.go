package meshtest

import (
	"sync"
	"time"
)

// deadline is when waiting on a socket ends. It may be moved while somebody
// waits.
type deadline struct {
	mu      sync.Mutex // guards the fields below
	at      time.Time
	changed chan struct{}
}

func newDeadline() *deadline { return &deadline{changed: make(chan struct{})} }

func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.at.Equal(t) {
		return
	}
	d.at = t
	close(d.changed)
	d.changed = make(chan struct{})
}

// passed says whether it is too late.
func (d *deadline) passed() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return !d.at.IsZero() && !time.Now().Before(d.at)
}

// watch returns a channel that is closed when the deadline is moved, and one
// that has something when it has passed, until stop is called.
func (d *deadline) watch() (moved <-chan struct{}, passed <-chan time.Time, stop func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.at.IsZero() {
		return d.changed, nil, func() {}
	}
	t := time.NewTimer(time.Until(d.at))
	return d.changed, t.C, func() { t.Stop() }
}

// wait returns when c has something, after d if that is not negative, or when
// the deadline has passed or is moved. The caller looks again.
func (d *deadline) wait(c <-chan struct{}, after time.Duration) {
	moved, passed, stop := d.watch()
	defer stop()
	var timeout <-chan time.Time
	if after >= 0 {
		t := time.NewTimer(after)
		defer t.Stop()
		timeout = t.C
	}
	select {
	case <-passed:
	case <-c:
	case <-moved:
	case <-timeout:
	}
}
