package node_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"gatemesh/node"
	"gatemesh/node/api"
	"gatemesh/node/nodetest"
)

func standby(c *node.Config) { c.Standby = true }

func capacity(n int) func(*node.Config) { return func(c *node.Config) { c.Capacity = n } }

// twoAndStandby starts two active gateways, a and b, and a standby, s.
func twoAndStandby(t *testing.T, w *nodetest.World, change ...func(*node.Config)) (a, b, s *nodetest.Gateway) {
	t.Helper()
	a, b, s = w.Gateway(1, "a"), w.Gateway(2, "b"), w.Gateway(3, "s")
	a.Start(change...)
	b.Start(change...)
	s.Start(standby)
	w.WaitReady(10*time.Second, a, b, s)
	return a, b, s
}

func role(t *testing.T, at *nodetest.Gateway, name string) api.Gateway {
	t.Helper()
	all, err := at.ListGateways(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range all {
		if g.Name == name {
			return g
		}
	}
	t.Fatalf("%s does not list %s", at.Name, name)
	return api.Gateway{}
}

// Devices that knock at the standby are served by the active gateways; when both die at once, by the standby, also
// those whose keys died with the other; when they are back, devices stay until they are due for new keys.
func TestStandbyServesWhenAllAreGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := nodetest.New(t, 1001)
		a, b, s := twoAndStandby(t, w)
		devices := connected(t, w, 12, s)
		if at := count(t, devices, a, b, s); at["s"] > 0 || at["a"]+at["b"] != 12 {
			t.Fatalf("devices at %v", at)
		}
		if r := role(t, a, "s"); r.Role != api.Standby || r.Sessions != 0 || !r.Serving {
			t.Errorf("%+v", r)
		}
		stop := steadily(devices)
		a.Kill()
		b.Kill()
		time.Sleep(5 * time.Second)
		if _, gap := stop(); gap > 2*time.Second {
			t.Errorf("longest gap %v", gap)
		}
		if at := count(t, devices, a, b, s); at["s"] != 12 {
			t.Errorf("devices at %v", at)
		}
		a.Start()
		b.Start()
		w.WaitReady(10*time.Second, a, b, s)
		if at := count(t, devices, a, b, s); at["s"] != 12 {
			t.Errorf("devices flap back: %v", at)
		}
		stop = steadily(devices)
		time.Sleep(150 * time.Second)
		if lost, gap := stop(); lost > 0 {
			t.Errorf("%d pings lost, longest gap %v, on the way back", lost, gap)
		}
		if at := count(t, devices, a, b, s); at["s"] > 0 {
			t.Errorf("devices at %v", at)
		}
		atRest(t, devices, a, b, s)
	})
}

// One active gateway dies: its devices go to the other, and not to the standby.
func TestStandbyWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := nodetest.New(t, 1002)
		a, b, s := twoAndStandby(t, w)
		devices := connected(t, w, 12, a)
		stop := steadily(devices)
		a.Kill()
		time.Sleep(5 * time.Second)
		if _, gap := stop(); gap > time.Second {
			t.Errorf("longest gap %v", gap)
		}
		if at := count(t, devices, a, b, s); at["b"] != 12 {
			t.Errorf("devices at %v", at)
		}
		atRest(t, devices, b, s)
	})
}

// Full active gateways overflow to the standby, and their devices, too, when one of them dies.
func TestStandbyTakesTheOverflow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := nodetest.New(t, 1003)
		a, b, s := twoAndStandby(t, w, capacity(4))
		devices := connected(t, w, 12, a)
		at := count(t, devices, a, b, s)
		if at["a"] > 4 || at["b"] > 4 || at["s"] < 4 {
			t.Errorf("devices at %v", at)
		}
		stop := steadily(devices)
		a.Kill()
		time.Sleep(5 * time.Second)
		if _, gap := stop(); gap > 2*time.Second {
			t.Errorf("longest gap %v", gap)
		}
		if at := count(t, devices, a, b, s); at["b"] > 4 || at["s"] < 8 {
			t.Errorf("devices at %v", at)
		}
		atRest(t, devices, b, s)
	})
}

