package cluster

import (
	"sync"
	"time"
)

const (
	// maxOffset is how far ahead of the wall clock another gateway's stamp may
	// pull ours. A clock beyond it cannot spread through the cluster.
	maxOffset = 500 * time.Millisecond
	// reserve is how far ahead of the last stamp the durable ceiling is set. It is
	// maxOffset so that the peers of a gateway that crashed and came back at once
	// accept its stamps.
	reserve = maxOffset

	maxCount = 1 << 63 // of every number in a cell; beyond it is damage
)

// wallTime returns the hybrid time of a wall clock: 48 bit Unix milliseconds, 16
// bit counter.
func wallTime(t time.Time) uint64 { return uint64(max(t.UnixMilli(), 0)) << 16 }

// nextTime returns the hybrid time of an event after last at the wall time now.
func nextTime(last, now uint64) uint64 { return max(last+1, now) }

// seenTime returns the hybrid time of a clock at last that sees another's stamp
// at the wall time now. The stamp counts at most up to now + maxOffset.
func seenTime(last, now, stamp uint64) uint64 {
	return max(last, min(stamp, now+uint64(maxOffset.Milliseconds())<<16))
}

// clock is a hybrid logical clock (Kulkarni et al., 2014), bounded on receive.
type clock struct {
	now func() time.Time

	mu      sync.Mutex // guards the fields below
	last    uint64     // greatest time given or seen
	ceiling uint64     // durable: no time given is above, but for the moment until it is raised
	near    uint64     // the last time given in place of one beyond a limit
}

func newClock(now func() time.Time, ceiling uint64) *clock {
	if now == nil {
		now = time.Now
	}
	return &clock{now: now, last: ceiling, ceiling: ceiling}
}

// next returns the next time and whether it is above the ceiling.
func (c *clock) next() (t uint64, above bool) {
	wall := wallTime(c.now())
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last = nextTime(c.last, wall)
	return c.last, c.last > c.ceiling
}

// nextWithin is next for a write, whose time must not be beyond a limit: a gateway whose date was wrong and is right
// again has given times that are far ahead. Such a write wins by its rank over what stands from then.
func (c *clock) nextWithin(limit uint64) uint64 {
	t, _ := c.next()
	if t <= limit {
		return t
	}
	wall := wallTime(c.now())
	c.mu.Lock()
	defer c.mu.Unlock()
	c.near = nextTime(c.near, wall)
	return min(c.near, limit)
}

// see takes notice of a stamp of another gateway.
func (c *clock) see(stamp uint64) {
	wall := wallTime(c.now())
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last = seenTime(c.last, wall, stamp)
}

// ceilingFor returns the ceiling to store with a commit, and whether it differs
// from the stored one.
func (c *clock) ceilingFor() (uint64, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.last <= c.ceiling {
		return c.ceiling, false
	}
	return c.last + uint64(reserve.Milliseconds())<<16, true
}

// raised says that a ceiling is durable.
func (c *clock) raised(ceiling uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ceiling = max(c.ceiling, ceiling)
}
