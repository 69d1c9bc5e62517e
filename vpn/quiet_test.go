package vpn_test

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"gatemesh/vpn"
	"gatemesh/vpn/vpntest"
)

// A handshake that is under way when the device is muted is given up: no retransmission robs the claimant.
func TestMuteEndsHandshakes(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a := w.gateway("192.0.2.1")
		c := w.client(1, a.addr)
		c.ping(t)
		time.Sleep(10 * time.Second)
		w.net.SetFaults(vpntest.Faults{Loss: 1})
		a.Initiate(c.key, c.addr)
		time.Sleep(time.Second)
		a.Mute(c.key)
		sent := w.count(a.addr.Addr(), 1)
		time.Sleep(12 * time.Second)
		w.net.SetFaults(vpntest.Faults{Latency: time.Millisecond})
		time.Sleep(6 * time.Second)
		if n := w.count(a.addr.Addr(), 1) - sent; sent != 1 || n != 0 {
			t.Errorf("%d initiations before Mute, %d after", sent, n)
		}
		if n := len(a.happened(vpn.Confirmed)); n != 1 {
			t.Errorf("confirmed %d times", n)
		}
		a.Initiate(c.key, c.addr)
		c.ping(t)
	})
}

// A response that comes after Mute is not taken either, nor one after a final export: its keys would be here alone.
func TestResponseComesTooLate(t *testing.T) {
	for name, final := range map[string]bool{"muted": false, "handed over": true} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				w.net.SetFaults(vpntest.Faults{Latency: 20 * time.Millisecond})
				a, b := w.gateway("192.0.2.1"), w.gateway("192.0.2.2")
				c := w.client(1, a.addr)
				c.ping(t)
				time.Sleep(10 * time.Second)
				if final {
					w.net.SetFaults(vpntest.Faults{Latency: 1200 * time.Millisecond})
				}
				a.Initiate(c.key, c.addr)
				time.Sleep(time.Millisecond)
				if final { // it is waited for, but not for long
					w.net.SetFaults(vpntest.Faults{Latency: 20 * time.Millisecond})
					if _, err := a.Export(c.key, b.Incarnation(), true); !errors.Is(err, vpn.ErrBusy) {
						t.Errorf("final export in a handshake: %v", err)
					}
					time.Sleep(time.Second)
				}
				if _, err := b.Import(a.export(t, c, b, final)); err != nil {
					t.Fatal(err)
				}
				a.Mute(c.key)
				b.take(t, c)
				time.Sleep(300 * time.Millisecond)
				if n, sent := len(a.happened(vpn.Confirmed)), w.count(a.addr.Addr(), 1); n != 1 || sent != 1 {
					t.Errorf("confirmed %d times, %d initiations", n, sent)
				}
				b.Keepalive(c.key) // as Heard asks for: the device has followed the initiation
				time.Sleep(50 * time.Millisecond)
				a.kill()
				if lost := c.pings(30); lost > 1 {
					t.Errorf("%d of 30 pings lost", lost)
				}
			})
		})
	}
}

// A device that is far away is heard for a whole round trip after it was handed over, and follows all the same.
func TestFarAwayDeviceIsHandedOver(t *testing.T) {
	for _, latency := range []time.Duration{20, 150, 400} {
		bubble(t, func(t *testing.T, w *world) {
			w.net.SetFaults(vpntest.Faults{Latency: latency * time.Millisecond})
			a, b := w.gateway("192.0.2.1"), w.gateway("192.0.2.2")
			c := w.client(1, a.addr)
			c.Ping(inner4, 5*time.Second)
			time.Sleep(3 * time.Second)
			_, done := c.stream(300, 10*time.Millisecond)
			defer done.Wait()
			time.Sleep(time.Second)
			if _, err := b.Import(a.export(t, c, b, true)); err != nil {
				t.Fatal(err)
			}
			b.take(t, c)
			a.Mute(c.key) // the heir's claim has come
			time.Sleep(3 * time.Second)
			heard := len(a.happened(vpn.Heard)) // so that its heir is asked to call it
			if c.Peer(t).Endpoint != b.addr || (heard > 0) != (2*latency*time.Millisecond > 200*time.Millisecond) {
				t.Errorf("%v ms: heard %d times, device at %v", int(latency), heard, c.Peer(t).Endpoint)
			}
			if n := w.count(a.addr.Addr(), 1); n != 0 {
				t.Errorf("%v ms: %d initiations", int(latency), n)
			}
		})
	}
}

// A device that is claimed while it sends is heard for as long as its packets are under way, which is not told.
func TestClaimOfFarAwayDevice(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.net.SetFaults(vpntest.Faults{Latency: 120 * time.Millisecond})
		a, b := w.gateway("192.0.2.1"), w.gateway("192.0.2.2")
		c := w.client(1, a.addr)
		c.Ping(inner4, 5*time.Second)
		time.Sleep(3 * time.Second)
		a.give(t, c, b)
		_, done := c.stream(300, 10*time.Millisecond)
		defer done.Wait()
		time.Sleep(time.Second)
		if err := b.TakeOver(c.key, netip.AddrPort{}); err != nil {
			t.Fatal(err)
		}
		a.Mute(c.key)
		time.Sleep(300 * time.Millisecond)
		b.Keepalive(c.key)
		time.Sleep(2 * time.Second)
		if n := len(a.happened(vpn.Heard)); n != 0 || c.Peer(t).Endpoint != b.addr {
			t.Errorf("heard %d times, device at %v", n, c.Peer(t).Endpoint)
		}
	})
}
