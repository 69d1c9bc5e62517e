package node_test

import (
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.zx2c4.com/wireguard/tun"

	"gatemesh/node"
	"gatemesh/node/nodetest"
	"gatemesh/vpn/vpntest"
)

// breakable gives a gateway a TUN device that can be taken away.
type breakable struct {
	current atomic.Pointer[vpntest.TUN]
	refuse  atomic.Bool // no other one can be had
	opened  atomic.Int64
}

func (b *breakable) open() (tun.Device, error) {
	if b.refuse.Load() {
		return nil, errors.New("no such device")
	}
	b.opened.Add(1)
	b.current.Store(vpntest.NewEchoTUN(0))
	return b.current.Load(), nil
}

func (b *breakable) config(cfg *node.Config) {
	cfg.TUN, _ = b.open()
	cfg.OpenTUN = b.open
}

// A TUN device that vanishes and can be made anew costs a moment and no handshake; one that cannot takes the gateway
// out of placement, its devices to the others, and it comes back when it can.
func TestTUNVanishes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := nodetest.New(t, 5)
		a, b := w.Gateway(1, "a"), w.Gateway(2, "b")
		dev := new(breakable)
		a.Start(dev.config)
		time.Sleep(300 * time.Millisecond)
		b.Start()
		w.WaitReady(6*time.Second, a, b)
		var devices []*nodetest.Device
		for i := 1; i <= 8; i++ {
			d := w.Device(i, fmt.Sprintf("d%d", i), a, a)
			if !d.Ping(nodetest.Inner, time.Second) {
				t.Fatalf("%s: no reply", d.Name)
			}
			devices = append(devices, d)
		}
		before := count(t, devices, a, b)
		if before["a"] == 0 {
			t.Fatalf("devices at %v", before)
		}

		dev.current.Load().Close()
		if longest := silence(devices, 5*time.Second); longest > 300*time.Millisecond {
			t.Errorf("silent for %v", longest)
		}
		if after := count(t, devices, a, b); after["a"] != before["a"] || dev.opened.Load() != 2 || !a.Ready(2) {
			t.Errorf("devices were at %v, are at %v", before, after)
		}

		dev.refuse.Store(true)
		dev.current.Load().Close()
		if longest := silence(devices, 10*time.Second); longest > 2*time.Second {
			t.Errorf("silent for %v though another gateway is there", longest)
		}
		if after := count(t, devices, b); after["b"] != 8 || a.Ready(2) {
			t.Errorf("devices at %v", after)
		}
		d := w.Device(9, "d9", b, b) // knocks where it is answered, and is not sent to the broken one
		if !d.Ping(nodetest.Inner, time.Second) {
			t.Error("a new device is not served")
		}

		dev.refuse.Store(false)
		w.Wait("the gateway is back", 6*time.Second, func() bool { return a.Ready(2) })
		time.Sleep(time.Second)
		for i := 10; i < 14; i++ {
			d := w.Device(i, fmt.Sprintf("d%d", i), b, b)
			if !d.Ping(nodetest.Inner, time.Second) {
				t.Fatalf("%s: no reply", d.Name)
			}
			devices = append(devices, d)
		}
		if longest := silence(devices, 5*time.Second); longest > 300*time.Millisecond {
			t.Errorf("silent for %v", longest)
		}
		if after := count(t, devices, a); after["a"] != 4 {
			t.Errorf("the gateway that is back got %v of 4 new devices", after)
		}
	})
}

// The same for the socket. Alone in its cluster a gateway keeps its sessions until its port opens again.
func TestSocketFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := nodetest.New(t, 6)
		a := w.Gateway(1, "a")
		bind := w.Internet.Bind(a.Addr)
		dev := new(breakable)
		a.Start(dev.config, func(cfg *node.Config) { cfg.Bind = bind })
		w.WaitReady(6*time.Second, a)
		d := w.Device(1, "d1", a, a)
		if !d.Ping(nodetest.Inner, time.Second) {
			t.Fatal("no reply")
		}
		thief := w.Internet.Bind(a.Addr)
		bind.Close()
		if _, _, err := thief.Open(nodetest.DevicePort); err != nil {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Second)
		if a.Ready(1) || d.Ping(nodetest.Inner, time.Second) {
			t.Error("ready without a port")
		}
		thief.Close()
		time.Sleep(6 * time.Second)
		if !a.Ready(1) || !d.Ping(nodetest.Inner, time.Second) {
			t.Error("not back")
		}
	})
}
