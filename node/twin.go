package node

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"gatemesh/cluster"
	"gatemesh/mesh"
	"gatemesh/node/api"
)

// Two clusters that were begun apart with one key are twins: each would take
// the other's newcomers. A gateway looks for them on the LAN.
const (
	twinFirst = 10 * time.Second // how long it looks when it has started
	twinLook  = 2 * time.Second  // and then
	twinPause = time.Minute      // in between
	twinGone  = 5 * time.Minute  // one that is not heard any more
	maxTwins  = 16
)

// twin is a cluster that has our key and is another.
type twin struct {
	id   [8]byte // beginning of its id
	born time.Time
	seen mesh.Sighting // the last
	at   time.Time
}

// twins are those that were heard lately.
type twins struct {
	mu  sync.Mutex // guards all
	all map[[8]byte]twin
}

// see takes in who was heard on the LAN at now, and says whether it is news of a
// twin. own is our cluster.
func (t *twins) see(s mesh.Sighting, own [16]byte, now time.Time) bool {
	if !s.Ours || !s.Member || s.Cluster == [8]byte(own[:8]) {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for id, x := range t.all {
		if now.Sub(x.at) > twinGone {
			delete(t.all, id)
		}
	}
	_, known := t.all[s.Cluster]
	if !known && len(t.all) >= maxTwins {
		return false
	}
	if t.all == nil {
		t.all = map[[8]byte]twin{}
	}
	t.all[s.Cluster] = twin{s.Cluster, s.Born, s, now}
	return !known
}

// list returns the twins that were heard lately, the oldest first.
func (t *twins) list(now time.Time) []twin {
	t.mu.Lock()
	defer t.mu.Unlock()
	var all []twin
	for _, x := range t.all {
		if now.Sub(x.at) <= twinGone {
			all = append(all, x)
		}
	}
	slices.SortFunc(all, func(a, b twin) int {
		if a.older(b.born, b.id) {
			return -1
		}
		return 1
	})
	return all
}

// older says whether x is older than a cluster that was born then. All that
// know both come to the same.
func (x twin) older(born time.Time, id [8]byte) bool {
	if c := x.born.Compare(born.Truncate(time.Second)); c != 0 { // as exact as it is told
		return c < 0
	}
	return bytes.Compare(x.id[:], id[:]) < 0
}

// born returns when the cluster began: its first gateway admitted itself.
func born(admissions []cluster.Admission) (at time.Time) {
	for _, own := range []bool{true, false} {
		for _, a := range admissions {
			if own && a.Sponsor != cluster.NodeOf(a.Key) {
				continue
			}
			if at.IsZero() || a.At.Before(at) {
				at = a.At
			}
		}
		if !at.IsZero() {
			break
		}
	}
	return at
}

// born returns when our cluster began.
func (n *Node) born() time.Time {
	as, err := n.store.Admissions()
	if err != nil {
		n.log.Error("read admissions", "err", err)
	}
	return born(as)
}

// watchTwins looks for twins on the LAN now and then, and joins an older one
// where that costs nothing.
func (n *Node) watchTwins(ctx context.Context, p *parts) error {
	for look := twinFirst; ctx.Err() == nil; look = twinLook {
		key, err := n.clusterKey()
		var cfg mesh.FindConfig
		if err == nil {
			cfg, err = n.find(key, p.mesh.Addr().Port())
		}
		if err == nil {
			var heard []mesh.Sighting
			heard, err = mesh.Look(ctx, cfg, look)
			for _, s := range heard {
				if p.twins.see(s, p.facts.cluster, time.Now()) {
					n.log.Warn("another cluster with the same key is on the LAN", "cluster", fmt.Sprintf("%x", s.Cluster),
						"begun", s.Born, "gateway", s.From)
				}
			}
		}
		if err != nil && ctx.Err() == nil {
			n.log.Debug("not looked for other clusters on the LAN", "err", err)
		}
		if n.joinOlder(ctx, p) {
			return nil
		}
		if err := sleep(ctx, twinPause); err != nil {
			return nil //nolint:nilerr // the gateway is being stopped
		}
	}
	return nil
}

// twinsSeen is what an administrator is told of twins.
func (n *Node) twinsSeen(p *parts) (out []api.Twin) {
	own := n.born()
	for _, x := range p.twins.list(time.Now()) {
		out = append(out, api.Twin{
			Cluster: fmt.Sprintf("%x", x.id), Begun: x.born.UTC(), Gateway: x.seen.From.String(),
			Older: x.older(own, [8]byte(p.facts.cluster[:8])),
		})
	}
	return out
}
