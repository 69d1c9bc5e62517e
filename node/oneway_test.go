package node_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"gatemesh/node/nodetest"
)

// One gateway does not hear another, while a third hears both: nobody is dead,
// no device changes its gateway, and none waits for an answer.
func TestOneWayCut(t *testing.T) {
	for i := range 2 {
		synctest.Test(t, func(t *testing.T) {
			w := nodetest.New(t, 70+uint64(i))
			a, b, c := three(t, w)
			devices := connected(t, w, 9, a)
			before := count(t, devices, a, b, c)
			if i == 0 {
				w.Net.CutOneWay(addrs(a.Addr), addrs(b.Addr))
			} else {
				w.Net.CutOneWay(addrs(b.Addr), addrs(a.Addr))
			}
			seen := watch(t, devices, 45*time.Second, a, b, c)
			// A new device is served at either, though one cannot hand it to the other.
			for j, g := range []*nodetest.Gateway{a, b} {
				d := w.Device(20+j, fmt.Sprintf("new%d", j), c, g)
				w.Wait("a new device is served", 11*time.Second, func() bool {
					return d.Ping(nodetest.Inner, 100*time.Millisecond)
				})
			}
			w.Net.Heal(addrs(a.Addr), addrs(b.Addr))
			after := watch(t, devices, 20*time.Second, a, b, c)
			if len(seen.moves)+len(after.moves) > 0 || seen.lost+after.lost > 0 {
				t.Errorf("devices at %v moved: %v, %v after the healing; %d and %d pings lost",
					before, seen.moves, after.moves, seen.lost, after.lost)
			}
			w.WaitReady(5*time.Second, a, b, c)
			atRest(t, devices, a, b, c)
		})
	}
}

// A gateway hears the others, but nobody hears it: it is dead to all of them,
// its devices are taken over once, and it says nothing to them meanwhile.
func TestHeardByNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := nodetest.New(t, 73)
		a, b, c := three(t, w)
		devices := connected(t, w, 9, a)
		w.Net.CutOneWay(addrs(c.Addr), addrs(a.Addr, b.Addr))
		seen := watch(t, devices, 45*time.Second, a, b, c)
		for name, n := range seen.moves {
			if n > 2 {
				t.Errorf("%s changed its gateway %d times", name, n)
			}
		}
		if seen.gap > time.Second {
			t.Errorf("a device was silent for %v, %d pings lost", seen.gap, seen.lost)
		}
		w.Net.Heal(addrs(c.Addr), addrs(a.Addr, b.Addr))
		after := watch(t, devices, 20*time.Second, a, b, c)
		if after.gap > time.Second {
			t.Errorf("a device was silent for %v after the healing", after.gap)
		}
		t.Logf("moves %v, then %v; longest gap %v, then %v", seen.moves, after.moves, seen.gap, after.gap)
		w.WaitReady(5*time.Second, a, b, c)
		atRest(t, devices, a, b, c)
	})
}
