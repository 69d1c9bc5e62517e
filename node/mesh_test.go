package node_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"gatemesh/node"
	"gatemesh/node/api"
	"gatemesh/node/nodetest"
	"gatemesh/vpn/vpntest"
)

// three starts three gateways within a second, with one key and nothing else.
func three(t *testing.T, w *nodetest.World) (a, b, c *nodetest.Gateway) {
	t.Helper()
	a, b, c = w.Gateway(1, "a"), w.Gateway(2, "b"), w.Gateway(3, "c")
	for _, g := range []*nodetest.Gateway{a, b, c} {
		g.Start()
		time.Sleep(300 * time.Millisecond)
	}
	took := w.WaitReady(6*time.Second, a, b, c)
	t.Logf("one cluster of three %v after the last start", took)
	return a, b, c
}

func count(t *testing.T, devices []*nodetest.Device, gateways ...*nodetest.Gateway) map[string]int {
	t.Helper()
	at := map[string]int{}
	for _, d := range devices {
		if g := d.At(t, gateways...); g != nil {
			at[g.Name]++
		}
	}
	return at
}

// Nine devices knock one by one at one gateway and end three at each, pinging;
// then a gateway dies.
func TestSteerAndTakeOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := nodetest.New(t, 1)
		a, b, c := three(t, w)
		var devices []*nodetest.Device
		for i := 1; i <= 9; i++ {
			d := w.Device(i, fmt.Sprintf("d%d", i), b, a)
			if !d.Ping(nodetest.Inner, time.Second) {
				t.Fatalf("%s: no reply to its first ping", d.Name)
			}
			time.Sleep(100 * time.Millisecond)
			devices = append(devices, d)
		}
		if at := count(t, devices, a, b, c); at["a"] != 3 || at["b"] != 3 || at["c"] != 3 {
			t.Errorf("devices at gateways: %v, want 3 each", at)
		}
		agree(t, devices, a, b, c)

		c.Kill()
		killed := time.Now()
		for _, d := range devices {
			for !d.Ping(nodetest.Inner, 50*time.Millisecond) {
				if gap := time.Since(killed); gap > time.Second {
					t.Fatalf("%s is without a gateway %v after the kill", d.Name, gap)
				}
			}
		}
		t.Logf("all devices answered %v after the kill", time.Since(killed))
		if at := count(t, devices, a, b); at["a"]+at["b"] != 9 {
			t.Errorf("devices at the survivors: %v", at)
		}
	})
}

// agree fails unless every gateway says of every device what its client says.
func agree(t *testing.T, devices []*nodetest.Device, gateways ...*nodetest.Gateway) {
	t.Helper()
	for _, g := range gateways {
		for _, device := range devices {
			d, err := g.ShowDevice(context.Background(), device.ID)
			if err != nil {
				t.Fatalf("%s: %v", g.Name, err)
			}
			if at := device.At(t, gateways...); at == nil || d.Gateway != at.Name {
				t.Errorf("%s says that %s is at %q, its client says %v", g.Name, d.Name, d.Gateway, at)
			}
			if d.RxBytes == 0 || d.TxBytes == 0 || d.LastHandshake == nil || d.Endpoint == "" {
				t.Errorf("%s says of %s: %+v", g.Name, d.Name, d)
			}
		}
	}
}

// silence pings the devices for a while and returns the longest time that one
// of them went without a reply.
func silence(devices []*nodetest.Device, during time.Duration) (longest time.Duration) {
	heard := map[*nodetest.Device]time.Time{}
	begin := time.Now()
	for _, d := range devices {
		heard[d] = begin
	}
	for time.Since(begin) < during {
		for _, d := range devices {
			sent := time.Now()
			if d.Ping(nodetest.Inner, 100*time.Millisecond) {
				longest = max(longest, sent.Sub(heard[d]))
				heard[d] = time.Now()
			}
		}
		time.Sleep(20 * time.Millisecond)
	}
	for _, at := range heard {
		longest = max(longest, time.Since(at))
	}
	return longest
}

// known says whether gateway g has the device.
func known(g *nodetest.Gateway, d *nodetest.Device) bool {
	_, err := g.ShowDevice(context.Background(), d.ID)
	return err == nil
}

// A host that vanishes without a word is noticed by its heartbeats. Whoever it
// called meanwhile, when it is back no device is led away for longer than until
// the next call of its gateway, and all agree on who has which device.
func TestVanish(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := nodetest.New(t, 2)
		a, b, c := three(t, w)
		var devices []*nodetest.Device
		for i := 1; i <= 6; i++ {
			d := w.Device(i, fmt.Sprintf("d%d", i), a, a)
			if !d.Ping(nodetest.Inner, time.Second) {
				t.Fatalf("%s: no reply", d.Name)
			}
			time.Sleep(300 * time.Millisecond)
			devices = append(devices, d)
		}
		gone := devices[0].At(t, a, b, c)
		gone.Vanish()
		at := time.Now()
		for _, d := range devices {
			for !d.Ping(nodetest.Inner, 50*time.Millisecond) {
				if gap := time.Since(at); gap > 2*time.Second {
					t.Fatalf("%s is without a gateway %v after the host vanished", d.Name, gap)
				}
			}
		}
		t.Logf("all devices answered %v after the host vanished", time.Since(at))
		time.Sleep(30 * time.Second)
		gone.Return()
		if longest := silence(devices, 30*time.Second); longest > time.Second {
			t.Errorf("a device was silent for %v after the host was back", longest)
		}
		w.WaitReady(15*time.Second, a, b, c)
		agree(t, devices, a, b, c)
	})
}

