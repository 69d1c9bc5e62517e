package node_test

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"gatemesh/node/api"
	"gatemesh/node/nodetest"
	"gatemesh/vpn/vpntest"
)

// tapped records what the devices' network carries.
type tapped struct {
	mu   sync.Mutex // guards the field below
	seen []vpntest.Datagram
}

func tap(w *nodetest.World) *tapped {
	r := &tapped{}
	w.Internet.Tap(func(d vpntest.Datagram) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.seen = append(r.seen, d)
	})
	return r
}

// take returns what was seen since the last call, of one type, 0: all.
func (r *tapped) take(kind int) (out []vpntest.Datagram) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, d := range r.seen {
		if kind == 0 || d.Type() == kind {
			out = append(out, d)
		}
	}
	r.seen = nil
	return out
}

// steadily sends a ping every 20 ms from each device until stop, which returns how many were lost, and the longest time
// that a device was without an answer.
func steadily(devices []*nodetest.Device) (stop func() (lost int, gap time.Duration)) {
	var all sync.WaitGroup
	var mu sync.Mutex // guards the variables below
	var lost int
	var gap time.Duration
	answered := map[*nodetest.Device]time.Time{}
	end := make(chan struct{})
	for _, d := range devices {
		answered[d] = time.Now()
		one := func() {
			ok := d.Ping(nodetest.Inner, 2*time.Second)
			mu.Lock()
			defer mu.Unlock()
			if !ok {
				lost++
				return
			}
			gap = max(gap, time.Since(answered[d]))
			answered[d] = time.Now()
		}
		all.Go(func() {
			for {
				select {
				case <-end:
					return
				case <-time.After(20 * time.Millisecond):
					all.Go(one)
				}
			}
		})
	}
	return func() (int, time.Duration) {
		close(end)
		all.Wait()
		return lost, gap
	}
}

// connected connects n devices, which are spread over the gateways, and waits until their heirs have them.
func connected(t *testing.T, w *nodetest.World, n int, knock *nodetest.Gateway) (devices []*nodetest.Device) {
	t.Helper()
	for i := 1; i <= n; i++ {
		d := w.Device(i, fmt.Sprintf("d%d", i), knock, knock)
		if !d.Ping(nodetest.Inner, time.Second) {
			t.Fatalf("%s: no reply", d.Name)
		}
		devices = append(devices, d)
	}
	time.Sleep(time.Second)
	return devices
}

// atRest fails unless all gateways agree with the clients, and pings flow.
func atRest(t *testing.T, devices []*nodetest.Device, gateways ...*nodetest.Gateway) {
	t.Helper()
	agree(t, devices, gateways...)
	for _, d := range devices {
		if !d.Ping(nodetest.Inner, time.Second) {
			t.Errorf("%s: no reply at rest", d.Name)
		}
	}
}

// A gateway is killed: its devices are answered by their heirs under the keys that they have.
func TestKeysAreTakenOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := nodetest.New(t, 21)
		a, b, c := three(t, w)
		devices := connected(t, w, 9, a)
		seen := tap(w)
		stop := steadily(devices)
		time.Sleep(200 * time.Millisecond)
		c.Kill()
		time.Sleep(900 * time.Millisecond) // before the paced rekey
		handshakes := len(seen.take(1))
		lost, gap := stop()
		t.Logf("%d pings lost, longest gap %v, %d handshakes", lost, gap, handshakes)
		if gap > 300*time.Millisecond || handshakes > 0 {
			t.Errorf("longest gap %v, %d handshakes, want at most 300 ms and none", gap, handshakes)
		}
		if lost > 5 {
			t.Errorf("%d pings lost", lost)
		}
		stop = steadily(devices)
		time.Sleep(10 * time.Second)
		if lost, _ := stop(); lost > 0 {
			t.Errorf("%d pings lost while keys were made anew", lost)
		}
		if n := len(seen.take(1)); n < 3 || n > 6 {
			t.Errorf("%d initiations after the takeover of three devices, want one each, paced", n)
		}
		atRest(t, devices, a, b)
	})
}

