package cluster

import (
	"bytes"
	"cmp"
	"math"
	"slices"
)

// Weighted is a gateway with its capacity.
type Weighted struct {
	Node     Node
	Capacity int
	Standby  bool // it inherits when no active one has room
	Full     bool // as it says itself; it counts only where a standby has room
}

// class orders gateways before their rank: the lesser inherits. spare says that a standby has room.
func (w Weighted) class(spare bool) int {
	switch {
	case w.Standby && !w.Full:
		return 1
	case w.Standby:
		return 3
	case w.Full && spare:
		return 2
	}
	return 0
}

// Heirs returns the gateways that take over a device of a dead one, the first in
// rank first: rendezvous hashing weighted by capacity, so that everybody who sees
// the same gateways alive names the same heir, a gateway that comes or goes moves
// no other's devices, and each inherits in proportion to its capacity. Active ones
// come before standby ones, unless they are full and a standby is not. The dead
// one and those without capacity are left out.
func Heirs(device Key, dead Node, alive []Weighted) []Node {
	type ranked struct {
		node  Node
		class int
		score float64
	}
	spare := slices.ContainsFunc(alive, func(w Weighted) bool {
		return w.Standby && !w.Full && w.Node != dead && w.Capacity > 0
	})
	var rank []ranked
	for _, w := range alive {
		if w.Node == dead || w.Capacity <= 0 {
			continue
		}
		var node [32]byte
		copy(node[:], w.Node[:])
		// u is uniform in (0, 1): 52 bits and a half, so never an end.
		u := (float64(hashKey("gatemesh heir v1", device, node)[0]>>12) + 0.5) / (1 << 52)
		rank = append(rank, ranked{w.Node, w.class(spare), -float64(w.Capacity) / math.Log(u)})
	}
	slices.SortFunc(rank, func(a, b ranked) int {
		return cmp.Or(cmp.Compare(a.class, b.class), cmp.Compare(b.score, a.score), bytes.Compare(a.node[:], b.node[:]))
	})
	nodes := make([]Node, len(rank))
	for i, r := range rank {
		nodes[i] = r.node
	}
	return slices.Compact(nodes)
}
