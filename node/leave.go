package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	"gatemesh/cluster"
	"gatemesh/mesh"
	"gatemesh/node/api"
)

// ErrLeft is returned by [Node.Run] when the gateway has left its cluster for good. The next Node of the same directory
// is another gateway, in no cluster.
var ErrLeft = errors.New("the gateway has left its cluster")

const (
	leaveWait   = 5 * time.Second        // for others to know that this gateway has left
	leaveAnswer = 500 * time.Millisecond // for the answer to be sent before the gateway ends
)

// ResetGateway implements [api.Resets]. The note comes first: should the process end on the way, the gateway is another
// one at its next start all the same, and the others miss it until they evict it.
func (n *Node) ResetGateway(ctx context.Context, r api.Reset) (out api.ResetDone, err error) {
	p, err := n.running()
	if err != nil {
		return out, err
	}
	others := 0
	for _, m := range p.mesh.Members() {
		if m.Status == mesh.Alive {
			others++
		}
	}
	if others > 0 && !r.Force {
		return out, api.Errorf(api.Unavailable, "add --force: its devices are handed to them first, and they go on without it",
			"%d other gateways are connected", others)
	}
	if err := n.store.Refusal(); err != nil {
		return out, err
	}
	if !p.resetting.CompareAndSwap(false, true) {
		return out, api.Errorf(api.Unavailable, "wait until it has ended", "the gateway is leaving already")
	}
	had, _ := n.burden(p)
	left := n.drain(ctx, p, drainPatience)
	seed, _ := newSeed()
	saved, err := n.noteReset(resetNote{Saved: savedName(n.cfg.Now()), Seed: seed}, nil)
	if err != nil {
		p.resetting.Store(false)
		return out, err
	}
	// From here on there is no way back: who asked may be gone.
	ctx = context.WithoutCancel(ctx)
	if err := n.store.Leave(ctx); err != nil && !errors.Is(err, cluster.ErrNotFound) {
		n.log.Error("the others were not told; evict this gateway there", "err", err)
	}
	out = api.ResetDone{
		Cluster: clusterName(p.facts.cluster), Saved: saved, Moved: len(had) - left, Left: left,
		Told: n.farewell(ctx, p, others),
	}
	n.log.Warn("this gateway has left its cluster, and ends", "cluster", out.Cluster, "told", out.Told, "saved", out.Saved)
	n.departed.Store(true)
	time.AfterFunc(leaveAnswer, n.giveUp)
	return out, nil
}

// farewell waits until others have what was written last, all if they can, and returns how many have.
func (n *Node) farewell(ctx context.Context, p *parts, others int) (told int) {
	mark := n.store.Mark()
	for end := time.Now().Add(leaveWait); ; {
		told = countStored(mark, p.mesh.Progress(configState))
		if told >= others || !time.Now().Before(end) || sleep(ctx, storedLook) != nil {
			break
		}
	}
	if err := p.mesh.Leave(ctx); err != nil {
		n.log.Warn("left without a word to the mesh", "err", fmt.Errorf("leave: %w", err))
	}
	return told
}
