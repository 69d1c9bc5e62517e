package mesh_test

import (
	"sync/atomic"
	"testing"
	"time"

	"gatemesh/mesh"
	"gatemesh/mesh/meshtest"
)

// A heartbeat loop that stands still is how a frozen process looks from
// within: its peers give it up, and it begins anew without giving them up.
func TestStalled(t *testing.T) {
	for _, freeze := range []time.Duration{300 * time.Millisecond, 3 * time.Second, 40 * time.Second} {
		bubble(t, func(t *testing.T) {
			n := meshtest.NewNetwork(1)
			var frozen atomic.Bool
			g := startCluster(t, n, 3, func(c *mesh.Config) {
				name := c.Name
				c.Beat = func() []byte {
					if name == "g2" && frozen.CompareAndSwap(true, false) {
						time.Sleep(freeze)
					}
					return []byte(name)
				}
			})
			a, b, c := g[0], g[1], g[2]
			within(t, 5*time.Second, "meshed", func() bool { return meshed(g...) })
			time.Sleep(5 * time.Second)
			at := time.Now()
			frozen.Store(true)
			time.Sleep(freeze + 500*time.Millisecond)
			within(t, 10*time.Second, "meshed again", func() bool { return meshed(g...) })
			stalls := b.told(mesh.Stalled, nil, at)
			if freeze < time.Second {
				if len(stalls) != 0 || a.count(mesh.Down, nil, at)+c.count(mesh.Down, nil, at) != 0 {
					t.Errorf("a hiccup is taken for a stall")
				}
				closeAll(g...)
				return
			}
			if len(stalls) != 1 || stalls[0].Gap < freeze || stalls[0].Gap > freeze+beatInterval {
				t.Fatalf("stalled %+v", stalls)
			}
			// Unlike one that is really frozen it accepts the links that they
			// try again, so that they may give it up more than once.
			if a.count(mesh.Down, b, at) == 0 || c.count(mesh.Down, b, at) == 0 {
				t.Error("its peers did not give it up")
			}
			for _, o := range []*gateway{a, c} {
				if b.count(mesh.Down, o, at) != 0 {
					t.Error("it gave up a peer because it stood still itself")
				}
				if s := b.told(mesh.Synced, o, at); len(s) == 0 || s[len(s)-1].at.Before(stalls[0].at) {
					t.Error("not synced anew after the stall")
				}
			}
			closeAll(g...)
		})
	}
}

const beatInterval = 200 * time.Millisecond

func TestHeartbeatsCarryPayload(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := meshtest.NewNetwork(1)
		n.Latency(20*time.Millisecond, 0)
		var load atomic.Int32
		g := startCluster(t, n, 2, func(c *mesh.Config) {
			c.Beat = func() []byte { return []byte{byte(load.Load())} }
		})
		a, b := g[0], g[1]
		within(t, 5*time.Second, "meshed", func() bool { return meshed(a, b) })
		time.Sleep(10 * time.Second)
		a.mu.Lock()
		before := a.beats
		a.mu.Unlock()
		for i := range 50 {
			load.Store(int32(1 + i%100))
			within(t, 250*time.Millisecond, "load known", func() bool {
				return a.sees(b).Beat[0] == byte(load.Load()) && b.sees(a).Beat[0] == byte(load.Load())
			})
			if age := a.sees(b).BeatAge; age > beatInterval {
				t.Errorf("age %v", age)
			}
		}
		if rtt := a.sees(b).RTT; rtt < 39*time.Millisecond || rtt > 41*time.Millisecond {
			t.Errorf("round trip %v", rtt)
		}
		a.mu.Lock()
		if k := a.beats - before; k < 45 || k > 60 {
			t.Errorf("%d heartbeats were told", k)
		}
		a.mu.Unlock()
		closeAll(a, b)
	})
}

// Up comes first and alternates with Down; nothing comes of an unlinked peer.
func TestOrderOfEvents(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := meshtest.NewNetwork(1)
		a, b, c := three(t, n)
		for range 5 {
			n.Vanish(b.host)
			time.Sleep(3 * time.Second)
			n.Return(b.host)
			time.Sleep(10 * time.Second)
		}
		b.kill()
		time.Sleep(time.Second)
		closeAll(a, c)
		a.mu.Lock()
		defer a.mu.Unlock()
		up := false
		ups := 0
		for _, e := range a.events {
			if e.Member.ID != b.id() {
				continue
			}
			switch e.Kind {
			case mesh.Up:
				if up {
					t.Error("up twice")
				}
				up = true
				ups++
			case mesh.Down:
				if !up {
					t.Error("down twice")
				}
				up = false
			case mesh.Synced:
				if !up {
					t.Error("synced while down")
				}
			}
			if e.Member.Key == nil || e.Member.Name != "g2" {
				t.Errorf("%v of %+v", e.Kind, e.Member)
			}
		}
		if up || ups != 6 {
			t.Errorf("%d times up; up %v", ups, up)
		}
	})
}
