package node_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"gatemesh/node"
	"gatemesh/node/api"
	"gatemesh/node/nodetest"
)

// ringAt returns what a gateway says of the keys.
func ringAt(t *testing.T, g *nodetest.Gateway) api.KeyRing {
	t.Helper()
	r, err := g.KeyRing(context.Background())
	if err != nil {
		t.Fatalf("%s: %v", g.Name, err)
	}
	return r
}

// oneKey says whether all gateways have one key of each kind, the same, which all of them use.
func oneKey(t *testing.T, gateways ...*nodetest.Gateway) bool {
	t.Helper()
	first := ""
	for _, g := range gateways {
		r := ringAt(t, g)
		ids := ""
		for _, k := range r.Keys {
			ids += k.ID
			if k.Held != len(gateways) || k.Used != len(gateways) || k.State != api.KeyInUse {
				return false
			}
		}
		if first == "" {
			first = ids
		}
		if len(r.Keys) != 2 || ids != first {
			return false
		}
	}
	return true
}

func rotate(t *testing.T, g *nodetest.Gateway, behind ...string) {
	t.Helper()
	for _, kind := range []string{api.KeyGossip, api.KeyCluster} {
		if _, err := g.RotateKey(context.Background(), kind, api.Rotation{Behind: behind}); err != nil {
			t.Fatalf("rotate %s at %s: %v", kind, g.Name, err)
		}
	}
}

func clusterKey(t *testing.T, g *nodetest.Gateway) node.ClusterKey {
	t.Helper()
	k, err := g.ClusterKey(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	key, err := node.ParseClusterKey(k.Key)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// Both keys are replaced while a gateway is away and devices ping: nothing is lost, the old keys wait for the one that is
// away, and it is back without help, also after it was left behind twice and starts with a key that no longer holds.
func TestRotate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := nodetest.New(t, 21)
		a, b, c := three(t, w)
		c.Kill()
		w.Wait("c is gone", 5*time.Second, func() bool { return a.Ready(2) && b.Ready(2) })
		var devices []*nodetest.Device
		for i := 1; i <= 4; i++ {
			d := w.Device(i, fmt.Sprintf("d%d", i), a, b)
			w.Wait("a reply", 2*time.Second, func() bool { return d.Ping(nodetest.Inner, 100*time.Millisecond) })
			devices = append(devices, d)
		}
		lost := 0
		ping := func(during time.Duration) {
			for end := time.Now().Add(during); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
				for _, d := range devices {
					if !d.Ping(nodetest.Inner, time.Second) {
						lost++
					}
				}
			}
		}
		old := clusterKey(t, a)
		rotate(t, a)
		ping(15 * time.Second)
		for _, g := range []*nodetest.Gateway{a, b} {
			r := ringAt(t, g)
			for i, s := range r.Status {
				if !s.Turning || len(s.Waits) != 1 || s.Waits[0].Name != "c" || s.Waits[0].Present {
					t.Errorf("%s: %+v", g.Name, s)
				}
				if k := r.Keys[2*i]; len(r.Keys) != 4 || k.State != api.KeyInUse || k.Used != 2 || k.Of != 3 || r.Keys[2*i+1].State != api.KeyOld {
					t.Errorf("%s: %+v", g.Name, r.Keys)
				}
			}
			if clusterKey(t, g) == old {
				t.Errorf("%s shows the old key", g.Name)
			}
		}
		c.Start()
		w.WaitReady(10*time.Second, a, b, c)
		took := w.Wait("one key again", 20*time.Second, func() bool { return oneKey(t, a, b, c) })
		t.Logf("one key of each kind %v after the third was back", took)
		ping(5 * time.Second)

		c.Kill()
		for range 2 {
			rotate(t, b, "c")
			ping(15 * time.Second)
		}
		if r := ringAt(t, a); len(r.Keys) != 2 || r.Status[0].Turning || r.Status[1].Turning {
			t.Errorf("with one left behind: %+v", r)
		}
		c.Start() // with the very first cluster key
		w.WaitReady(10*time.Second, a, b, c)
		w.Wait("one key again", 20*time.Second, func() bool { return oneKey(t, a, b, c) })
		ping(5 * time.Second)
		if lost > 0 {
			t.Errorf("%d pings lost", lost)
		}

		late := w.Gateway(4, "late")
		time.Sleep(time.Minute) // it is said once a minute
		complaints := w.Logged("our key does not open")
		late.Start(func(cfg *node.Config) { k := clusterKey(t, b); cfg.Key = &k })
		w.WaitReady(10*time.Second, a, b, c, late)
		time.Sleep(10 * time.Second)
		if w.Logged("our key does not open") != complaints {
			t.Error("some gossip under a key that no longer holds")
		}
		foreign := w.Gateway(5, "foreign")
		foreign.Start(func(cfg *node.Config) { cfg.Join = a.Addr.String() })
		if err := foreign.Ended(10 * time.Second); err == nil || !strings.Contains(err.Error(), "another key") {
			t.Errorf("joined with a key that no longer holds: %v", err)
		}
	})
}

