package node_test

import (
	"context"
	"encoding/base64"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"gatemesh/cluster"
	"gatemesh/node"
	"gatemesh/node/api"
	"gatemesh/node/nodetest"
	"gatemesh/vpn/vpntest"
)

func set(t *testing.T, g *nodetest.Gateway, name, value string) {
	t.Helper()
	if _, err := g.ChangeSettings(t.Context(), map[string]string{name: value}); err != nil {
		t.Fatal(err)
	}
}

func status(t *testing.T, g *nodetest.Gateway) api.Status {
	t.Helper()
	s, err := g.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Both sides of a split admit the last instance: the later of the two stops serving when they meet, its devices go to
// the others, and it serves again as soon as it may. Lowering the number stops nobody.
func TestMaxInstancesAcrossASplit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := nodetest.New(t, 1)
		a, b, c, d := w.Gateway(1, "a"), w.Gateway(2, "b"), w.Gateway(3, "c"), w.Gateway(4, "d")
		a.Start()
		time.Sleep(300 * time.Millisecond)
		b.Start()
		w.WaitReady(6*time.Second, a, b)
		set(t, a, cluster.SettingMaxInstances, "3")
		time.Sleep(time.Second)

		half := func(g ...*nodetest.Gateway) (side []netip.Addr) {
			for _, g := range g {
				side = append(side, g.Addr)
			}
			return side
		}
		w.Net.Cut(half(a, c), half(b, d))
		time.Sleep(3 * time.Second)
		first, second := mintToken(t, a, api.NewToken{}), mintToken(t, b, api.NewToken{})
		c.Start(func(cfg *node.Config) { cfg.Key, cfg.Token = nil, &first })
		w.WaitReady(10*time.Second, a, c)
		d.Start(func(cfg *node.Config) { cfg.Key, cfg.Token = nil, &second })
		w.WaitReady(10*time.Second, b, d)
		x := w.Device(1, "x", d, d)
		if !x.Ping(nodetest.Inner, 5*time.Second) {
			t.Fatal("no reply in a half")
		}
		w.Net.Heal(half(a, c), half(b, d))
		took := w.Wait("the later one stops", 20*time.Second, func() bool {
			return !status(t, d).Ready && status(t, d).Gateways == 4
		})
		t.Log("the later one stopped", took, "after the split was healed")
		if why := status(t, d).NotReady; !strings.Contains(why, "max-instances") {
			t.Errorf("says of itself: %q", why)
		}
		w.Wait("its device is elsewhere", 10*time.Second, func() bool {
			g := x.At(t, a, b, c, d)
			return g != nil && g != d
		})
		if !x.Ping(nodetest.Inner, time.Second) {
			t.Error("the device has no reply where it went")
		}
		for _, g := range []*nodetest.Gateway{a, b, c} {
			if !status(t, g).Ready {
				t.Errorf("%s serves no more", g.Name)
			}
		}

		// It comes back after a restart though there is no room, and serves when there is.
		d.Stop()
		d.Start()
		w.Wait("back", 10*time.Second, func() bool { s, err := d.Status(t.Context()); return err == nil && s.Gateways == 4 })
		if status(t, d).Ready {
			t.Error("serves after a restart")
		}
		e := w.Gateway(5, "e")
		if err := failure(w, e); !strings.Contains(err.Error(), "4 of 3 instances") {
			t.Errorf("a fifth: %v", err)
		}
		set(t, b, cluster.SettingMaxInstances, "4")
		w.Wait("it may serve", 5*time.Second, func() bool { return status(t, d).Ready })
		set(t, b, cluster.SettingMaxInstances, "1")
		time.Sleep(5 * time.Second)
		for _, g := range []*nodetest.Gateway{a, b, c} {
			if !status(t, g).Ready {
				t.Errorf("lowering the number stopped %s", g.Name)
			}
		}
	})
}

