package node

import "time"

// skewWindow is over how many heartbeats a peer's clock is watched at least.
const skewWindow = 32

// skew is how far a peer's wall clock is ahead of ours, by its heartbeats. A heartbeat that was delayed makes it look
// behind, and nothing makes it look ahead, so the greatest of some counts: of this window and the one before.
type skew struct {
	n            int
	best, before time.Duration
	known        bool
	settled      bool // there is a window before
}

// take notes the clock, in microseconds, of a heartbeat that came at now. rtt is the round trip.
func (s *skew) take(clock int64, now time.Time, rtt time.Duration) {
	if clock == 0 {
		return
	}
	d := time.UnixMicro(clock).Sub(now) + rtt/2
	if s.n >= skewWindow {
		s.before, s.settled, s.n = s.best, true, 0
	}
	if s.n == 0 || d > s.best {
		s.best = d
	}
	s.n, s.known = s.n+1, true
}

// offset returns how far the peer's clock is ahead, and whether that is known.
func (s *skew) offset() (time.Duration, bool) {
	if s.settled {
		return max(s.best, s.before), s.known
	}
	return s.best, s.known
}