// Both halves of a split replace the keys, one of them by force. They are one cluster again by themselves.
func TestRotateOnTwoSides(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := nodetest.New(t, 22)
		a, b, c := three(t, w)
		w.Net.Cut(addrs(a.Addr), addrs(b.Addr, c.Addr))
		w.Wait("the split is seen", 5*time.Second, func() bool { return a.Ready(1) && b.Ready(2) && c.Ready(2) })
		time.Sleep(time.Minute)
		rotate(t, a, "b", "c")
		rotate(t, b)
		rotate(t, b, "a")
		rotate(t, c)
		time.Sleep(time.Minute)
		if r := ringAt(t, a); len(r.Keys) != 2 {
			t.Errorf("a, which left all others behind, has %+v", r.Keys)
		}
		w.Net.Heal(addrs(a.Addr), addrs(b.Addr, c.Addr))
		w.WaitReady(15*time.Second, a, b, c)
		took := w.Wait("one key of each kind", 30*time.Second, func() bool { return oneKey(t, a, b, c) })
		t.Logf("one key of each kind %v after healing", took)
		w.Wait("the gossip holds", 20*time.Second, func() bool { return a.Ready(3) && b.Ready(3) && c.Ready(3) })
	})
}

// An evicted gateway is refused by all others at once, its devices go on elsewhere, it ends and says why, and neither a
// restart nor the keys that it knows let it in again, nor anybody else.
func TestEvict(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := nodetest.New(t, 23)
		a, b, c := three(t, w)
		ctx := context.Background()
		var devices []*nodetest.Device
		for i := 1; i <= 6; i++ {
			d := w.Device(i, fmt.Sprintf("d%d", i), c, c)
			w.Wait("a reply", 2*time.Second, func() bool { return d.Ping(nodetest.Inner, 100*time.Millisecond) })
			time.Sleep(100 * time.Millisecond)
			devices = append(devices, d)
		}
		old := clusterKey(t, a)
		for ref, code := range map[string]api.Code{"a": api.Invalid, "nobody": api.NotFound} {
			var refused *api.Error
			if _, err := a.EvictGateway(ctx, ref); !errors.As(err, &refused) || refused.Code != code || refused.Hint == "" {
				t.Errorf("evict %s at a: %v", ref, err)
			}
		}
		e, err := a.EvictGateway(ctx, "c")
		if err != nil {
			t.Fatal(err)
		}
		if e.Name != "c" || e.By != "a" || len(e.Written) < 6 || len(e.Exposed) == 0 {
			t.Errorf("evicted: %+v", e)
		}
		gone := func() bool {
			for _, g := range []*nodetest.Gateway{a, b} {
				list, err := g.ListGateways(ctx)
				if err != nil || len(list) != 2 || !g.Ready(2) {
					return false
				}
			}
			return true
		}
		took := w.Wait("refused by all", time.Second, gone)
		t.Logf("refused by all after %v", took)
		w.Wait("it takes no changes, which nobody would have", time.Second, func() bool {
			_, err := c.CreateToken(ctx, api.NewToken{})
			return err != nil && strings.Contains(err.Error(), "takes no changes")
		})
		if longest := silence(devices, 3*time.Second); longest > time.Second {
			t.Errorf("a device was silent for %v", longest)
		}
		if at := count(t, devices, a, b); at["a"]+at["b"] != len(devices) {
			t.Errorf("devices are at %v", at)
		}
		w.Wait("new keys", 10*time.Second, func() bool { return oneKey(t, a, b) })
		if clusterKey(t, a) == old {
			t.Error("the cluster key still holds")
		}

		ended := func() {
			t.Helper()
			err := c.Ended(10 * time.Second)
			var hint *node.HintError
			if err == nil || !strings.Contains(err.Error(), "evicted") || !errors.As(err, &hint) {
				t.Errorf("it ended with %v", err)
			}
		}
		ended()
		c.Start()
		ended()
		if err := os.Remove(filepath.Join(c.Dir(), "evicted.json")); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Error(err)
		}
		c.Start(func(cfg *node.Config) { cfg.Join = b.Addr.String() })
		ended()
		if !gone() {
			t.Error("it is back")
		}
		var refused *api.Error
		if _, err := b.EvictGateway(ctx, "c"); !errors.As(err, &refused) || refused.Code != api.Exists {
			t.Errorf("evicted twice: %v", err)
		}
		if all, err := b.ListEvictions(ctx); err != nil || len(all) != 1 || all[0].Name != "c" || len(all[0].Written) < 6 {
			t.Errorf("evictions at b: %+v, %v", all, err)
		}

		again := w.Gateway(3, "c") // the same host with an empty directory
		again.Start(func(cfg *node.Config) { cfg.Key, cfg.Join = &old, a.Addr.String() })
		if err := again.Ended(10 * time.Second); err == nil || !strings.Contains(err.Error(), "another key") {
			t.Errorf("joined with the old key: %v", err)
		}
		again.Start(func(cfg *node.Config) { k := clusterKey(t, b); cfg.Key, cfg.Join = &k, a.Addr.String() })
		w.WaitReady(10*time.Second, a, b, again)
	})
}