// The rules of a cluster hold for newcomers with the key, too, and for nobody who is admitted.
func TestJoinRules(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := nodetest.New(t, 1)
		a, b, c := w.Gateway(1, "a"), w.Gateway(2, "b"), w.Gateway(3, "c")
		a.Start()
		w.WaitReady(6*time.Second, a)
		refused := func(what, why string) {
			t.Helper()
			if err := failure(w, c); !strings.Contains(err.Error(), why) {
				t.Errorf("%s: %v", what, err)
			}
		}
		b.Start()
		w.WaitReady(6*time.Second, a, b)
		set(t, a, cluster.SettingJoins, "off")
		refused("joins off", "no further gateways may join")
		set(t, b, cluster.SettingJoins, "on")
		set(t, b, cluster.SettingJoinHosts, "192.0.2.0/24, 198.51.100.1")
		refused("from elsewhere", "gateways may not join from "+c.Addr.String())
		b.Stop()
		b.Start()
		w.WaitReady(6*time.Second, a, b)
		set(t, b, cluster.SettingJoinHosts, c.Addr.String())
		c.Skew(-2 * time.Hour)
		refused("a clock that is slow", "the clocks differ by 2h0m0s")
		c.Skew(0)
		c.Start()
		w.WaitReady(6*time.Second, a, b, c)
	})
}

// A gateway that leaves hands its devices over, is missed by nobody, and what it was is kept beside.
func TestReset(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := nodetest.New(t, 1)
		a, b, c := three(t, w)
		d := w.Device(1, "d", a, c)
		if !d.Ping(nodetest.Inner, 5*time.Second) {
			t.Fatal("no reply")
		}
		at := d.At(t, a, b, c)
		if at == nil {
			t.Fatal("the device is nowhere")
		}
		if _, err := at.ResetGateway(t.Context(), api.Reset{}); err == nil ||
			!strings.Contains(err.Error(), "2 other gateways") {
			t.Errorf("without force: %v", err)
		}
		was := status(t, at).ID
		done, err := at.ResetGateway(t.Context(), api.Reset{Force: true})
		if err != nil || done.Moved != 1 || done.Left != 0 || done.Told != 2 {
			t.Fatalf("%+v, %v", done, err)
		}
		if !d.Ping(nodetest.Inner, time.Second) {
			t.Error("the device has no reply after that")
		}
		if err := at.Failure(10 * time.Second); !strings.Contains(err.Error(), node.ErrLeft.Error()) {
			t.Errorf("ended with %v", err)
		}
		rest := []*nodetest.Gateway{a, b, c}
		for i, g := range rest {
			if g == at {
				rest = append(rest[:i:i], rest[i+1:]...)
				break
			}
		}
		for _, g := range rest {
			list, err := g.ListGateways(t.Context())
			for _, x := range list {
				if x.ID == was && x.State != api.Left {
					t.Errorf("%s sees it as %s", g.Name, x.State)
				}
			}
			if err != nil || len(list) != 3 {
				t.Errorf("%d gateways, %v", len(list), err)
			}
		}
		at.Start() // by the key, on the LAN, as another gateway
		w.WaitReady(6*time.Second, a, b, c)
		if status(t, at).ID == was {
			t.Error("it is the same gateway")
		}
	})
}

// What is acknowledged is not lost with a gateway that leaves: from when its reset is noted it takes no changes.
func TestResetTakesNoChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := nodetest.New(t, 1)
		a, b, c := three(t, w)
		stop, taken := make(chan struct{}), make(chan []string)
		var refusals []error
		go func() {
			var names []string
			for i := 0; ; i++ {
				select {
				case <-stop:
					taken <- names
					return
				case <-time.After(time.Millisecond):
				}
				name := fmt.Sprintf("d%d", i)
				_, public := vpntest.NewKey()
				_, err := c.AddDevice(context.Background(), api.NewDevice{
					Name:      name,
					PublicKey: base64.StdEncoding.EncodeToString(public[:]),
				})
				if err == nil {
					names = append(names, name)
				} else {
					refusals = append(refusals, err)
				}
			}
		}()
		time.Sleep(50 * time.Millisecond)
		if _, err := c.ResetGateway(t.Context(), api.Reset{Force: true}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(100 * time.Millisecond)
		close(stop)
		names := <-taken
		if err := c.Failure(10 * time.Second); !strings.Contains(err.Error(), node.ErrLeft.Error()) {
			t.Errorf("ended with %v", err)
		}
		have := map[string]bool{}
		for _, g := range []*nodetest.Gateway{a, b} {
			list, err := g.ListDevices(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			clear(have)
			for _, d := range list {
				have[d.Name] = true
			}
			for _, name := range names {
				if !have[name] {
					t.Errorf("%s lacks %s, which was acknowledged", g.Name, name)
				}
			}
		}
		if len(names) < 10 || len(refusals) < 10 || !strings.Contains(refusals[0].Error(), "takes no changes") {
			t.Errorf("%d taken, %d refused: %v", len(names), len(refusals), refusals[:min(1, len(refusals))])
		}
	})
}
