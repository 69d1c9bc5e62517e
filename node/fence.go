package node

import "time"

// The sender's fence: nothing leaves for a device unless this gateway's
// heartbeat loop ran within the last fenceLease. A process that was frozen
// meanwhile may have lost its devices to others, so it says nothing until all
// peers that it knew alive have told it what happened, or fenceResync has
// passed without one that could.
const (
	fenceLease  = time.Second
	fenceResync = 3 * time.Second
)

// fence decides until when datagrams may leave. It is a value machine without
// a clock; its owner serialises the calls.
//
//	  beat in time
//	 ┌───┐
//	 ▼   │    gap > lease
//	open ───────────────► closed(waiting for peers, until deadline)
//	 ▲                      │
//	 └──────────────────────┘ none left to wait for, or deadline
type fence[ID comparable] struct {
	last     time.Time       // of the newest beat
	waiting  map[ID]struct{} // peers to hear from; nil: open
	deadline time.Time
}

// beat notes that the loop runs at now, with the peers known alive, and
// returns until when datagrams may leave; the zero time: not at all.
func (f *fence[ID]) beat(now time.Time, alive []ID) (until time.Time) {
	if !f.last.IsZero() && now.Sub(f.last) > fenceLease {
		f.waiting = make(map[ID]struct{}, len(alive))
		for _, id := range alive {
			f.waiting[id] = struct{}{}
		}
		f.deadline = now.Add(fenceResync)
	}
	f.last = now
	if f.waiting != nil && (len(f.waiting) == 0 || !now.Before(f.deadline)) {
		f.waiting = nil
	}
	if f.waiting != nil {
		return time.Time{}
	}
	return now.Add(fenceLease)
}

// heard notes that a peer has told all it knows since the gap, or is gone.
func (f *fence[ID]) heard(id ID) { delete(f.waiting, id) }
