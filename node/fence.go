package node

import "time"

// The sender's fence: nothing leaves for a device unless this gateway's
// heartbeat loop ran within the last fenceLease, which is less than the
// silence after which others may take its devices (mesh: 600 ms). So whoever
// is taken for dead is silent by then.
const (
	fenceLease  = 500 * time.Millisecond
	fencePause  = 150 * time.Millisecond // after a gap longer than the lease: what waits in the sockets is read first
	fenceGap    = time.Second            // after a longer one all peers are heard anew
	fenceResync = 3 * time.Second        // but they are not waited for longer than this
)

// fence decides until when datagrams may leave. It is a value machine without
// a clock; its owner serialises the calls.
//
//	  beat in time
//	 ┌───┐
//	 ▼   │    late, and there are peers
//	open ───────────────► closed
//	 ▲                      │
//	 └──────────────────────┘ the pause is over, and after a gap all
//	                          peers were heard or did not come
type fence[ID comparable] struct {
	last    time.Time       // of the newest beat
	pause   time.Time       // closed before
	waiting map[ID]struct{} // peers to hear from
	resync  time.Time       // not waited for any longer
}

// beat notes that the loop runs at now, with the peers known alive, and
// returns until when datagrams may leave; the zero time: not at all.
func (f *fence[ID]) beat(now time.Time, alive []ID) (until time.Time) {
	// The monotonic clock stands still while a host sleeps, the wall clock
	// does not; one that is set ahead costs a pause.
	gap := max(monotonicAndWall(f.last, now))
	if gap > fenceLease && len(alive) > 0 {
		f.pause = now.Add(fencePause)
		if gap > fenceGap {
			f.resync = now.Add(fenceResync)
			f.waiting = make(map[ID]struct{}, len(alive))
			for _, id := range alive {
				f.waiting[id] = struct{}{}
			}
		}
	}
	f.last = now
	if now.Before(f.pause) || len(f.waiting) > 0 && now.Before(f.resync) {
		return time.Time{}
	}
	f.waiting = nil
	return now.Add(fenceLease)
}

// sleepLeast is by how much the clocks must disagree to be taken for a sleep: a
// clock that is slewed gains far less between two beats.
const sleepLeast = time.Second

// slept returns how long the host slept, or was frozen by its hypervisor,
// between two beats that are so far apart by its clocks. A wall clock that was
// set ahead looks the same, so this is for where [suspended] is not known; keys that age by it are renewed sooner.
func slept(monotonic, wall time.Duration) time.Duration {
	if d := wall - monotonic; d > sleepLeast {
		return d
	}
	return 0
}

// monotonicAndWall returns how far from is before to by both clocks; zero times
// are not.
func monotonicAndWall(from, to time.Time) (monotonic, wall time.Duration) {
	if from.IsZero() {
		return 0, 0
	}
	return to.Sub(from), to.Round(0).Sub(from.Round(0))
}

// heard notes that a peer has told all it knows since the gap, or is gone.
func (f *fence[ID]) heard(id ID) { delete(f.waiting, id) }
