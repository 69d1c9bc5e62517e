package node_test

import (
	"context"
	"errors"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"gatemesh/node/api"
	"gatemesh/node/nodetest"
)

// Two sides of a split rename one device, and enrol two with one name. After the split all
// gateways list the same; one of them ends one conflict for all.
func TestConflictsAfterASplit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		w := nodetest.New(t, 5)
		a, b, c := three(t, w)
		all := []*nodetest.Gateway{a, b, c}
		w.Enrol(a, "phone")
		time.Sleep(time.Second)
		w.Net.Cut(addrs(c.Addr), addrs(a.Addr, b.Addr))
		time.Sleep(time.Second)
		rename := func(g *nodetest.Gateway, name string) {
			if _, err := g.Node.ChangeDevice(ctx, "phone", api.DeviceChange{Name: &name}); err != nil {
				t.Fatal(err)
			}
		}
		rename(a, "left")
		time.Sleep(time.Second)
		rename(c, "right")
		w.Enrol(b, "new")
		w.Enrol(c, "new")
		time.Sleep(48 * time.Second)
		w.Net.Heal(addrs(c.Addr), addrs(a.Addr, b.Addr))

		var lists [3][]api.Conflict
		list := func(want int) func() bool {
			return func() bool {
				for i, g := range all {
					l, err := g.Node.ListConflicts(ctx)
					if err != nil {
						t.Fatal(err)
					}
					lists[i] = l
				}
				return len(lists[0]) == want && reflect.DeepEqual(lists[0], lists[1]) && reflect.DeepEqual(lists[0], lists[2])
			}
		}
		t.Log("all list the same after", w.Wait("the same conflicts everywhere", 10*time.Second, list(2)))
		x := lists[0][0]
		if x.Reason != "overwritten" || x.Kind != "device" || x.Name != "right" || x.Field != "name" ||
			x.Stands.Value != "right" || x.Stands.Gateway != "c" || x.Other.Value != "left" || x.Other.Gateway != "a" || x.Other.At == nil {
			t.Errorf("got %+v", x)
		}
		same := lists[0][1]
		if same.Reason != "same name" || same.Name != "new" || len(same.IDs) != 2 {
			t.Errorf("got %+v", same)
		}
		var refused *api.Error
		if _, err := b.Node.ResolveConflict(ctx, same.ID, api.Resolution{Take: api.TakeOther}); !errors.As(err, &refused) || !strings.Contains(refused.Hint, same.IDs[1]) {
			t.Error(err)
		}
		if _, err := b.Node.ResolveConflict(ctx, x.ID[:8], api.Resolution{Take: api.TakeOther}); err != nil {
			t.Fatal(err)
		}
		w.Wait("the conflict to end everywhere", 10*time.Second, list(1))
		if d, err := c.Node.ShowDevice(ctx, "left"); err != nil || d.Name != "left" {
			t.Error(d, err)
		}
		addresses, err := c.Node.ListAddresses(ctx)
		if err != nil || len(addresses) != 6 || !addresses[0].Keeps || addresses[0].Contested || !strings.HasPrefix(addresses[0].Address, "100.") {
			t.Errorf("%v, %+v", err, addresses)
		}
	})
}
