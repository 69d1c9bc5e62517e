package mesh_test

import (
	"testing"
	"time"

	"gatemesh/mesh"
	"gatemesh/mesh/meshtest"
)

// A gateway gets another address while it runs: soon all have it there, serf
// too, and it stays.
func TestAddressChanges(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := meshtest.NewNetwork(1)
		a, b, c := three(t, n)
		for i := range 2 {
			from, to := b.host, meshtest.Addr(40+i)
			at := time.Now()
			n.Move(from, to)
			b.host = to
			took := within(t, 10*time.Second, "meshed at the new address", func() bool {
				return meshed(a, b, c) && b.addr().Addr() == to && a.sees(b).Addr.Addr() == to && c.sees(b).Addr.Addr() == to
			})
			t.Log("meshed after", took)
			// Links are not what it lives by: a new member hears of it through serf.
			d := start(t, n, "new", 50+i)
			d.mesh.Connect(addrs(a))
			within(t, 5*time.Second, "a new one knows it", func() bool {
				return meshed(a, b, c, d) && d.sees(b).Addr.Addr() == to
			})
			d.close()
			time.Sleep(3 * time.Minute)
			for _, o := range []*gateway{a, c} {
				if k := o.count(mesh.Down, b, at); !meshed(a, b, c) || k > 1 || o.count(mesh.Down, nil, at) != k+1 {
					t.Errorf("%s: %+v", o.cfg.Name, o.told(mesh.Down, nil, at))
				}
			}
			a.state.add([]byte("x"))
			within(t, time.Second, "replicated", func() bool { return b.state.total() == i+1 && c.state.total() == i+1 })
		}
		closeAll(a, b, c)
	})
}
