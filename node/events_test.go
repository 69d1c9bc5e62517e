package node_test

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"gatemesh/node/api"
	"gatemesh/node/nodetest"
)

// What happens in the life of a cluster is told to whoever listens.
func TestEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := nodetest.New(t, 1200)
		a, b := w.Gateway(1, "a"), w.Gateway(2, "b")
		a.Start()
		w.WaitReady(10*time.Second, a)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var mu sync.Mutex // guards seen
		seen := map[string]api.Event{}
		go func() {
			_ = a.Monitor(ctx, func(e api.Event) error {
				mu.Lock()
				defer mu.Unlock()
				seen[e.Kind+" "+e.Gateway+" "+e.Device] = e
				return nil
			})
		}()
		told := func(what string) {
			t.Helper()
			time.Sleep(time.Second)
			mu.Lock()
			defer mu.Unlock()
			if _, ok := seen[what]; !ok {
				t.Errorf("%q was not told; %d others were", what, len(seen))
			}
		}
		b.Start()
		w.WaitReady(10*time.Second, a, b)
		told("joined b ")
		told("up b ")
		told("changed b ")
		devices := connected(t, w, 4, a)
		for _, d := range devices {
			if d.At(t, a, b) == a {
				told("connected a " + d.Name)
			} else {
				told("steered b " + d.Name)
			}
		}
		b.Kill()
		told("failed b ")
		told("taken over b ")
		if _, err := a.EvictGateway(ctx, "b"); err != nil {
			t.Error(err)
		}
		told("evicted b ")
	})
}
