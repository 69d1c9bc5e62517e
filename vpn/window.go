package vpn

import "golang.zx2c4.com/wireguard/replay"

// smallWindow is how many counters a window holds without the memory of a whole one: a device that is idle but for
// keepalives sends a handful of messages under a key.
const smallWindow = 256

// window tells which counters were accepted before: the module's filter (RFC 6479, 8128 counters), whose 1 KB is taken
// with the first counter beyond smallWindow. The zero value is ready.
type window struct {
	seen  [smallWindow / 64]uint64 // one bit for each counter below smallWindow, while whole is nil
	whole *replay.Filter
}

// ValidateCounter reports whether a counter below limit is acceptable, and notes that it was accepted.
func (w *window) ValidateCounter(counter, limit uint64) bool {
	if w.whole != nil {
		return w.whole.ValidateCounter(counter, limit)
	}
	if counter >= limit {
		return false
	}
	if counter >= smallWindow {
		w.grow(limit)
		return w.whole.ValidateCounter(counter, limit)
	}
	block, bit := &w.seen[counter/64], uint64(1)<<(counter%64)
	fresh := *block&bit == 0
	*block |= bit
	return fresh
}

func (w *window) grow(limit uint64) {
	w.whole = new(replay.Filter)
	for i := range uint64(smallWindow) {
		if w.seen[i/64]&(1<<(i%64)) != 0 {
			w.whole.ValidateCounter(i, limit)
		}
	}
}