// The heir dies before its owner, or with it, or right after it has taken over.
func TestHeirsDie(t *testing.T) {
	for name, pause := range map[string]time.Duration{"before": time.Second, "together": 0} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := nodetest.New(t, 22)
				a, b, c := three(t, w)
				devices := connected(t, w, 6, a)
				seen := tap(w)
				b.Kill()
				time.Sleep(pause)
				seen.take(0)
				c.Kill()
				back := w.Wait("all devices are answered", 2*time.Second, func() bool {
					for _, d := range devices {
						if !d.Ping(nodetest.Inner, 50*time.Millisecond) {
							return false
						}
					}
					return true
				})
				t.Logf("answered %v after the second death, %d handshakes", back, len(seen.take(1)))
				time.Sleep(5 * time.Second)
				atRest(t, devices, a)
			})
		})
	}
	t.Run("after", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := nodetest.New(t, 23)
			a, b, c := three(t, w)
			devices := connected(t, w, 6, a)
			stop := steadily(devices)
			c.Kill()
			time.Sleep(400 * time.Millisecond)
			b.Kill()
			time.Sleep(8 * time.Second)
			lost, gap := stop()
			t.Logf("%d pings lost, longest gap %v", lost, gap)
			if gap > time.Second {
				t.Errorf("longest gap %v", gap)
			}
			atRest(t, devices, a)
		})
	})
}

// A gateway gives its devices away without losing a ping, stays without them, and takes new ones when it is told to.
func TestDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := nodetest.New(t, 24)
		a, b, c := three(t, w)
		devices := connected(t, w, 9, a)
		seen := tap(w)
		stop := steadily(devices)
		time.Sleep(200 * time.Millisecond)
		begin := time.Now()
		out, err := c.Drain(context.Background(), api.Drain{})
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("drained in %v: %+v", time.Since(begin), out)
		time.Sleep(time.Until(begin.Add(900 * time.Millisecond))) // before the paced rekey
		if n := len(seen.take(1)); n > 0 {
			t.Errorf("%d handshakes while draining", n)
		}
		time.Sleep(10 * time.Second)
		if lost, gap := stop(); lost > 0 {
			t.Errorf("%d pings lost, longest gap %v", lost, gap)
		}
		if out.Moved != 3 || count(t, devices, c)["c"] != 0 {
			t.Errorf("%+v, still at c: %v", out, count(t, devices, c))
		}
		atRest(t, devices, a, b, c)
		late := w.Device(10, "late", a, c)
		if !late.Ping(nodetest.Inner, time.Second) || late.At(t, a, b, c) == c {
			t.Errorf("a new device is at %v, want another than the one that drains", late.At(t, a, b, c).Name)
		}
		if _, err := c.Drain(context.Background(), api.Drain{Undo: true}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(500 * time.Millisecond)
		if d := w.Device(11, "later", a, a); !d.Ping(nodetest.Inner, time.Second) || d.At(t, a, b, c) != c {
			t.Errorf("a new device is not at the gateway that has none")
		}
	})
}

// The end of a process by a signal loses no ping either.
func TestStopDrains(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := nodetest.New(t, 25)
		a, b, c := three(t, w)
		devices := connected(t, w, 9, a)
		stop := steadily(devices)
		time.Sleep(200 * time.Millisecond)
		begin := time.Now()
		c.Stop()
		t.Logf("stopped in %v", time.Since(begin))
		time.Sleep(5 * time.Second)
		b.Stop()
		time.Sleep(5 * time.Second)
		if lost, gap := stop(); lost > 0 {
			t.Errorf("%d pings lost, longest gap %v", lost, gap)
		}
		atRest(t, devices, a)
	})
}

// Devices that are heard for a long time after they were given away follow all the same.
func TestDrainOfFarAwayDevices(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := nodetest.New(t, 27)
		a, b, c := three(t, w)
		devices := connected(t, w, 9, a)
		w.Internet.SetFaults(vpntest.Faults{Latency: 300 * time.Millisecond})
		stop := steadily(devices)
		time.Sleep(time.Second)
		out, err := c.Drain(context.Background(), api.Drain{})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		if out.Moved != 3 || count(t, devices, c)["c"] != 0 {
			t.Errorf("%+v, still at c: %v", out, count(t, devices, c))
		}
		c.Kill()
		time.Sleep(3 * time.Second)
		if lost, _ := stop(); lost > 0 {
			t.Errorf("%d pings lost", lost)
		}
		atRest(t, devices, a, b)
	})
}

// A device that has begun a handshake with a gateway that gives it away has new keys there: they are given away, too.
func TestDrainDuringHandshake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := nodetest.New(t, 28)
		a, b, c := three(t, w)
		devices := connected(t, w, 9, a)
		w.Internet.SetFaults(vpntest.Faults{Latency: 50 * time.Millisecond})
		time.Sleep(10 * time.Second)
		stop := steadily(devices)
		time.Sleep(time.Second)
		for _, d := range devices {
			if d.At(t, a, b, c) == c {
				d.Handshake(t)
			}
		}
		time.Sleep(60 * time.Millisecond) // the responses are under way
		c.Stop()
		time.Sleep(5 * time.Second)
		lost, gap := stop()
		if lost > 3 || gap > 300*time.Millisecond { // a packet each may be with the heir as its device is c's again
			t.Errorf("%d pings lost, longest gap %v", lost, gap)
		}
		atRest(t, devices, a, b)
	})
}