// While the cluster is split a gateway is evicted on one side and admits another on its own. When both meet, the one it
// brought along is silent and no member, until it is admitted again.
func TestEvictAcrossSplit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := nodetest.New(t, 24)
		a, b, c := three(t, w)
		ctx := context.Background()
		w.Net.Cut(addrs(a.Addr, b.Addr), addrs(c.Addr))
		w.Wait("the split is seen", 5*time.Second, func() bool { return a.Ready(2) && b.Ready(2) && c.Ready(1) })
		x := w.Gateway(4, "x")
		w.Net.Cut(addrs(a.Addr, b.Addr), addrs(x.Addr))
		x.Start(func(cfg *node.Config) { cfg.Join = c.Addr.String() })
		w.WaitReady(10*time.Second, c, x)
		if _, err := a.EvictGateway(ctx, "c"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		w.Net.Heal(addrs(a.Addr, b.Addr), addrs(c.Addr, x.Addr))
		if err := c.Ended(30 * time.Second); err == nil || !strings.Contains(err.Error(), "evicted") {
			t.Errorf("c ended with %v", err)
		}
		time.Sleep(20 * time.Second)
		if !a.Ready(2) || !b.Ready(2) {
			t.Error("x is a member, and only an evicted gateway admitted it")
		}
		known := func(g *nodetest.Gateway) string {
			all, err := g.ListEvictions(ctx)
			if err != nil || len(all) != 1 || len(all[0].Suspended) != 1 {
				t.Fatalf("evictions at %s: %+v, %v", g.Name, all, err)
			}
			return all[0].Suspended[0].ID
		}
		id := known(a)
		if id != known(b) {
			t.Error("they name different gateways")
		}
		var refused *api.Error
		if _, err := a.ReadmitGateway(ctx, "c"); !errors.As(err, &refused) || refused.Code != api.NotFound {
			t.Errorf("an evicted one admitted again: %v", err)
		}
		if _, err := a.ReadmitGateway(ctx, id[:8]); err != nil {
			t.Error(err)
		}
		w.WaitReady(20*time.Second, a, b, x)
		w.Wait("new keys", 20*time.Second, func() bool { return oneKey(t, a, b, x) })
	})
}
