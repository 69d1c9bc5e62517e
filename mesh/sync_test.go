package mesh_test

import (
	"bytes"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"gatemesh/mesh"
	"gatemesh/mesh/meshtest"
)

func TestLargeStateInManyParts(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := meshtest.NewNetwork(1)
		n.Latency(10*time.Millisecond, 0)
		a := start(t, n, "a", 1)
		for range 4096 { // 16 MiB in 256 parts
			a.state.add(bytes.Repeat([]byte{7}, 4<<10))
		}
		b := start(t, n, "b", 2)
		b.mesh.Connect(addrs(a))
		at := time.Now()
		within(t, 30*time.Second, "synced", func() bool { return b.sees(a).Synced })
		if b.state.total() != 4096 {
			t.Errorf("synced was told with %d of 4096 entries", b.state.total())
		}
		t.Log("synced after", time.Since(at))
		time.Sleep(time.Minute)
		if b.state.merges > 256 {
			t.Errorf("%d parts merged, of 256", b.state.merges)
		}
		closeAll(a, b)
	})
}

func TestCutInTheMiddleOfADelta(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := meshtest.NewNetwork(1)
		a := start(t, n, "a", 1)
		for range 4096 {
			a.state.add(bytes.Repeat([]byte{7}, 1<<10))
		}
		b := start(t, n, "b", 2)
		var merges atomic.Int32
		b.state.onMerge = func() {
			time.Sleep(time.Millisecond) // a disk
			switch merges.Add(1) {
			case 50:
				n.Break(a.host, b.host)
			case 100:
				n.Cut(hosts(a), hosts(b))
				time.AfterFunc(time.Minute, func() { n.Heal(hosts(a), hosts(b)) })
			}
		}
		b.mesh.Connect(addrs(a))
		within(t, 2*time.Minute, "all there", func() bool { return b.state.total() == 4096 })
		within(t, 10*time.Second, "synced", func() bool { return meshed(a, b) })
		if merges.Load() < 256 {
			t.Errorf("%d merges", merges.Load())
		}
		closeAll(a, b)
	})
}

// A peer whose disk is slow delays nobody else, and nobody thinks it dead.
func TestSlowPeerBlocksNobody(t *testing.T) {
	bubble(t, func(t *testing.T) {
		a, b, c := three(t, meshtest.NewNetwork(1))
		at := time.Now()
		b.state.mu.Lock()
		b.state.onMerge = func() { time.Sleep(20 * time.Second) }
		b.state.mu.Unlock()
		for i := range 100 {
			a.state.add(bytes.Repeat([]byte{byte(i)}, 1000))
			within(t, 50*time.Millisecond, "at the quick one", func() bool { return c.state.total() == i+1 })
			time.Sleep(100 * time.Millisecond)
		}
		within(t, 10*time.Minute, "at the slow one", func() bool { return b.state.total() == 100 })
		if b.state.merges > 40 {
			t.Errorf("%d parts for a peer that takes one at a time", b.state.merges)
		}
		for _, g := range []*gateway{a, b, c} {
			if k := g.count(mesh.Down, nil, at); k != 0 {
				t.Errorf("%d times down", k)
			}
		}
		b.state.mu.Lock()
		b.state.onMerge = nil
		b.state.mu.Unlock()
		time.Sleep(time.Minute)
		closeAll(a, b, c)
	})
}

// stubborn merges nothing.
type stubborn struct {
	*history
	merges atomic.Int32
}

func (s *stubborn) Merge([]byte) (bool, error) {
	s.merges.Add(1)
	return true, errors.New("disk full")
}

func TestPeerThatCannotMergeIsNotFlooded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := meshtest.NewNetwork(1)
		a := start(t, n, "a", 1)
		a.state.add([]byte("x"))
		s := &stubborn{history: newHistory("b")}
		b := start(t, n, "b", 2, func(c *mesh.Config) { c.States = map[string]mesh.State{"config": s} })
		b.mesh.Connect(addrs(a))
		time.Sleep(10 * time.Minute)
		if k := s.merges.Load(); k < 50 || k > 400 {
			t.Errorf("tried %d times in ten minutes", k)
		}
		closeAll(a, b)
	})
}

// States that only one side has are left out; the others work.
func TestStatesOfAnotherVersion(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := meshtest.NewNetwork(1)
		extra := func(c *mesh.Config) {
			c.States = map[string]mesh.State{"config": c.States["config"], "new": newHistory("new")}
		}
		a, b := start(t, n, "a", 1), start(t, n, "b", 2, extra)
		b.mesh.Connect(addrs(a))
		within(t, time.Second, "synced", func() bool { return meshed(a, b) })
		a.state.add([]byte("x"))
		b.state.add([]byte("y"))
		within(t, time.Second, "the same", func() bool { return a.state.total() == 2 && equal(a.state, b.state) })
		closeAll(a, b)
	})
}

// Two states at once: the small one does not wait for the large one.
func TestSmallStateOvertakesALargeOne(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := meshtest.NewNetwork(1)
		small := map[string]*history{}
		with := func(c *mesh.Config) {
			s := newHistory(c.Name)
			small[c.Name] = s
			c.States = map[string]mesh.State{"config": c.States["config"], "sessions": s}
		}
		a, b := start(t, n, "a", 1, with), start(t, n, "b", 2, with)
		for range 4096 {
			a.state.add(bytes.Repeat([]byte{7}, 4<<10))
		}
		b.state.onMerge = func() { time.Sleep(20 * time.Millisecond) }
		b.mesh.Connect(addrs(a))
		within(t, 5*time.Second, "begun", func() bool { return b.state.total() > 100 })
		small["a"].add([]byte("x"))
		within(t, 2*time.Second, "overtaken", func() bool { return small["b"].total() == 1 })
		if b.state.total() == 4096 {
			t.Error("the large one was quicker")
		}
		within(t, time.Minute, "complete", func() bool { return equal(a.state, b.state) })
		closeAll(a, b)
	})
}
