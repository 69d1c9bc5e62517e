package node_test

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"gatemesh/node/api"
	"gatemesh/node/nodetest"
	"gatemesh/vpn/vpntest"
)

// those returns the devices that are at a gateway.
func those(
	t *testing.T, devices []*nodetest.Device, at *nodetest.Gateway, gateways ...*nodetest.Gateway,
) (out []*nodetest.Device) {
	t.Helper()
	for _, d := range devices {
		if d.At(t, gateways...) == at {
			out = append(out, d)
		}
	}
	return out
}

// A gateway ends while most of what its heirs say gets lost: it makes no handshake that it could not go on with.
func TestStopLossy(t *testing.T) {
	for seed := range uint64(4) {
		synctest.Test(t, func(t *testing.T) {
			w := nodetest.New(t, 700+seed)
			a, b, c := three(t, w)
			devices := connected(t, w, 12, a)
			w.Net.Latency(20*time.Millisecond, 0)
			time.Sleep(6 * time.Second)
			stop := steadily(those(t, devices, c, a, b, c))
			time.Sleep(time.Second)
			var initiations atomic.Int64
			w.Internet.Tap(func(d vpntest.Datagram) {
				if d.Type() == 1 && d.From.Addr() == c.Addr {
					initiations.Add(1)
				}
			})
			w.Internet.SetFaults(vpntest.Faults{Loss: 0.9, Latency: 20 * time.Millisecond})
			time.AfterFunc(380*time.Millisecond, func() {
				w.Internet.SetFaults(vpntest.Faults{Loss: 0.3, Latency: 20 * time.Millisecond})
			})
			c.Stop()
			time.Sleep(2 * time.Second)
			w.Internet.SetFaults(vpntest.Faults{Latency: 20 * time.Millisecond})
			time.Sleep(5 * time.Second)
			_, gap := stop()
			if n := initiations.Load(); n > 0 || gap > 3*time.Second {
				t.Errorf("%d initiations by the gateway that ends, want none; longest gap %v", n, gap)
			}
			atRest(t, devices, a, b)
		})
	}
}

// The first calls of the heirs get lost: they are asked to call again, and the drain waits for them.
func TestDrainCallsAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := nodetest.New(t, 801)
		a, b, c := three(t, w)
		devices := connected(t, w, 9, a)
		cut := func(on bool) {
			for _, d := range devices {
				w.Internet.Cut(d.Addr, a.Addr, on)
				w.Internet.Cut(d.Addr, b.Addr, on)
			}
		}
		own := those(t, devices, c, a, b, c)
		seen := tap(w)
		stop := steadily(own)
		cut(true)
		time.AfterFunc(450*time.Millisecond, func() { cut(false) })
		out, err := c.Drain(context.Background(), api.Drain{})
		if err != nil || out.Moved != len(own) || out.Left != 0 || len(seen.take(1)) > 0 {
			t.Errorf("%+v, %v, want %d moved without a handshake", out, err, len(own))
		}
		if left := count(t, own, a, b, c)["c"]; left > 0 {
			t.Errorf("%d devices are left when the drain returns", left)
		}
		if _, gap := stop(); gap > 800*time.Millisecond {
			t.Errorf("longest gap %v", gap)
		}
		atRest(t, devices, a, b, c)
	})
}

// Only the gateway that drains reaches its devices: it keeps them, says so, and tries again later.
func TestDrainKeepsWhatNobodyReaches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := nodetest.New(t, 802)
		a, b, c := three(t, w)
		own := those(t, connected(t, w, 9, a), c, a, b, c)
		cut := func(on bool) {
			for _, d := range own {
				w.Internet.Cut(d.Addr, a.Addr, on)
				w.Internet.Cut(d.Addr, b.Addr, on)
			}
		}
		cut(true)
		stop := steadily(own)
		out, err := c.Drain(context.Background(), api.Drain{})
		if err != nil || out.Moved != 0 || out.Left != len(own) {
			t.Errorf("%+v, %v, want %d left", out, err, len(own))
		}
		time.Sleep(5 * time.Second)
		if _, gap := stop(); gap > 2*time.Second {
			t.Errorf("longest gap %v", gap)
		}
		cut(false)
		stop = steadily(own)
		time.Sleep(40 * time.Second)
		if lost, gap := stop(); lost > 0 {
			t.Errorf("%d pings lost, longest gap %v, when they could go", lost, gap)
		}
		if at := count(t, own, a, b, c); at["c"] > 0 {
			t.Errorf("devices at %v", at)
		}
		atRest(t, own, a, b, c)
	})
}

// A drain begins after a response has left and before the device's first packet under the new keys: they go, too.
func TestDrainInHandshake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := nodetest.New(t, 900)
		a, b, c := three(t, w)
		devices := connected(t, w, 9, a)
		w.Internet.SetFaults(vpntest.Faults{Latency: 20 * time.Millisecond})
		shakes := make(chan struct{}, 1)
		w.Internet.Tap(func(d vpntest.Datagram) {
			if d.Type() == 2 && d.From.Addr() == c.Addr {
				select {
				case shakes <- struct{}{}:
				default:
				}
			}
		})
		stop := steadily(devices)
		<-shakes
		if out, err := c.Drain(context.Background(), api.Drain{}); err != nil || out.Moved != 3 || out.Left != 0 {
			t.Errorf("%+v, %v, want 3 moved", out, err)
		}
		if at := count(t, devices, a, b, c); at["c"] > 0 {
			t.Errorf("devices at %v", at)
		}
		time.Sleep(5 * time.Second)
		if lost, gap := stop(); lost > 0 {
			t.Errorf("%d pings lost, longest gap %v", lost, gap)
		}
		atRest(t, devices, a, b, c)
	})
}

// The heir dies before it has heard the devices: they go to the next one, without a handshake by the one that ends.
func TestHeirDiesWhileStopping(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := nodetest.New(t, 901)
		a, b, c := three(t, w)
		devices := connected(t, w, 9, a)
		own := those(t, devices, c, a, b, c)
		for _, d := range own {
			w.Internet.Cut(d.Addr, b.Addr, true) // so it does not hear those that it takes
		}
		stop := steadily(own)
		seen := tap(w)
		time.AfterFunc(400*time.Millisecond, b.Kill)
		c.Stop()
		for _, d := range seen.take(1) {
			if d.From.Addr() == c.Addr {
				t.Error("a handshake by the gateway that ends")
			}
		}
		time.Sleep(5 * time.Second)
		if _, gap := stop(); gap > 2*time.Second {
			t.Errorf("longest gap %v", gap)
		}
		atRest(t, own, a)
	})
}
