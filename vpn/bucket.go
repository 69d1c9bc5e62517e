package vpn

import "time"

// bucket lets rate events per second through, and a tenth of them, at least 10, at once after a pause. What it holds is
// the time since it was empty, times the rate.
type bucket struct{ empty time.Duration }

func (b *bucket) take(rate int, now time.Duration) bool {
	each := time.Second / time.Duration(rate)
	b.empty = max(b.empty, now-each*time.Duration(max(rate/10, 10)))
	if now-b.empty < each {
		return false
	}
	b.empty += each
	return true
}
