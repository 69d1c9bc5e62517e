package node

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"gatemesh/cluster"
)

// BenchmarkDecide is the steering decision for a device that knocks again, and for a new one, by placement among that
// many other gateways. A hundred devices knock in a second, and each decision is forgotten in its time.
func BenchmarkDecide(b *testing.B) {
	for _, n := range []int{2, 16, 64} {
		for _, known := range []bool{true, false} {
			b.Run(fmt.Sprintf("peers=%d/known=%t", n, known), func(b *testing.B) {
				self := cluster.Node{1}
				peers := make([]cluster.Load, n)
				for i := range peers {
					peers[i] = cluster.Load{Node: cluster.Node{2, byte(i)}, Sessions: 100 + i, Capacity: 1000}
				}
				place := func(answering int, r *rand.Rand) (cluster.Node, bool) {
					return cluster.Place(cluster.Load{Node: self, Sessions: 150 + answering, Capacity: 1000}, peers, r)
				}
				s := newSteering(self, 1)
				now := time.Unix(5000, 0)
				k := knock{alive: func(cluster.Node) bool { return true }}
				b.ReportAllocs()
				for i := 0; b.Loop(); i++ {
					device := uint64(i)
					if known {
						device %= 100
					}
					binary.BigEndian.PutUint64(k.device[:], device)
					k.now = now.Add(time.Duration(i) * 10 * time.Millisecond)
					s.decide(k, place)
				}
			})
		}
	}
}
