package mesh_test

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"gatemesh/mesh"
	"gatemesh/mesh/meshtest"
)

// three returns gateways that are meshed and have been for a while.
func three(t *testing.T, n *meshtest.Network, change ...func(*mesh.Config)) (a, b, c *gateway) {
	t.Helper()
	g := startCluster(t, n, 3, change...)
	within(t, 5*time.Second, "meshed", func() bool { return meshed(g...) })
	time.Sleep(5 * time.Second)
	return g[0], g[1], g[2]
}

// noticed waits until all watchers were told kind of victim, and returns how
// long the last took.
func noticed(t *testing.T, kind mesh.EventKind, victim *gateway, since time.Time, limit time.Duration, watchers ...*gateway) time.Duration {
	t.Helper()
	within(t, limit, kind.String(), func() bool {
		for _, w := range watchers {
			if w.count(kind, victim, since) == 0 {
				return false
			}
		}
		return true
	})
	var last time.Duration
	for _, w := range watchers {
		last = max(last, w.told(kind, victim, since)[0].at.Sub(since))
	}
	return last
}

func TestKilledIsDownAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := meshtest.NewNetwork(1)
		a, b, c := three(t, n)
		at := time.Now()
		b.kill()
		t.Log("down after", noticed(t, mesh.Down, b, at, 100*time.Millisecond, a, c))
		if s := a.sees(b).Status; s != mesh.Failed {
			t.Errorf("status %v", s)
		}
		time.Sleep(time.Minute)
		if a.count(mesh.Down, b, at) != 1 || a.count(mesh.Up, b, at) != 0 {
			t.Error("the dead one was told more than once")
		}
		closeAll(a, c)
	})
}

func TestStoppedIsDownAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		a, b, c := three(t, meshtest.NewNetwork(1))
		at := time.Now()
		b.close()
		if d := time.Since(at); d > 300*time.Millisecond {
			t.Errorf("closing took %v", d)
		}
		t.Log("down after", noticed(t, mesh.Down, b, at, 20*time.Millisecond, a, c))
		closeAll(a, c)
	})
}

func TestLeavingIsLeft(t *testing.T) {
	bubble(t, func(t *testing.T) {
		a, b, c := three(t, meshtest.NewNetwork(1))
		at := time.Now()
		if err := b.mesh.Leave(t.Context()); err != nil {
			t.Fatal(err)
		}
		t.Log("left after", noticed(t, mesh.Left, b, at, 20*time.Millisecond, a, c), "leave took", time.Since(at))
		b.close()
		time.Sleep(time.Minute)
		if s := a.sees(b).Status; s != mesh.Left {
			t.Errorf("status %v", s)
		}
		if a.count(mesh.Down, b, at)+a.count(mesh.Up, b, at) != 0 {
			t.Error("up or down was told after it left")
		}
		closeAll(a, c)
	})
}

func TestVanishedIsDownWithinASecond(t *testing.T) {
	for _, alone := range []bool{false, true} {
		bubble(t, func(t *testing.T) {
			n := meshtest.NewNetwork(1)
			var a, b, c *gateway
			if alone {
				g := startCluster(t, n, 2)
				a, b, c = g[0], g[1], g[0]
				within(t, 5*time.Second, "meshed", func() bool { return meshed(a, b) })
				time.Sleep(5 * time.Second)
			} else {
				a, b, c = three(t, n)
			}
			at := time.Now()
			n.Vanish(b.host)
			t.Log("down after", noticed(t, mesh.Down, b, at, time.Second, a, c))
			if !alone && a.count(mesh.Down, c, at) != 0 {
				t.Error("a bystander was given up")
			}
			time.Sleep(10 * time.Second)

			// It did not notice that it was away, but its peers were.
			back := time.Now()
			n.Return(b.host)
			within(t, time.Second, "meshed again", func() bool { return meshed(a, b, c) })
			t.Log("meshed again after", time.Since(back))
			if alone {
				closeAll(a, b)
			} else {
				closeAll(a, b, c)
			}
		})
	}
}

// A sees B, B does not see A, C sees both: nobody is dead.
func TestAsymmetricCutDoesNotFlap(t *testing.T) {
	for _, both := range []bool{false, true} {
		bubble(t, func(t *testing.T) {
			n := meshtest.NewNetwork(1)
			a, b, c := three(t, n)
			at := time.Now()
			if both {
				n.Cut(hosts(a), hosts(b))
			} else {
				n.CutOneWay(hosts(a), hosts(b))
			}
			for range 120 {
				time.Sleep(500 * time.Millisecond)
				if s := a.sees(b).Status; s != mesh.Alive {
					t.Fatalf("a sees b %v after %v", s, time.Since(at))
				}
				if s := b.sees(a).Status; s != mesh.Alive {
					t.Fatalf("b sees a %v after %v", s, time.Since(at))
				}
			}
			if a.sees(b).Linked {
				t.Error("a dead link is kept for a minute")
			}
			a.state.add([]byte("round by c"))
			within(t, time.Second, "replicated through the third", func() bool { return b.state.total() == 1 })

			n.Heal(hosts(a), hosts(b))
			within(t, 10*time.Second, "linked again", func() bool { return meshed(a, b, c) })
			for _, g := range []*gateway{a, b, c} {
				if k := g.count(mesh.Down, nil, at); k != 0 {
					t.Errorf("%d times down", k)
				}
			}
			closeAll(a, b, c)
		})
	}
}

