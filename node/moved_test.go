package node_test

import (
	"context"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"gatemesh/node/nodetest"
)

// A gateway gets another address while it runs, then all restart from their
// disks: they find each other where they are.
func TestAddressChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := nodetest.New(t, 91)
		a, b, c := three(t, w)
		to := netip.MustParseAddr("10.0.0.40")
		w.Net.Move(b.Addr, to)
		b.Addr = to
		w.Wait("all list the new address", 15*time.Second, func() bool {
			for _, g := range []*nodetest.Gateway{a, b, c} {
				list, err := g.ListGateways(context.Background())
				if err != nil {
					t.Fatal(err)
				}
				for _, x := range list {
					if x.Name == "b" && (!strings.HasPrefix(x.Mesh, to.String()+":") ||
						!strings.HasPrefix(x.Public, to.String()+":")) {
						return false
					}
				}
			}
			return true
		})
		w.WaitReady(5*time.Second, a, b, c)
		for _, g := range []*nodetest.Gateway{a, b, c} {
			g.Kill()
		}
		time.Sleep(time.Second)
		for _, g := range []*nodetest.Gateway{a, b, c} {
			g.Start(withoutKey)
		}
		w.WaitReady(8*time.Second, a, b, c)
	})
}
