package node

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"time"

	"gatemesh/cluster"
	"gatemesh/mesh"
	"gatemesh/node/api"
)

const (
	configState   = "config"
	lookPeriod    = 2 * time.Second  // between two looks at how far the peers are
	collectPeriod = 10 * time.Minute // between two acknowledgements of deletions, with jitter
	mendPause     = 10 * time.Minute // between two attempts to mend one peer's differences
	storedWait    = 300 * time.Millisecond
	storedLook    = 5 * time.Millisecond
)

// watchSync looks how far the peers are, raises and ends alarms, and mends what differs without a reason.
func (n *Node) watchSync(ctx context.Context, p *parts) error {
	tick := time.NewTicker(lookPeriod)
	defer tick.Stop()
	mended := map[cluster.Node]time.Time{}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		for node, l := range n.lookAtPeers(p) {
			now := time.Now()
			diverged := l.diverged(n.store.Digest(), now)
			n.alarm(p, alarmLag, node, l.late(now), "changes have not reached it for more than "+lagLimit.String())
			n.alarm(p, alarmPush, node, l.refuses(), "exchanges of changes with it fail")
			n.alarm(p, alarmDivergence, node, diverged, "it knows the same changes and has other data")
			if diverged && now.Sub(mended[node]) > mendPause {
				mended[node] = now
				if _, err := n.repair(ctx, p, node); err != nil {
					n.log.Warn("differences are not mended", "peer", node, "err", err)
				}
			}
		}
	}
}

// lookAtPeers takes in how far all other members are.
func (n *Node) lookAtPeers(p *parts) map[cluster.Node]lag {
	admissions, err := n.store.Admissions()
	if err != nil {
		n.log.Error("read admissions", "err", err)
		return nil
	}
	var others []cluster.Node
	for _, a := range admissions {
		if node := cluster.NodeOf(a.Key); node != n.self {
			others = append(others, node)
		}
	}
	lacks := func(digest []byte) bool {
		cells, _, err := n.store.Missing(digest)
		return err == nil && cells > 0
	}
	return p.lags.look(others, p.mesh.Progress(configState), n.store.Digest(), lacks, time.Now())
}

// alarm raises or ends an alarm, and logs it if that is news.
func (n *Node) alarm(p *parts, kind alarmKind, peer cluster.Node, wrong bool, text string) {
	a, news := p.alarms.set(kind, peer, wrong, text, time.Now())
	if news {
		n.tellAlarm(a)
	}
	switch {
	case news && wrong:
		n.log.Error("replication alarm", "kind", kind, "peer", peer, "why", text)
	case news:
		n.log.Info("replication alarm solved", "kind", kind, "peer", peer, "after", a.Solved.Sub(a.Since))
	}
}

// collect acknowledges deletions now and then, so that all forget them once all have them.
func (n *Node) collect(ctx context.Context) error {
	for {
		period := min(collectPeriod, n.cfg.Horizon/10)
		if sleep(ctx, period/2+rand.N(period)) != nil {
			return nil
		}
		if err := n.store.Collect(ctx, n.cfg.Horizon); err != nil && ctx.Err() == nil {
			n.log.Warn("deletions are not acknowledged", "err", err)
		}
	}
}

// SyncStatus implements [api.Replication].
func (n *Node) SyncStatus(context.Context) (api.Sync, error) {
	p, err := n.running()
	if err != nil {
		return api.Sync{}, err
	}
	names, err := n.gatewayNames()
	if err != nil {
		return api.Sync{}, err
	}
	out := api.Sync{Gateway: n.offers().Name, Peers: []api.SyncPeer{}, Alarms: []api.Alarm{}}
	if out.Deletions, err = n.store.Deletions(); err != nil {
		return api.Sync{}, err
	}
	for node, l := range n.lookAtPeers(p) {
		s := api.SyncPeer{
			Name: names[node], ID: node.String(), Linked: l.linked, InStep: l.inStep, Failed: l.failed,
			Since: l.since.UTC().Truncate(time.Second),
		}
		if !l.heard.IsZero() {
			heard := l.heard.UTC().Truncate(time.Second)
			s.Heard = &heard
			if s.Lacks, s.Ahead, err = n.store.Missing(l.theirs); err != nil {
				return api.Sync{}, err
			}
			s.Differs = s.Lacks == 0 && s.Ahead == 0 && !bytes.Equal(l.theirs, n.store.Digest())
		}
		out.Peers = append(out.Peers, s)
	}
	slices.SortFunc(out.Peers, func(a, b api.SyncPeer) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID))
	})
	for _, a := range p.alarms.all(time.Now()) {
		x := api.Alarm{
			Kind: string(a.Kind), Gateway: names[a.Peer], ID: a.Peer.String(), Text: a.Text,
			Since: a.Since.UTC().Truncate(time.Second),
		}
		if !a.Solved.IsZero() {
			solved := a.Solved.UTC().Truncate(time.Second)
			x.Solved = &solved
		}
		out.Alarms = append(out.Alarms, x)
	}
	return out, nil
}

// Resync implements [api.Replication].
func (n *Node) Resync(ctx context.Context, ref string) (api.Resynced, error) {
	p, err := n.running()
	if err != nil {
		return api.Resynced{}, err
	}
	g, err := n.store.FindGateway(ref)
	if err != nil {
		return api.Resynced{}, gatewayError(ref, err)
	}
	if g.Node == n.self {
		return api.Resynced{}, api.Errorf(api.Invalid, "name another gateway; `gatemesh gateway list` shows them", "%s is this gateway itself", g.Name)
	}
	r, err := n.repair(ctx, p, g.Node)
	if err != nil {
		return api.Resynced{}, api.Errorf(api.Unavailable, "see in `gatemesh sync status` whether it is linked", "exchange with %s: %v", g.Name, err)
	}
	return r, nil
}

// Position implements [api.Writes].
func (n *Node) Position() any { return n.store.Mark() }

// Stored implements [api.Writes].
func (n *Node) Stored(ctx context.Context, before any) (api.Stored, bool) {
	p, mark := n.live.Load(), n.store.Mark()
	if p == nil || before == any(mark) {
		return api.Stored{}, false
	}
	admissions, err := n.store.Admissions()
	if err != nil {
		return api.Stored{}, false
	}
	of := max(len(admissions), 1)
	for end := time.Now().Add(storedWait); ; {
		on := 1 + countStored(mark, p.mesh.Progress(configState))
		if on > 1 || of == 1 || !time.Now().Before(end) || sleep(ctx, storedLook) != nil {
			return api.Stored{On: min(on, of), Of: of}, true
		}
	}
}

// countStored counts the peers that have all up to a mark.
func countStored(mark cluster.Mark, progress []mesh.Progress) (on int) {
	for _, x := range progress {
		if x.Theirs != nil && mark.In(x.Theirs) {
			on++
		}
	}
	return on
}

func gatewayError(ref string, err error) error {
	if errors.Is(err, cluster.ErrNotFound) {
		return api.Errorf(api.NotFound, "`gatemesh gateway list` shows those there are", "no gateway is called %q", ref)
	}
	return apiError(ref, err)
}
