package mesh

import "time"

// Progress is how far a linked peer is with one state.
type Progress struct {
	Peer   ID
	Theirs []byte    // the digest that it told last, not to be changed; nil: it told none on this link
	Heard  time.Time // when that came; zero: never
	// Failed counts, since the link is up, the deltas of ours that it did not merge or did not acknowledge in time, and
	// those of its own that were not merged here.
	Failed uint64
}

// Progress returns how far the linked peers are with a state, in no order.
func (m *Mesh) Progress(state string) (all []Progress) {
	for _, x := range m.exchanges() {
		x.mu.Lock()
		if r := x.find(state); r != nil {
			all = append(all, Progress{Peer: x.link.id, Theirs: r.theirs, Heard: r.heardAt, Failed: r.lost})
		}
		x.mu.Unlock()
	}
	return all
}