// All networks fail for two seconds: everybody takes everybody for dead and
// claims devices that it cannot reach. When they are back no device is silent,
// whoever reaches it first, and all agree on who has which.
func TestBlink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := nodetest.New(t, 9)
		a, b, c := three(t, w)
		all := []*nodetest.Gateway{a, b, c}
		var devices []*nodetest.Device
		for i := 1; i <= 9; i++ {
			d := w.Device(i, fmt.Sprintf("d%d", i), a, a)
			if !d.Ping(nodetest.Inner, time.Second) {
				t.Fatalf("%s: no reply", d.Name)
			}
			devices = append(devices, d)
		}
		for _, g := range all {
			g.Vanish()
		}
		time.Sleep(2 * time.Second)
		for _, g := range all {
			g.Return()
		}
		back := time.Now()
		linked := make(chan time.Duration)
		go func() {
			for !a.Ready(3) || !b.Ready(3) || !c.Ready(3) {
				time.Sleep(10 * time.Millisecond)
			}
			linked <- time.Since(back)
		}()
		if longest := silence(devices, 30*time.Second); longest > time.Second {
			t.Errorf("a device was silent for %v after the networks were back", longest)
		}
		took := <-linked
		t.Logf("all links %v after the networks were back", took)
		if took > time.Second {
			t.Errorf("the links took %v: devices are called by who has not heard of others yet", took)
		}
		w.WaitReady(time.Second, all...)
		agree(t, devices, all...)
	})
}

// Half an hour of pings over rekeys, with packets lost, doubled and late, and
// gateways whose clocks differ.
func TestHalfAnHour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := nodetest.New(t, 3)
		a, b := w.Gateway(1, "a"), w.Gateway(2, "b")
		b.Skew(-20 * time.Second)
		a.Start()
		b.Start()
		w.WaitReady(8*time.Second, a, b)
		var devices []*nodetest.Device
		for i := 1; i <= 4; i++ {
			d := w.Device(i, fmt.Sprintf("d%d", i), a, a)
			if !d.Ping(nodetest.Inner, time.Second) {
				t.Fatalf("%s: no reply", d.Name)
			}
			time.Sleep(time.Second)
			devices = append(devices, d)
		}
		before := count(t, devices, a, b)
		w.Internet.SetFaults(vpntest.Faults{Duplicate: 0.05, Reorder: 0.1, Jitter: 20 * time.Millisecond, Latency: 5 * time.Millisecond})
		lost := 0
		for begin := time.Now(); time.Since(begin) < 30*time.Minute; time.Sleep(700 * time.Millisecond) {
			for _, d := range devices {
				if !d.Ping(nodetest.Inner, time.Second) {
					lost++
				}
			}
		}
		if lost > 0 {
			t.Errorf("%d pings lost in half an hour", lost)
		}
		if after := count(t, devices, a, b); after["a"] != before["a"] || after["b"] != before["b"] {
			t.Errorf("devices moved: %v before, %v after", before, after)
		}
		for _, g := range []*nodetest.Gateway{a, b} {
			if s, err := g.Status(context.Background()); err != nil || s.AuthFailures > 0 {
				t.Errorf("%s: %d packets did not authenticate, %v", g.Name, s.AuthFailures, err)
			}
		}
	})
}

// Where the least loaded gateway cannot reach the device, its second knock is
// answered at the door.
func TestUnreachableTarget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := nodetest.New(t, 4)
		a, b := w.Gateway(1, "a"), w.Gateway(2, "b")
		a.Start()
		b.Start()
		w.WaitReady(8*time.Second, a, b)
		first := w.Device(1, "first", a, a)
		if !first.Ping(nodetest.Inner, time.Second) {
			t.Fatal("first: no reply")
		}
		second := w.Device(2, "second", a, a)
		w.Internet.Cut(second.Addr, b.Addr, true)
		begin := time.Now()
		for !second.Ping(nodetest.Inner, 100*time.Millisecond) {
			if time.Since(begin) > 12*time.Second {
				t.Fatal("second: never answered")
			}
		}
		if at := second.At(t, a, b); at != a {
			t.Errorf("second is at %v, want a", at)
		}
	})
}

