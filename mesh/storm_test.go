package mesh_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"gatemesh/mesh"
	"gatemesh/mesh/meshtest"
)

// big runs the simulations of this file at full size; they take minutes.
var large = flag.Bool("mesh.big", false, "simulate 48 gateways, and splits of days between several")

// bigger chooses between the usual and the full size.
func bigger[T any](usual, full T) T {
	if *large {
		return full
	}
	return usual
}

// storm starts n gateways within a second, each of which knows where one that
// was started before it is, and returns how long after the last start all were
// one mesh.
func storm(t *testing.T, net *meshtest.Network, n int) ([]*gateway, time.Duration) {
	t.Helper()
	rng := rand.New(rand.NewPCG(5, uint64(n)))
	var list []*gateway
	for i := 1; i <= n; i++ {
		g := start(t, net, fmt.Sprint("g", i), i)
		if i > 1 {
			g.mesh.Connect(addrs(list[rng.IntN(len(list))]))
		}
		list = append(list, g)
		time.Sleep(time.Second / time.Duration(n))
	}
	return list, within(t, 10*time.Second, "one mesh of all", func() bool { return meshed(list...) })
}

func TestStormOfStarts(t *testing.T) {
	for _, c := range []struct {
		n    int
		loss float64
	}{{16, 0}, {16, .05}, {bigger(32, 48), .05}} {
		bubble(t, func(t *testing.T) {
			net := meshtest.NewNetwork(1)
			net.Latency(5*time.Millisecond, 5*time.Millisecond)
			net.Loss(c.loss)
			g, took := storm(t, net, c.n)
			at := time.Now()
			time.Sleep(10 * time.Second)
			for _, x := range g {
				if k := x.count(mesh.Down, nil, at); k != 0 {
					t.Errorf("%d gateways: %s saw one down %d times", c.n, x.cfg.Name, k)
				}
			}
			t.Logf("%d gateways, %.0f %% lost: one mesh %v after the last start", c.n, 100*c.loss, took)
			closeAll(g...)
		})
	}
}

// Two halves part, and are one again soon after the network is, without more
// dials than there are links to make.
func TestHalvesHeal(t *testing.T) {
	for _, c := range []struct {
		n    int
		long time.Duration
	}{{bigger(32, 48), 20 * time.Second}, {16, bigger(2*time.Minute, 10*time.Minute)}} {
		bubble(t, func(t *testing.T) {
			net := meshtest.NewNetwork(1)
			net.Latency(5*time.Millisecond, 5*time.Millisecond)
			g, _ := storm(t, net, c.n)
			left, right := g[:c.n/2], g[c.n/2:]
			net.Cut(hosts(left...), hosts(right...))
			time.Sleep(c.long)
			if !meshed(left...) || !meshed(right...) {
				t.Error("a half is not meshed")
			}
			left[0].state.add([]byte("left"))
			right[0].state.add([]byte("right"))
			before := net.Dials()
			net.Heal(hosts(left...), hosts(right...))
			linked := within(t, 800*time.Millisecond, "all links", func() bool { return meshed(g...) })
			within(t, time.Second, "the same everywhere", func() bool {
				for _, x := range g {
					if x.state.total() != 2 {
						return false
					}
				}
				return true
			})
			links := len(left) * len(right)
			dials := net.Dials() - before
			// Control and bulk of each link, what both sides dialed at once, and serf's own.
			if dials > 8*links {
				t.Errorf("%d dials for %d links", dials, links)
			}
			t.Logf("%d gateways apart for %v: all %d links %v after healing, %d dials", c.n, c.long, links, linked, dials)
			closeAll(g...)
		})
	}
}

// serf by itself forgets after a day.
func TestHealAfterDays(t *testing.T) {
	for _, n := range bigger([]int{2}, []int{2, 6}) {
		bubble(t, func(t *testing.T) {
			net := meshtest.NewNetwork(1)
			g := startCluster(t, net, n)
			within(t, 10*time.Second, "meshed", func() bool { return meshed(g...) })
			left, right := g[:n/2], g[n/2:]
			net.Cut(hosts(left...), hosts(right...))
			days := 48 * time.Hour
			if raceEnabled {
				days = time.Hour
			}
			time.Sleep(days)
			left[0].state.add([]byte("left"))
			right[0].state.add([]byte("right"))
			net.Heal(hosts(left...), hosts(right...))
			took := within(t, 10*time.Second, "meshed again", func() bool {
				return meshed(g...) && equal(left[0].state, right[0].state)
			})
			t.Logf("%d gateways meshed %v after a split of %v", n, took, days)
			closeAll(g...)
		})
	}
}

// One of many crashes and comes back under another address, again and again,
// while datagrams are lost; nobody is given up who lives.
func TestCrashesAndReturnsElsewhere(t *testing.T) {
	bubble(t, func(t *testing.T) {
		net := meshtest.NewNetwork(1)
		net.Latency(5*time.Millisecond, 5*time.Millisecond)
		net.Loss(.05)
		g, _ := storm(t, net, bigger(8, 24))
		for round := range bigger(4, 12) {
			i := 1 + round%(len(g)-1)
			victim := g[i]
			at := time.Now()
			victim.kill()
			time.Sleep(time.Duration(round%3) * time.Second)
			g[i] = start(t, net, victim.cfg.Name, 1000+round, func(c *mesh.Config) {
				c.Book = func() []netip.AddrPort { return addrs(g[0]) }
			})
			took := within(t, 5*time.Second, "one mesh", func() bool { return meshed(g...) })
			for _, x := range g {
				for _, e := range x.told(mesh.Down, nil, at) {
					if e.Member.ID != victim.id() {
						t.Errorf("round %d: %s gave up %s, which lives", round, x.cfg.Name, e.Member.Name)
					}
				}
				if x != g[i] && x.sees(g[i]).Addr != g[i].addr() {
					t.Errorf("round %d: %s has it at %v", round, x.cfg.Name, x.sees(g[i]).Addr)
				}
			}
			t.Logf("round %d: one mesh %v after the start at %v", round, took, g[i].addr())
		}
		closeAll(g...)
	})
}
