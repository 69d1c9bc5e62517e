package vpn

import "time"

// bucket lets rate events per second through, and burst at once after a pause. What it holds is the time since it was
// empty, times the rate.
type bucket struct{ empty time.Duration }

func (b *bucket) take(rate, burst int, now time.Duration) bool {
	each := time.Second / time.Duration(rate)
	b.empty = max(b.empty, now-each*time.Duration(burst))
	if now-b.empty < each {
		return false
	}
	b.empty += each
	return true
}