// The link breaks, the process lives: the probe says so.
func TestBrokenLinkIsMadeAnew(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := meshtest.NewNetwork(1)
		a, b, c := three(t, n)
		at := time.Now()
		n.Break(a.host, b.host)
		within(t, 2*time.Second, "linked again", func() bool { return meshed(a, b, c) && time.Since(at) > 20*time.Millisecond })
		if a.count(mesh.Down, nil, at)+b.count(mesh.Down, nil, at) != 0 {
			t.Error("down was told")
		}
		if a.count(mesh.Synced, b, at) == 0 {
			t.Error("the new link was not synced")
		}
		closeAll(a, b, c)
	})
}

func TestRestartAtAnotherAddress(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := meshtest.NewNetwork(1)
		a, b, c := three(t, n)
		for i, kill := range []bool{true, false, true} {
			at := time.Now()
			if kill {
				b.kill()
			} else {
				b.close()
			}
			b = start(t, n, "g2", 20+i, func(cfg *mesh.Config) {
				cfg.Book = func() []netip.AddrPort { return []netip.AddrPort{a.addr()} }
			})
			within(t, 5*time.Second, "meshed", func() bool { return meshed(a, b, c) })
			t.Log("meshed after", time.Since(at))
			if got := a.sees(b).Addr; got != b.addr() {
				t.Errorf("a has %v, not %v", got, b.addr())
			}
			if a.count(mesh.Down, b, at) != 1 || a.count(mesh.Up, b, at) != 1 {
				t.Errorf("%d times down, %d times up", a.count(mesh.Down, b, at), a.count(mesh.Up, b, at))
			}
		}
		time.Sleep(10 * time.Minute)
		if !meshed(a, b, c) || len(a.mesh.Members()) != 2 {
			t.Errorf("after ten minutes: %+v", a.mesh.Members())
		}
		closeAll(a, b, c)
	})
}

// A restart so quick that nobody saw the old process go.
func TestRestartAtTheSameAddress(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := meshtest.NewNetwork(1)
		a, b, c := three(t, n)
		at := time.Now()
		b.kill()
		b = start(t, n, "g2", 2, func(cfg *mesh.Config) {
			cfg.Book = func() []netip.AddrPort { return []netip.AddrPort{a.addr(), c.addr()} }
		})
		within(t, 5*time.Second, "meshed", func() bool { return meshed(a, b, c) })
		for _, g := range []*gateway{a, c} {
			if d, u := g.count(mesh.Down, b, at), g.count(mesh.Up, b, at); d != 1 || u != 1 {
				t.Errorf("%d times down, %d times up", d, u)
			}
		}
		closeAll(a, b, c)
	})
}

func TestSplitAndHeal(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := meshtest.NewNetwork(1)
		g := startCluster(t, n, 6)
		within(t, 10*time.Second, "meshed", func() bool { return meshed(g...) })
		left, right := g[:3], g[3:]
		n.Cut(hosts(left...), hosts(right...))
		at := time.Now()
		within(t, time.Second, "split noticed", func() bool {
			for _, a := range left {
				for _, b := range right {
					if a.count(mesh.Down, b, at) == 0 || b.count(mesh.Down, a, at) == 0 {
						return false
					}
				}
			}
			return true
		})
		t.Log("split noticed after", time.Since(at))
		for i := range 600 {
			time.Sleep(time.Second)
			g[i%6].state.add([]byte{byte(i)})
		}
		if !meshed(left...) || !meshed(right...) {
			t.Error("a half is not meshed")
		}
		at = time.Now()
		n.Heal(hosts(left...), hosts(right...))
		within(t, time.Second, "meshed again", func() bool { return meshed(g...) })
		t.Log("meshed again after", time.Since(at))
		within(t, time.Second, "the same everywhere", func() bool {
			for _, x := range g {
				if x.state.total() != 600 || !equal(x.state, g[0].state) {
					return false
				}
			}
			return true
		})
		closeAll(g...)
	})
}

func TestSixteenWithLossAndLatency(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := meshtest.NewNetwork(1)
		n.Latency(15*time.Millisecond, 10*time.Millisecond)
		n.Loss(0.05)
		g := startCluster(t, n, 16)
		t.Log("meshed after", within(t, 10*time.Second, "meshed", func() bool { return meshed(g...) }))
		at := time.Now()
		for _, x := range g {
			x.state.add([]byte("x"))
		}
		t.Log("replicated after", within(t, 2*time.Second, "replicated", func() bool {
			for _, x := range g {
				if x.state.total() != 16 {
					return false
				}
			}
			return true
		}))
		time.Sleep(20 * time.Second)
		for _, x := range g {
			if k := x.count(mesh.Down, nil, at); k != 0 {
				t.Errorf("%d times down", k)
			}
		}
		if rtt := g[3].sees(g[7]).RTT; rtt < 25*time.Millisecond || rtt > 60*time.Millisecond {
			t.Errorf("round trip of 30 ms measured as %v", rtt)
		}
		at = time.Now()
		g[5].kill()
		others := append(append([]*gateway(nil), g[:5]...), g[6:]...)
		t.Log("down after", noticed(t, mesh.Down, g[5], at, 100*time.Millisecond, others...))
		at = time.Now()
		n.Vanish(g[6].host)
		others = append(append([]*gateway(nil), g[:5]...), g[7:]...)
		t.Log("vanished: down after", noticed(t, mesh.Down, g[6], at, time.Second, others...))
		n.Return(g[6].host)
		closeAll(append(others, g[6])...)
	})
}

func TestResync(t *testing.T) {
	bubble(t, func(t *testing.T) {
		a, b, c := three(t, meshtest.NewNetwork(1))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := a.mesh.Resync(ctx); err != nil {
			t.Errorf("resync: %v", err)
		}
		closeAll(a, b, c)
	})
}
