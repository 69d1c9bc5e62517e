package node_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"gatemesh/node/api"
	"gatemesh/node/nodetest"
)

// checked returns the check of a name at a gateway; the zero Check if there is none.
func checked(t *testing.T, g *nodetest.Gateway, name string) api.Check {
	t.Helper()
	all, err := g.Doctor(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range all {
		if c.Name == name {
			return c
		}
	}
	return api.Check{}
}

func TestDoctor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := nodetest.New(t, 1100)
		a, b, x := w.Gateway(1, "a"), w.Gateway(2, "b"), w.Gateway(3, "x")
		want := func(name, result, text string) {
			t.Helper()
			if c := checked(t, a, name); c.Result != result || !strings.Contains(c.Text, text) || result != api.OK &&
				c.Hint == "" {
				t.Errorf("%+v, want %s", c, result)
			}
		}
		a.Start()
		b.Start()
		w.WaitReady(10*time.Second, a, b)
		want("gateways", api.OK, "all 2")
		want("reachable", api.OK, "the other gateway can")
		want("clock", api.OK, "within 1 ms")
		want("multicast", api.OK, "heard of this cluster: 1, of other clusters: 0")
		want("versions", api.OK, "")

		b.Stop()
		b.Skew(-90 * time.Second)
		b.Start()
		w.WaitReady(10*time.Second, a, b)
		want("clock", api.Fail, "up to 1m30s; behind: b")

		// Another cluster with this key begins while nobody hears it.
		a.Vanish()
		b.Vanish()
		time.Sleep(5 * time.Second)
		x.Start()
		w.WaitReady(10*time.Second, x)
		w.Enrol(x, "phone") // or it would join the older one
		want("gateways", api.Warn, "1 of 2 are not linked: b")
		a.Return()
		time.Sleep(5 * time.Second)
		want("cluster key", api.Fail, "has the same key: "+x.Addr.String())
		if _, err := a.Drain(context.Background(), api.Drain{}); err != nil {
			t.Error(err)
		}
		want("ports", api.Warn, "drains")
		b.Return()
	})
}
