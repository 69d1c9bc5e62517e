package node_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"gatemesh/node/labtest"
)

// TestLabVersions has our version and the one to come be one cluster: both replicate to each other, what ours does not
// know passes through it whole, and nothing new is written while a gateway does not understand it. Then one gateway is
// updated, and goes back.
func TestLabVersions(t *testing.T) {
	patient(t)
	lab := newLab(t)
	a, b, c := lab.Gateway("a"), lab.Gateway("b"), lab.Gateway("c")
	a.Update(true)
	c.Update(true)
	write := func(g *labtest.Gateway, value string) {
		if err := os.WriteFile(filepath.Join(g.Data, "next"), []byte(value), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	logged := func(g *labtest.Gateway, text string) {
		t.Helper()
		lab.Eventually(recoverLimit, g.Name+" logs "+text, func() bool { return strings.Contains(g.Process.Log(), text) })
	}

	a.Start("--name", "a")
	a.WaitReady()
	write(a, "blue")
	logged(a, `msg="next is written" value=blue`)
	b.Start("--name", "b", "--key", a.Key(), "--join", a.Addr.String())
	b.WaitReady()
	a.AddDevice("from-next")
	b.AddDevice("from-now")
	two := func(g *labtest.Gateway) {
		t.Helper()
		lab.Eventually(recoverLimit, g.Name+" has what both wrote", func() bool { return len(g.Devices()) == 2 })
	}
	two(a)
	two(b)
	lab.Eventually(recoverLimit, "a link that talks the common version", func() bool {
		return slices.ContainsFunc(a.Gateways(), func(g labtest.GatewayInfo) bool {
			return g.Name == "b" && g.Protocol == 1 && g.Format == 1
		})
	})
	if s := a.Status(); s.Protocol != "1-2" || s.Format != 2 || !slices.Equal(s.Older, []string{"b"}) {
		t.Errorf("a: %+v", s)
	}
	if s := b.Status(); s.Protocol != "1" || s.Format != 1 || len(s.Older) > 0 {
		t.Errorf("b: %+v", s)
	}
	write(a, "green")
	logged(a, "which is not understood by b")

	// What is not known passes through ours.
	a.Stop()
	c.Start("--name", "c", "--key", b.Key(), "--join", b.Addr.String())
	c.WaitReady()
	logged(c, `msg="next is known" all="next blue, gateway blue, setting blue"`)
	two(c)

	// An update, and back.
	b.Stop()
	b.Update(true)
	b.Start()
	b.WaitReady()
	a.Start()
	a.WaitReady()
	logged(a, `msg="next is written" value=green`)
	logged(c, `msg="next is known" all="next green, gateway green, setting green"`)
	lab.Eventually(recoverLimit, "a link that talks the new version", func() bool {
		return slices.ContainsFunc(a.Gateways(), func(g labtest.GatewayInfo) bool { return g.Name == "b" && g.Protocol == 2 })
	})
	b.Stop()
	b.Update(false)
	b.Start()
	b.WaitReady()
	two(b)
	if s := b.Status(); s.Format != 1 {
		t.Errorf("b: %+v", s)
	}
	write(c, "red")
	logged(c, "which is not understood by b")
	lab.Observe(100 * time.Millisecond)
}
