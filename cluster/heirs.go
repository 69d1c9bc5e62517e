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
}

// Heirs returns the gateways that take over a device of a dead one, the first in
// rank first: rendezvous hashing weighted by capacity, so that everybody who sees
// the same gateways alive names the same heir, a gateway that comes or goes moves
// no other's devices, and each inherits in proportion to its capacity. The dead
// one and those without capacity are left out.
func Heirs(device Key, dead Node, alive []Weighted) []Node {
	type ranked struct {
		node  Node
		score float64
	}
	var rank []ranked
	for _, w := range alive {
		if w.Node == dead || w.Capacity <= 0 {
			continue
		}
		var node [32]byte
		copy(node[:], w.Node[:])
		// u is uniform in (0, 1): 52 bits and a half, so never an end.
		u := (float64(hashKey("gatemesh heir v1", device, node)[0]>>12) + 0.5) / (1 << 52)
		rank = append(rank, ranked{w.Node, -float64(w.Capacity) / math.Log(u)})
	}
	slices.SortFunc(rank, func(a, b ranked) int {
		return cmp.Or(cmp.Compare(b.score, a.score), bytes.Compare(a.node[:], b.node[:]))
	})
	nodes := make([]Node, len(rank))
	for i, r := range rank {
		nodes[i] = r.node
	}
	return slices.Compact(nodes)
}
