package mesh_test

import (
	"context"
	"crypto/ed25519"
	"errors"
	"sync"
	"testing"
	"time"

	"gatemesh/mesh"
	"gatemesh/mesh/meshtest"
)

// roll is who is evicted, as the gateways of a test know.
type roll struct {
	mu      sync.Mutex
	evicted map[mesh.ID]bool
}

func (r *roll) admit(k ed25519.PublicKey, _ []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.evicted[mesh.IDOf(k)] {
		return mesh.ErrEvicted
	}
	return nil
}

func (r *roll) evict(id mesh.ID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.evicted[id] = true
}

// A member that is barred is gone at once, is told so, is not seen again though it knows the gossip key and comes back
// as another process, and is sent nothing that was written after.
func TestBar(t *testing.T) {
	bubble(t, func(t *testing.T) {
		net := meshtest.NewNetwork(1)
		known := &roll{evicted: map[mesh.ID]bool{}}
		list := startCluster(t, net, 3, func(c *mesh.Config) {
			if c.Name != "g3" { // it does not believe it
				c.Admit = known.admit
			} else {
				c.Admit = func(ed25519.PublicKey, []byte) error { return nil }
			}
		})
		a, b, c := list[0], list[1], list[2]
		within(t, 3*time.Second, "meshed", func() bool { return meshed(list...) })
		began := time.Now()
		known.evict(c.id())
		a.state.add([]byte("after"))
		within(t, time.Second, "the others have it", func() bool { return b.state.total() == 1 })
		time.Sleep(time.Second) // the links are up, and what is said over them is not for an evicted one
		a.mesh.Bar(c.id())
		b.mesh.Bar(c.id())
		within(t, time.Second, "both told that it left", func() bool {
			return a.count(mesh.Left, c, began) == 1 && b.count(mesh.Left, c, began) == 1
		})
		within(t, time.Second, "it is told why", func() bool {
			return c.count(mesh.Shunned, a, began) > 0 && c.count(mesh.Shunned, b, began) > 0
		})
		unseen := func(d time.Duration) {
			t.Helper()
			for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
				for _, g := range []*gateway{a, b} {
					if m := g.sees(c); m.ID == c.id() {
						t.Fatalf("%s sees it: %+v", g.cfg.Name, m)
					}
				}
			}
		}
		unseen(time.Minute)
		if c.state.total() != 0 {
			t.Error("it was sent what was written after")
		}
		c.kill()
		c = start(t, net, "g3", 3, func(cfg *mesh.Config) { cfg.Admit = c.cfg.Admit })
		c.mesh.Connect(addrs(a, b))
		unseen(time.Minute)
		if c.count(mesh.Up, nil, began) != 0 {
			t.Error("it is linked")
		}
		if n := c.state.total(); n != 0 {
			t.Errorf("it was sent %d entries", n)
		}
		closeAll(a, b, c)
	})
}

// A call of an evicted member is not answered, though its link is up still.
func TestEvictedIsNotAnswered(t *testing.T) {
	bubble(t, func(t *testing.T) {
		net := meshtest.NewNetwork(1)
		known := &roll{evicted: map[mesh.ID]bool{}}
		admit := func(c *mesh.Config) { c.Admit = known.admit }
		a, b := build(t, net, "a", 1, admit), build(t, net, "b", 2)
		for _, g := range []*gateway{a, b} {
			g.mesh.Handle("ask", func(context.Context, mesh.ID, []byte) ([]byte, error) { return []byte("secret"), nil })
			g.launch()
		}
		b.mesh.Connect(addrs(a))
		within(t, 3*time.Second, "meshed", func() bool { return meshed(a, b) })
		if _, err := b.mesh.Call(t.Context(), a.id(), "ask", nil); err != nil {
			t.Error(err)
		}
		known.evict(b.id())
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if answer, err := b.mesh.Call(ctx, a.id(), "ask", nil); err == nil {
			t.Errorf("told %q", answer)
		}
		closeAll(a, b)
	})
}

// A stranger that says that we are evicted is not believed.
func TestShunnedByStranger(t *testing.T) {
	bubble(t, func(t *testing.T) {
		net := meshtest.NewNetwork(1)
		liar := start(t, net, "g1", 1, func(c *mesh.Config) {
			c.Admit = func(ed25519.PublicKey, []byte) error { return mesh.ErrEvicted }
		})
		g := start(t, net, "g2", 2, func(c *mesh.Config) {
			c.Admit = func(ed25519.PublicKey, []byte) error { return errors.New("a stranger") }
		})
		began := time.Now()
		g.mesh.Connect(addrs(liar))
		time.Sleep(time.Minute)
		if n := g.count(mesh.Shunned, nil, began); n != 0 {
			t.Errorf("believed %d times", n)
		}
		closeAll(liar, g)
	})
}

// The gossip key is replaced under the feet of members that see each other all the time.
func TestGossipKeys(t *testing.T) {
	bubble(t, func(t *testing.T) {
		net := meshtest.NewNetwork(1)
		list := startCluster(t, net, 3)
		within(t, 3*time.Second, "meshed", func() bool { return meshed(list...) })
		began := time.Now()
		set := func(keys ...[32]byte) {
			t.Helper()
			for _, g := range list {
				if err := g.mesh.SetGossipKeys(keys); err != nil {
					t.Fatal(err)
				}
				time.Sleep(3 * time.Second)
			}
		}
		old, a, b := [32]byte{2}, [32]byte{3}, [32]byte{4}
		set(old, a)
		set(a, old)
		set(a, b)
		set(b, a)
		set(b)
		time.Sleep(time.Minute)
		for _, g := range list {
			if n := g.count(mesh.Down, nil, began); n != 0 {
				t.Errorf("%s took %d for dead", g.cfg.Name, n)
			}
		}
		if !meshed(list...) {
			t.Error("not one cluster any more")
		}
		late := start(t, net, "late", 9, func(c *mesh.Config) { c.GossipKey = b })
		late.mesh.Connect(addrs(list[0]))
		within(t, 10*time.Second, "one that has the new key", func() bool { return meshed(append(list, late)...) })
		closeAll(append(list, late)...)
	})
}