// Both sides of a split take the other for dead, both reach the devices. When it heals each session is at one gateway,
// on which all agree.
func TestWrongVerdictBothSides(t *testing.T) {
	for _, length := range []time.Duration{700 * time.Millisecond, 3 * time.Second, time.Minute} {
		synctest.Test(t, func(t *testing.T) {
			w := nodetest.New(t, 26)
			a, b, c := three(t, w)
			devices := connected(t, w, 9, a)
			stop := steadily(devices)
			w.Net.Cut(addrs(a.Addr), addrs(b.Addr, c.Addr))
			time.Sleep(length)
			w.Net.Heal(addrs(a.Addr), addrs(b.Addr, c.Addr))
			w.WaitReady(15*time.Second, a, b, c)
			time.Sleep(5 * time.Second)
			lost, gap := stop()
			t.Logf("cut for %v: %d pings lost, longest gap %v", length, lost, gap)
			if gap > time.Second {
				t.Errorf("cut for %v: a device was silent for %v", length, gap)
			}
			atRest(t, devices, a, b, c)
		})
	}
}

var histories = flag.Int("node.histories", 4, "histories of TestHistories")

// Gateways die, start, vanish, return, part, meet and drain, at random. When all is well again, so are the devices.
func TestHistories(t *testing.T) {
	for seed := range uint64(*histories) {
		if !t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { history(t, seed) })
		}) {
			return
		}
	}
}

func history(t *testing.T, seed uint64) {
	rnd := rand.New(rand.NewPCG(seed, 3))
	w := nodetest.New(t, 100+seed)
	a, b, c := three(t, w)
	all := []*nodetest.Gateway{a, b, c}
	devices := connected(t, w, 4, a)
	w.Internet.SetFaults(vpntest.Faults{Loss: 0.02, Duplicate: 0.02, Reorder: 0.1, Jitter: 20 * time.Millisecond, Latency: 2 * time.Millisecond})
	stop := steadily(devices)
	const up, dead, vanished = 0, 1, 2
	is := map[*nodetest.Gateway]int{}
	for range 4 + rnd.IntN(8) {
		g, o := all[rnd.IntN(3)], all[rnd.IntN(3)]
		switch what := rnd.IntN(6); {
		case what == 0 && is[g] == up:
			t.Logf("%v: %s dies", time.Now().Format("05.000"), g.Name)
			g.Kill()
			is[g] = dead
		case is[g] == dead:
			t.Logf("%v: %s starts", time.Now().Format("05.000"), g.Name)
			g.Start(withoutKey)
			is[g] = up
		case is[g] == vanished:
			t.Logf("%v: %s returns", time.Now().Format("05.000"), g.Name)
			g.Return()
			is[g] = up
		case what == 1:
			t.Logf("%v: %s vanishes", time.Now().Format("05.000"), g.Name)
			g.Vanish()
			is[g] = vanished
		case what == 2 && g != o:
			t.Logf("%v: %s and %s part", time.Now().Format("05.000"), g.Name, o.Name)
			w.Net.Cut(addrs(g.Addr), addrs(o.Addr))
		case what == 3 && g != o:
			t.Logf("%v: %s and %s meet", time.Now().Format("05.000"), g.Name, o.Name)
			w.Net.Heal(addrs(g.Addr), addrs(o.Addr))
		case what == 4:
			out, err := g.Drain(context.Background(), api.Drain{})
			t.Logf("%v: %s drains: %+v, %v", time.Now().Format("05.000"), g.Name, out, err)
		case what == 5:
			_, _ = g.Drain(context.Background(), api.Drain{Undo: true})
		}
		time.Sleep([]time.Duration{10 * time.Millisecond, 300 * time.Millisecond, time.Second, 4 * time.Second, 20 * time.Second}[rnd.IntN(5)])
	}
	w.Internet.SetFaults(vpntest.Faults{Latency: time.Millisecond})
	for i, g := range all {
		switch is[g] {
		case dead:
			g.Start(withoutKey)
		case vanished:
			g.Return()
		}
		for _, o := range all[:i] {
			w.Net.Heal(addrs(g.Addr), addrs(o.Addr))
		}
	}
	w.WaitReady(20*time.Second, all...)
	time.Sleep(30 * time.Second)
	lost, gap := stop()
	t.Logf("%d pings lost, longest gap %v", lost, gap)
	atRest(t, devices, all...)
}