// The least loaded gateway has become full meanwhile: it gives the initiation
// back, and the device is answered at the door without a retry.
func TestGivenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := nodetest.New(t, 8)
		a, b := w.Gateway(1, "a"), w.Gateway(2, "b")
		a.Start()
		b.Start(func(c *node.Config) { c.Capacity = 1 })
		w.WaitReady(8*time.Second, a, b)
		first := w.Device(1, "first", a, a)
		if !first.Ping(nodetest.Inner, time.Second) {
			t.Fatal("first: no reply")
		}
		key2, e2 := w.Enrol(a, "second")
		key3, e3 := w.Enrol(a, "third")
		w.Net.Latency(150*time.Millisecond, 0)
		time.Sleep(5 * time.Second)
		second, third := w.Connect(2, key2, e2, a), w.Connect(3, key3, e3, b)
		took, ok := second.RoundTrip(nodetest.Inner, 2*time.Second)
		if !ok || second.At(t, a, b) != a || third.At(t, a, b) != b {
			t.Errorf("second was answered after %v: %v", took, ok)
		}
		if took < 300*time.Millisecond {
			t.Errorf("answered after %v: it was not sent away at all", took)
		}
	})
}

// Both halves of a split take changes and serve; one cluster with all changes
// after it heals.
func TestSplit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := nodetest.New(t, 5)
		a, b, c := three(t, w)
		left, right := a.Addr, b.Addr
		w.Net.Cut(addrs(left), addrs(right, c.Addr))
		w.Wait("the split is seen", 3*time.Second, func() bool { return a.Ready(1) && b.Ready(2) && c.Ready(2) })
		l := w.Device(1, "left", a, a)
		r := w.Device(2, "right", b, b)
		w.Wait("the split serves", 2*time.Second, func() bool {
			return l.Ping(nodetest.Inner, 100*time.Millisecond) && r.Ping(nodetest.Inner, 100*time.Millisecond)
		})
		w.Enrol(a, "twin")
		w.Enrol(b, "twin")
		time.Sleep(10 * time.Minute)
		w.Net.Heal(addrs(left), addrs(right, c.Addr))
		took := w.WaitReady(10*time.Second, a, b, c)
		t.Logf("one cluster %v after healing", took)
		w.Wait("the same devices everywhere", 5*time.Second, func() bool {
			return known(a, r) && known(b, l) && known(c, l)
		})
		// A name that both sides gave is nobody's any more; ids are.
		_, err := c.ShowDevice(context.Background(), "twin")
		var refused *api.Error
		if !errors.As(err, &refused) || refused.Code != api.Ambiguous || strings.Count(refused.Message, "=") != 2 {
			t.Errorf("a name in use twice: %v, want both ids", err)
		}
		for _, d := range []*nodetest.Device{l, r} {
			if !d.Ping(nodetest.Inner, time.Second) {
				t.Errorf("%s lost its gateway by healing", d.Name)
			}
		}
	})
}

// A device that is disabled or removed at one gateway is refused at all, and
// its session ends.
func TestDisable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := nodetest.New(t, 6)
		a, b, c := three(t, w)
		d := w.Device(1, "d", b, c)
		w.Wait("a reply", time.Second, func() bool { return d.Ping(nodetest.Inner, 100*time.Millisecond) })
		off, on := false, true
		ctx := context.Background()
		if _, err := a.ChangeDevice(ctx, "d", api.DeviceChange{Enabled: &off}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(300 * time.Millisecond)
		if d.Ping(nodetest.Inner, 30*time.Second) {
			t.Error("a disabled device is answered")
		}
		for _, g := range []*nodetest.Gateway{a, b, c} {
			if s, err := g.Status(ctx); err != nil || s.Sessions != 0 {
				t.Errorf("%s counts %d sessions, %v", g.Name, s.Sessions, err)
			}
		}
		if _, err := b.ChangeDevice(ctx, "d", api.DeviceChange{Enabled: &on}); err != nil {
			t.Fatal(err)
		}
		w.Wait("an enabled device is answered", 20*time.Second, func() bool { return d.Ping(nodetest.Inner, time.Second) })
		if err := c.RemoveDevice(ctx, "d"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(300 * time.Millisecond)
		if d.Ping(nodetest.Inner, 30*time.Second) {
			t.Error("a removed device is answered")
		}
	})
}

// All gateways die and come back from their disks alone.
func TestRestartAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := nodetest.New(t, 7)
		a, b, c := three(t, w)
		d := w.Device(1, "d", b, a)
		w.Wait("a reply", time.Second, func() bool { return d.Ping(nodetest.Inner, 100*time.Millisecond) })
		for _, g := range []*nodetest.Gateway{a, b, c} {
			g.Kill()
		}
		time.Sleep(time.Second)
		for _, g := range []*nodetest.Gateway{a, b, c} {
			g.Start(withoutKey)
		}
		w.WaitReady(8*time.Second, a, b, c)
		took := w.Wait("the client is back without help", 20*time.Second, func() bool { return d.Ping(nodetest.Inner, time.Second) })
		t.Logf("the client was back after %v", took)
	})
}

func withoutKey(c *node.Config) { c.Key = nil }

func addrs(a ...netip.Addr) []netip.Addr { return a }
