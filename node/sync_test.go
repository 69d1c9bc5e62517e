package node_test

import (
	"context"
	"fmt"
	"net/http/httptest"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"gatemesh/node"
	"gatemesh/node/api"
	"gatemesh/node/nodetest"
)

func syncOf(t *testing.T, g *nodetest.Gateway) api.Sync {
	t.Helper()
	s, err := g.SyncStatus(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// inStep says whether a gateway sees all others in step with it.
func inStep(t *testing.T, gateways ...*nodetest.Gateway) bool {
	for _, g := range gateways {
		for _, p := range syncOf(t, g).Peers {
			if !p.InStep || p.Lacks > 0 || p.Ahead > 0 || p.Differs {
				return false
			}
		}
	}
	return true
}

// One of three gateways is away: a change is told to be on two, the lag raises an alarm, and its end solves it.
func TestSyncStatus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		w := nodetest.New(t, 41)
		a, b, c := three(t, w)
		w.Wait("in step", 10*time.Second, func() bool { return inStep(t, a, b, c) })
		before := a.Position()
		w.Enrol(a, "laptop")
		if s, ok := a.Stored(ctx, before); !ok || s.On < 2 || s.Of != 3 {
			t.Errorf("stored on %+v, %v", s, ok)
		}
		if s, ok := a.Stored(ctx, a.Position()); ok {
			t.Errorf("nothing has changed and it is stored on %+v", s)
		}
		r, err := a.Resync(ctx, "b")
		if err != nil || r != (api.Resynced{}) {
			t.Errorf("equal gateways exchanged %+v, %v", r, err)
		}
		if _, err := a.Resync(ctx, "nobody"); err == nil {
			t.Error("exchange with nobody")
		}
		if _, err := a.Resync(ctx, "a"); err == nil {
			t.Error("exchange with itself")
		}

		c.Vanish()
		time.Sleep(5 * time.Second)
		w.Enrol(a, "phone")
		time.Sleep(40 * time.Second)
		s := syncOf(t, a)
		if len(s.Peers) != 2 || s.Peers[1].Name != "c" || s.Peers[1].Linked || s.Peers[1].Lacks == 0 || !s.Peers[0].InStep {
			t.Errorf("peers %+v", s.Peers)
		}
		if len(s.Alarms) != 1 || s.Alarms[0].Kind != api.AlarmLag || s.Alarms[0].Gateway != "c" || s.Alarms[0].Solved != nil {
			t.Fatalf("alarms %+v", s.Alarms)
		}
		if _, err := a.Resync(ctx, "c"); err == nil {
			t.Error("exchange with one that is away")
		}
		c.Return()
		w.Wait("in step again", 30*time.Second, func() bool { return inStep(t, a, b, c) })
		time.Sleep(5 * time.Second)
		if s := syncOf(t, a); len(s.Alarms) != 1 || s.Alarms[0].Solved == nil {
			t.Errorf("alarms %+v", s.Alarms)
		}
	})
}

// Alone a gateway stores a change on one of two, and says so after 300 ms.
func TestStoredAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := nodetest.New(t, 42)
		a, b := w.Gateway(1, "a"), w.Gateway(2, "b")
		a.Start()
		time.Sleep(time.Second)
		b.Start()
		w.WaitReady(6*time.Second, a, b)
		b.Vanish()
		time.Sleep(5 * time.Second)
		begin, before := time.Now(), a.Position()
		w.Enrol(a, "laptop")
		if s, ok := a.Stored(context.Background(), before); !ok || s != (api.Stored{On: 1, Of: 2}) {
			t.Errorf("stored on %+v, %v", s, ok)
		}
		if took := time.Since(begin); took < 300*time.Millisecond || took > 400*time.Millisecond {
			t.Errorf("answered after %v", took)
		}
		h := api.Handler(a.Node, nil)
		out := httptest.NewRecorder()
		h.ServeHTTP(out, httptest.NewRequest("DELETE", "/v1/devices/laptop", nil))
		if got := out.Header().Get("Gatemesh-Stored"); out.Code != 200 || got != "1/2" {
			t.Errorf("%d, stored %q: %s", out.Code, got, out.Body)
		}
	})
}

// Deletions are forgotten once all three gateways have them, and not before, unless one is away beyond the horizon. What
// it has of them when it is back does not return.
func TestDeletionsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		w := nodetest.New(t, 43)
		gateways := []*nodetest.Gateway{w.Gateway(1, "a"), w.Gateway(2, "b"), w.Gateway(3, "c")}
		a, b, c := gateways[0], gateways[1], gateways[2]
		for _, g := range gateways {
			g.Start(func(cfg *node.Config) { cfg.Horizon = 2 * time.Minute })
			time.Sleep(300 * time.Millisecond)
		}
		w.WaitReady(6*time.Second, gateways...)
		deletions := func(gateways ...*nodetest.Gateway) (ns []int) {
			for _, g := range gateways {
				ns = append(ns, syncOf(t, g).Deletions)
			}
			return ns
		}
		for i := range 3 {
			w.Enrol(a, fmt.Sprint("d", i))
		}
		time.Sleep(time.Second)
		if err := a.RemoveDevice(ctx, "d0"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if got := deletions(gateways...); !slices.Equal(got, []int{1, 1, 1}) {
			t.Fatalf("deletions %v", got)
		}
		w.Wait("all have forgotten d0", 2*time.Minute, func() bool { return slices.Equal(deletions(gateways...), []int{0, 0, 0}) })
		w.Wait("in step", 10*time.Second, func() bool { return inStep(t, gateways...) })

		c.Vanish()
		time.Sleep(5 * time.Second)
		if err := b.RemoveDevice(ctx, "d1"); err != nil {
			t.Fatal(err)
		}
		name := "kept"
		if _, err := c.ChangeDevice(ctx, "d2", api.DeviceChange{Name: &name}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(100 * time.Second)
		if got := deletions(a, b); !slices.Equal(got, []int{1, 1}) {
			t.Fatalf("c does not have it: deletions %v", got)
		}
		w.Wait("forgotten without c", 2*time.Minute, func() bool { return slices.Equal(deletions(a, b), []int{0, 0}) })
		c.Return()
		w.Wait("in step again", time.Minute, func() bool { return inStep(t, gateways...) })
		for _, g := range gateways {
			if _, err := g.ShowDevice(ctx, "d1"); err == nil {
				t.Errorf("%s: d1 came back", g.Name)
			}
			if _, err := g.ShowDevice(ctx, "kept"); err != nil {
				t.Errorf("%s: what c wrote alone: %v", g.Name, err)
			}
		}
		w.Enrol(c, "d1")
		time.Sleep(time.Second)
		if _, err := a.ShowDevice(ctx, "d1"); err != nil {
			t.Error(err)
		}
		w.Wait("each alarm was of a lag and is solved", 10*time.Second, func() bool {
			return !slices.ContainsFunc(gateways, func(g *nodetest.Gateway) bool {
				return slices.ContainsFunc(syncOf(t, g).Alarms, func(x api.Alarm) bool {
					return x.Kind != api.AlarmLag || x.Solved == nil
				})
			})
		})
	})
}