// The clocks of gateways differ by half a minute, before and after their restart: no takeover is delayed.
func TestClockBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := nodetest.New(t, 27)
		a, b, c := w.Gateway(1, "a"), w.Gateway(2, "b"), w.Gateway(3, "c")
		a.Skew(-30 * time.Second)
		for _, g := range []*nodetest.Gateway{a, b, c} {
			g.Start()
		}
		w.WaitReady(8*time.Second, a, b, c)
		devices := connected(t, w, 6, b)
		die := func(g *nodetest.Gateway) {
			t.Helper()
			g.Kill()
			took := w.Wait("all devices are answered", time.Second, func() bool {
				for _, d := range devices {
					if !d.Ping(nodetest.Inner, 50*time.Millisecond) {
						return false
					}
				}
				return true
			})
			t.Logf("answered %v after the death of %s", took, g.Name)
			time.Sleep(4 * time.Second) // their keys are made anew
		}
		die(c)
		die(b) // all are at a, whose clock is behind
		handshakes := map[*nodetest.Device]time.Time{}
		for _, d := range devices {
			handshakes[d] = d.Peer(t).Handshake
		}
		b.Skew(-30 * time.Second)
		b.Start(withoutKey)
		w.WaitReady(8*time.Second, a, b)
		die(a)
		for _, d := range devices {
			if !d.Peer(t).Handshake.After(handshakes[d]) {
				t.Errorf("%s: no handshake with b, whose clock was set back", d.Name)
			}
		}
		atRest(t, devices, b)
	})
}

// Whoever recorded initiations and data is answered by no gateway, diverts nothing, and has each message accepted once
// per gateway at most, before and after a takeover and after a restart of all.
func TestReplays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := nodetest.New(t, 28)
		record := tap(w)
		a, b, c := three(t, w)
		gateways := []*nodetest.Gateway{a, b, c}
		devices := connected(t, w, 6, a)
		for range 20 {
			for _, d := range devices {
				d.Ping(nodetest.Inner, time.Second)
			}
		}
		var recorded []vpntest.Datagram
		collect := func() {
			for _, d := range record.take(0) {
				if d.To.Port() == nodetest.DevicePort && d.Type() != 2 {
					recorded = append(recorded, d)
				}
			}
		}
		collect()
		evil := netip.MustParseAddrPort("10.9.9.9:4242")
		replay := func(when string, alive []*nodetest.Gateway, limit int) int {
			t.Helper()
			record.take(0)
			before := 0
			for _, d := range devices {
				before += d.Received()
			}
			for range 2 {
				for _, d := range recorded {
					for _, g := range alive {
						w.Internet.Send(evil, netip.AddrPortFrom(g.Addr, nodetest.DevicePort), d.Payload)
					}
					time.Sleep(25 * time.Millisecond) // 50 strays per second and source are looked at
				}
			}
			time.Sleep(time.Second)
			for _, d := range record.take(0) {
				if d.To == evil && d.Type() != 1 { // a takeover's own handshake asks a candidate address too
					t.Errorf("%s: %v answers a replay with type %d", when, d.From, d.Type())
					break
				}
			}
			accepted := -before
			for _, d := range devices {
				accepted += d.Received()
			}
			t.Logf("%s: %d of %d replayed messages accepted", when, accepted, 2*len(recorded)*len(alive))
			if accepted > limit {
				t.Errorf("%s: %d accepted, want at most %d", when, accepted, limit)
			}
			return accepted
		}
		replay("before", gateways, 0)
		record.take(0)
		recorded = slices.DeleteFunc(recorded, func(d vpntest.Datagram) bool { return d.Type() != 1 })
		for range 10 { // not under a floor that the heirs have heard of
			for _, d := range devices {
				d.Ping(nodetest.Inner, time.Second)
			}
		}
		collect()
		c.Kill()
		time.Sleep(200 * time.Millisecond)
		accepted := replay("taken over", gateways[:2], 10*len(devices))
		if again := replay("once more", gateways[:2], 0); accepted == 0 && again == 0 {
			t.Error("nothing was accepted even once: the test has lost its aim")
		}
		time.Sleep(5 * time.Second)
		replay("keys made anew", gateways[:2], 0)
		atRest(t, devices, a, b)
		time.Sleep(2 * time.Second)
		for _, d := range devices {
			d.Close()
		}
		for _, g := range gateways[:2] {
			g.Kill()
		}
		time.Sleep(time.Second)
		for _, g := range gateways {
			g.Start(withoutKey)
		}
		w.WaitReady(8*time.Second, a, b, c)
		devices = nil
		replay("after a restart of all", gateways, 0)
	})
}
