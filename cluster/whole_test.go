package cluster

import (
	"context"
	"sync"
	"testing"
)

// Two whole deltas that end at once: what stands with the members stays.
func TestTwoWholeDeltasAtOnce(t *testing.T) {
	ctx := context.Background()
	c := newCrew(t, 2)
	add(t, c.all[0], "laptop", testKey(0))
	add(t, c.all[0], "phone", testKey(1))
	c.equal()
	backup := parts(t, storeState{c.all[0]}, nil)
	c.remove(c.all[0], 0)
	c.round(c.all...)
	c.round(c.all...)
	c.want("all forgot", 0, 0)
	for range 150 {
		restored := open(t, Config{Node: memberNode(2), Now: c.clock.now})
		for _, p := range backup {
			_, err := restored.Merge(p)
			check(t, err)
		}
		check(t, restored.MarkForeign(ctx))
		for _, p := range parts(t, storeState{c.all[0]}, restored.Digest()) {
			_, err := restored.Merge(p)
			check(t, err)
		}
		if !restored.whole.wanted() {
			t.Fatal("it wants no whole delta")
		}
		var ends sync.WaitGroup
		for _, from := range c.all {
			all := parts(t, storeState{from}, restored.Digest())
			for _, p := range all[:len(all)-1] {
				_, err := restored.Merge(p)
				check(t, err)
			}
			ends.Go(func() {
				if _, err := restored.Merge(all[len(all)-1]); err != nil {
					t.Error(err)
				}
			})
		}
		ends.Wait()
		if _, err := restored.FindDevice("phone"); err != nil || restored.CountDevices() != 1 {
			t.Fatalf("it has %d devices: %v", restored.CountDevices(), err)
		}
	}
}
