package node

import (
	"context"
	"errors"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"gatemesh/node/api"
)

// A listener that does not read gets what fits, and is told how much it missed; the others get all.
func TestSlowListener(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &Node{stopping: make(chan struct{})}
		n.cfg.Now = time.Now
		n.tell(api.Event{Kind: "nobody listens"})
		ctx, cancel := context.WithCancel(t.Context())
		block := make(chan struct{})
		var slow, fast []api.Event
		go func() {
			_ = n.Monitor(ctx, func(e api.Event) error { <-block; slow = append(slow, e); return nil })
		}()
		go func() { _ = n.Monitor(ctx, func(e api.Event) error { fast = append(fast, e); return nil }) }()
		synctest.Wait()
		const many = 3 * maxWaiting
		for i := range many {
			n.tell(api.Event{Kind: api.EventSteered, Text: strconv.Itoa(i)})
			synctest.Wait()
		}
		if len(fast) != many || fast[many-1].Text != strconv.Itoa(many-1) {
			t.Errorf("one that reads got %d", len(fast))
		}
		close(block)
		synctest.Wait()
		// The first one was under way while the others waited.
		if len(slow) != 1+maxWaiting+1 {
			t.Fatalf("one that does not read got %d", len(slow))
		}
		last := slow[len(slow)-1]
		if last.Kind != api.EventMissed || last.Count != many-maxWaiting-1 ||
			slow[maxWaiting].Text != strconv.Itoa(maxWaiting) {
			t.Errorf("%+v after %+v", last, slow[maxWaiting])
		}
		cancel()
		synctest.Wait()
		if n.listened() || len(n.events.in) > 0 {
			t.Error("listeners stay")
		}
		gone := errors.New("gone")
		go n.tell(api.Event{})
		time.AfterFunc(time.Second, func() { n.tell(api.Event{}) })
		if err := n.Monitor(t.Context(), func(api.Event) error { return gone }); !errors.Is(err, gone) {
			t.Errorf("an error of the listener: %v", err)
		}
		time.AfterFunc(time.Second, func() { close(n.stopping) })
		if err := n.Monitor(t.Context(), func(api.Event) error { return nil }); err != nil {
			t.Errorf("when the gateway stops: %v", err)
		}
	})
}