// A gateway that becomes a standby gives its devices away without a loss; one that becomes active takes some.
func TestDemoteAndPromote(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := nodetest.New(t, 1004)
		a, b, s := twoAndStandby(t, w)
		devices := connected(t, w, 12, a)
		stop := steadily(devices)
		ctx := context.Background()
		if r, err := s.SetRole(ctx, "a", api.RoleChange{Role: api.Standby}); err != nil || r.Warning != "" ||
			r.Gateway.Role != api.Standby {
			t.Fatalf("%+v, %v", r, err)
		}
		time.Sleep(5 * time.Second)
		if at := count(t, devices, a, b, s); at["b"] != 12 {
			t.Errorf("devices at %v", at)
		}
		if _, err := s.SetRole(ctx, "b", api.RoleChange{Role: api.Standby}); err == nil {
			t.Error("the last active gateway was demoted")
		}
		if _, err := a.SetRole(ctx, "s", api.RoleChange{Role: api.Active}); err != nil {
			t.Error(err)
		}
		if _, err := a.SetRole(ctx, "b", api.RoleChange{Role: api.Standby}); err != nil {
			t.Error(err)
		}
		time.Sleep(5 * time.Second)
		if at := count(t, devices, a, b, s); at["s"] != 12 {
			t.Errorf("devices at %v", at)
		}
		if lost, gap := stop(); lost > 0 {
			t.Errorf("%d pings lost, longest gap %v", lost, gap)
		}
		a.Kill()
		time.Sleep(5 * time.Second)
		if _, err := s.SetRole(ctx, "a", api.RoleChange{Role: api.Active}); err == nil ||
			!strings.Contains(err.Error(), "not connected") {
			t.Errorf("a gateway that is gone was promoted: %v", err)
		}
		r, err := s.SetRole(ctx, "a", api.RoleChange{Role: api.Active, Force: true})
		if err != nil || r.Warning == "" {
			t.Errorf("%+v, %v", r, err)
		}
		a.Start()
		w.WaitReady(10*time.Second, a, b, s)
		if r := role(t, b, "a"); r.Role != api.Active {
			t.Errorf("it came back as %+v", r)
		}
		atRest(t, devices, a, b, s)
	})
}

// What an administrator changes of a gateway, from another one, holds at once and over its restarts, until it is told
// otherwise at its start.
func TestChangeGateway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := nodetest.New(t, 1005)
		a, b := w.Gateway(1, "a"), w.Gateway(2, "b")
		a.Start()
		b.Start()
		w.WaitReady(10*time.Second, a, b)
		ctx := context.Background()
		name, public, n := "berlin", "vpn.example.org:51820", 7
		g, err := a.ChangeGateway(ctx, "b", api.GatewayChange{Name: &name, Public: &public, Capacity: &n})
		if err != nil || g.Name != name || g.Public != public || g.Capacity != n {
			t.Fatalf("%+v, %v", g, err)
		}
		check := func(when, name, public string, n int) {
			t.Helper()
			time.Sleep(time.Second)
			g := role(t, a, name)
			if g.Public != public || g.Capacity != n {
				t.Errorf("%s: %+v", when, g)
			}
			st, err := b.Status(ctx)
			if err != nil || st.Gateway != name {
				t.Errorf("%s: it calls itself %q, %v", when, st.Gateway, err)
			}
		}
		check("at once", name, public, n)
		if _, e := w.Enrol(b, "laptop"); e.Endpoint != public {
			t.Errorf("devices are told %s", e.Endpoint)
		}
		restart := func(change ...func(*node.Config)) {
			b.Stop()
			b.Start(change...)
			w.WaitReady(10*time.Second, a, b)
		}
		restart()
		check("after a restart", name, public, n)
		restart(capacity(9))
		check("told another capacity", name, public, 9)
		restart(capacity(9))
		check("told the same again", name, public, 9)
		n = 11
		if _, err := b.ChangeGateway(ctx, "berlin", api.GatewayChange{Capacity: &n}); err != nil {
			t.Error(err)
		}
		restart(capacity(9), func(c *node.Config) { c.Name = "munich"; c.Public = "192.0.2.1:1" })
		check("told another name and address", "munich", "192.0.2.1:1", 11)
		restart(capacity(9))
		check("told nothing of them", "b", fmt.Sprintf("%s:%d", b.Addr, nodetest.DevicePort), 11)
		for _, bad := range []api.GatewayChange{
			{Name: ptr("a")},
			{Name: ptr("")},
			{Name: ptr("a b")},
			{Public: ptr("x")},
			{Public: ptr("")},
			{Capacity: new(int)},
		} {
			if _, err := a.ChangeGateway(ctx, "b", bad); err == nil {
				t.Errorf("%+v was taken", bad)
			}
		}
	})
}

func ptr(s string) *string { return &s }

// A gateway that joins by a token for a standby is one, also after a restart without it.
func TestStandbyByToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := nodetest.New(t, 1006)
		a, s := w.Gateway(1, "a"), w.Gateway(2, "s")
		a.Start()
		w.WaitReady(10*time.Second, a)
		made, err := a.CreateToken(context.Background(), api.NewToken{Standby: true})
		if err != nil {
			t.Fatal(err)
		}
		token, err := node.ParseJoinToken(made.Secret)
		if err != nil {
			t.Fatal(err)
		}
		s.Start(func(c *node.Config) { c.Key, c.Token = nil, &token })
		w.WaitReady(10*time.Second, a, s)
		for range 2 {
			if r := role(t, a, "s"); r.Role != api.Standby {
				t.Errorf("%+v", r)
			}
			s.Stop()
			s.Start()
			w.WaitReady(10*time.Second, a, s)
		}
	})
}
