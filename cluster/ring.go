package cluster

import (
	"bytes"
	"cmp"
	"slices"
	"time"
)

// KeyKind says what a secret of the cluster is for.
type KeyKind string

// The kinds of keys that are replaced while the cluster runs.
const (
	GossipKey KeyKind = "gossip"  // wraps what the gateways gossip
	JoinKey   KeyKind = "cluster" // is proven by newcomers
)

// KeyKinds are all kinds.
var KeyKinds = []KeyKind{GossipKey, JoinKey}

// RingKey is one secret that holds now.
type RingKey struct {
	ID         KeyID
	Kind       KeyKind
	Secret     [32]byte
	Generation uint64 // the first key of a cluster has 0; a new one has more than all that its maker knew
	Made       time.Time
	By         Node
	// Urgent says that an older key is in wrong hands: members that are absent are not waited for.
	Urgent bool
	Behind []Node // members that are not waited for either, ascending
	// Covers says that whoever made it knew of all evictions that are known now: who was evicted does not know it.
	Covers bool

	knew []byte // names the evictions that its maker knew
}

// newer orders the keys of one kind: first those that cover all evictions. Of two that were made on two sides of a
// split the id decides.
func (k *RingKey) newer(o *RingKey) bool {
	if k.Covers != o.Covers {
		return k.Covers
	}
	return cmp.Or(cmp.Compare(k.Generation, o.Generation), bytes.Compare(k.ID[:], o.ID[:])) > 0
}

// Holding is what a member says of its keys of one kind.
type Holding struct {
	Holds []KeyID // these it accepts, ascending
	Uses  KeyID   // this one it sends under; zero: it never said
}

// Ring is all keys of the cluster, and what its members say of them.
type Ring struct {
	Keys   []RingKey         // that hold, the newest first
	Former map[KeyID]KeyKind // that do not hold any more
	Spent  []RingKey         // those among them whose secrets stand yet
	Held   map[Node]map[KeyKind]Holding
}

// Of returns the keys of a kind, the newest first.
func (r *Ring) Of(kind KeyKind) []RingKey {
	return filter(r.Keys, func(k RingKey) bool { return k.Kind == kind })
}

// Covered reports whether a key of a kind holds that covers all evictions.
func (r *Ring) Covered(kind KeyKind) bool {
	return slices.ContainsFunc(r.Keys, func(k RingKey) bool { return k.Kind == kind && k.Covers })
}

// Uncovered returns the kinds of which an evicted gateway may know all keys, or of which none is left. There are none
// before the cluster has its first keys.
func (r *Ring) Uncovered() (kinds []KeyKind) {
	if len(r.Keys)+len(r.Former) == 0 {
		return nil
	}
	for _, kind := range KeyKinds {
		if !r.Covered(kind) {
			kinds = append(kinds, kind)
		}
	}
	return kinds
}

// Turned reports whether a key of the cluster was ever replaced, or is about to be. Before that nobody says what it
// holds.
func (r *Ring) Turned() bool {
	return len(r.Former) > 0 || slices.ContainsFunc(r.Keys, func(k RingKey) bool { return k.Generation > 0 })
}

// Turn is what a member does about the keys of one kind. All that it does may be done by several, and again.
//
//	install ── all that are present hold it ──► use ── all use it, or a newer one ──► remove the older ones
type Turn struct {
	Hold   []RingKey // accepts these, the newest first
	Use    KeyID     // and sends under this one
	Remove []KeyID   // and these are removed, once it has said that it uses a newer one
	Waits  []Node    // for these the oldest key stays, ascending; nil if there is one key
}

// NextTurn decides what self does. members are all that are admitted, present those that it sees alive. It is a pure
// function: whoever runs it with the same knowledge comes to the same, so that no member leads, and knowledge only
// moves it on. A member that was away takes no part: it is told the keys that hold over links which need none of them.
func NextTurn(r *Ring, kind KeyKind, self Node, members []Node, present func(Node) bool) Turn {
	t := Turn{Hold: r.Of(kind)}
	if len(t.Hold) == 0 {
		return t
	}
	oldest := len(t.Hold) - 1
	using := oldest
	for i, k := range t.Hold {
		if k.ID == r.Held[self][kind].Uses || i < oldest && r.installed(&k, self, members, present) {
			using = i
			break
		}
	}
	t.Use = t.Hold[using].ID
	for i := using + 1; i < len(t.Hold); i++ {
		waits := r.lacking(t.Hold, i, members, present)
		if len(waits) == 0 {
			t.Remove = append(t.Remove, t.Hold[i].ID)
		}
	}
	if oldest > 0 {
		t.Waits = r.lacking(t.Hold, oldest, members, present)
	}
	return t
}

// installed reports whether all that are present accept a key.
func (r *Ring) installed(k *RingKey, self Node, members []Node, present func(Node) bool) bool {
	for _, m := range members {
		if m == self || slices.Contains(k.Behind, m) || !present(m) {
			continue
		}
		if !slices.Contains(r.Held[m][k.Kind].Holds, k.ID) {
			return false
		}
	}
	return true
}

// lacking returns the members, ascending, that do not use any key newer than keys[old] and are waited for.
func (r *Ring) lacking(keys []RingKey, old int, members []Node, present func(Node) bool) (waits []Node) {
	urgent, behind := false, []Node(nil)
	for _, k := range keys[:old] {
		urgent, behind = urgent || k.Urgent || k.Covers && !keys[old].Covers, append(behind, k.Behind...)
	}
	for _, m := range members {
		uses := r.Held[m][keys[old].Kind].Uses
		if slices.ContainsFunc(keys[:old], func(k RingKey) bool { return k.ID == uses }) {
			continue
		}
		if !slices.Contains(behind, m) && (!urgent || present(m)) {
			waits = append(waits, m)
		}
	}
	slices.SortFunc(waits, func(a, b Node) int { return bytes.Compare(a[:], b[:]) })
	return slices.Compact(waits)
}
