package node

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"gatemesh/cluster"
)

// dirty collects what changed in the store since it was last looked at.
type dirty struct {
	own     atomic.Bool // this gateway's entry
	mu      sync.Mutex  // guards devices
	devices map[cluster.Key]struct{}
}

func (d *dirty) add(k cluster.Key) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.devices == nil {
		d.devices = map[cluster.Key]struct{}{}
	}
	d.devices[k] = struct{}{}
}

func (d *dirty) take() []cluster.Key {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := make([]cluster.Key, 0, len(d.devices))
	for k := range d.devices {
		out = append(out, k)
	}
	d.devices = nil
	return out
}

// onChange is called by the store after each commit, whether an administrator
// here or another gateway wrote it. It does not block.
func (n *Node) onChange(p *parts) func([]cluster.Ref) {
	return func(refs []cluster.Ref) {
		if n.listened() {
			n.tellChanges(refs)
		}
		members := false
		for _, r := range refs {
			members = members || slices.Contains(membershipKinds, r.Kind)
			if r.Kind == "gateway" && r.ID == n.self.String() {
				p.dirty.own.Store(true)
			}
			if r.Kind != "device" {
				if r.Kind == "admission" || r.Kind == "setting" {
					p.recount.Store(true)
				}
				continue
			}
			if k, err := cluster.ParseKey(r.ID); err == nil {
				p.dirty.add(k)
			}
		}
		poke(p.changes)
		if members {
			n.onMembership(p)
		}
	}
}

// sessionLife is how long a session that nobody renews is remembered: the
// clocks of devices in it guard against replays.
const sessionLife = 7 * 24 * time.Hour

// reconcile brings the engine to what the store says.
func (n *Node) reconcile(ctx context.Context, p *parts) error {
	tick := time.NewTicker(time.Minute)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			p.sessions.Expire(n.cfg.Now().Add(-sessionLife))
			n.countInstances(p)
		case <-p.changes:
			if keys := p.dirty.take(); len(keys) > 0 {
				p.vpn.Refresh(keys...)
			}
			if p.dirty.own.CompareAndSwap(true, false) {
				if err := n.adopt(p); err != nil {
					n.log.Error("this gateway's own entry", "err", err)
				}
			}
			if p.recount.Swap(false) {
				n.countInstances(p)
			}
		}
	}
}
