package node

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sync/errgroup"

	"gatemesh/cluster"
	"gatemesh/mesh"
	"gatemesh/node/api"
)

const (
	drainTimeout = 5 * time.Second        // at the end of the process
	drainLinger  = 500 * time.Millisecond // after devices were taken, for the heirs' last calls and what is under way
	drainLooks   = 2                      // for devices that are served here
	drainTries   = 3
	drainPause   = 200 * time.Millisecond
)

// depart waits for the end that was asked for, and gives the devices away before it comes. It returns at once when the
// gateway fails.
func (n *Node) depart(ctx context.Context, asked <-chan struct{}) error {
	select {
	case <-ctx.Done():
		return nil
	case <-asked:
	}
	p := n.live.Load()
	if p == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, drainTimeout)
	defer cancel()
	n.drain(ctx, p)
	if err := n.saveClocks(ctx, p); err != nil {
		n.log.Warn("clocks of devices are not kept", "err", err)
	}
	return nil
}

// Drain implements [api.Gateways].
func (n *Node) Drain(ctx context.Context, d api.Drain) (api.Drained, error) {
	p, err := n.running()
	if err != nil {
		return api.Drained{}, err
	}
	if d.Undo {
		p.draining.Store(false)
		n.log.Info("takes devices again")
		return api.Drained{Left: p.vpn.Count()}, nil
	}
	if len(p.peers.inheritors()) == 0 && len(n.served(p)) > 0 {
		return api.Drained{}, api.Errorf(api.Unavailable, "start another gateway first", "there is no gateway that could take the devices")
	}
	moved := n.drain(ctx, p)
	return api.Drained{Moved: moved, Left: len(n.served(p))}, nil
}

// drain takes no new devices from now on and hands those it has to their heirs. It lingers then, and looks again: a
// handshake that a device had begun with us makes keys that its heir does not have. It returns how many were taken.
func (n *Node) drain(ctx context.Context, p *parts) (moved int) {
	p.draining.Store(true)
	for range drainLooks {
		taken := n.giveAway(ctx, p)
		if moved += taken; taken == 0 {
			break
		}
		select {
		case <-ctx.Done():
		case <-time.After(drainLinger):
		}
	}
	n.log.Info("drained", "moved", moved, "left", len(n.served(p)))
	return moved
}

// giveAway hands all devices to their heirs: each is stopped, exported, taken over there and then, and dropped when its
// new gateway has heard it. Packets for it go there meanwhile. What no heir takes stays. It returns how many were
// taken.
func (n *Node) giveAway(ctx context.Context, p *parts) (moved int) {
	for range drainTries {
		heirs := p.linkedHeirs()
		given := map[heir][]cluster.Key{}
		all := 0
		for _, k := range n.served(p) {
			if h := heirOf(k, n.self, heirs); !h.Node.IsZero() {
				given[h] = append(given[h], k)
				all++
			}
		}
		counts := make(chan int, len(given))
		var g errgroup.Group
		for h, keys := range given {
			g.Go(func() error {
				counts <- n.drainTo(ctx, p, h, keys)
				return nil
			})
		}
		_ = g.Wait() // no error is returned
		close(counts)
		taken := 0
		for c := range counts {
			taken += c
		}
		if moved += taken; taken == all || ctx.Err() != nil || len(p.linkedHeirs()) == 0 {
			break
		}
		select {
		case <-ctx.Done():
		case <-time.After(drainPause):
		}
	}
	return moved
}

// served lists the devices that this gateway sends to.
func (n *Node) served(p *parts) (devices []cluster.Key) {
	for _, s := range p.sessions.OwnedBy(n.self) {
		if p.serves(s.Device) {
			devices = append(devices, s.Device)
		}
	}
	return devices
}

// linkedHeirs lists the inheritors that can be called right now.
func (p *parts) linkedHeirs() []heir {
	linked := map[cluster.Node]bool{}
	for _, m := range p.mesh.Members() {
		linked[cluster.Node(m.ID)] = m.Linked
	}
	var out []heir
	for _, h := range p.peers.inheritors() {
		if linked[h.Node] {
			out = append(out, h)
		}
	}
	return out
}

// drainTo hands devices to one heir, a few at a time, and returns how many it has taken.
func (n *Node) drainTo(ctx context.Context, p *parts, h heir, keys []cluster.Key) (moved int) {
	for len(keys) > 0 && ctx.Err() == nil {
		batch := keys[:min(len(keys), finalCount)]
		keys = keys[len(batch):]
		stopped, exports := n.stop(p, h, batch)
		if len(stopped) == 0 {
			continue
		}
		taken, err := n.give(ctx, p, h.Node, bequest{Final: true, Exports: exports})
		if err != nil {
			n.log.Warn("devices were not taken by their heir", "heir", h.Node, "devices", len(stopped), "err", err)
		}
		for i, k := range stopped {
			if err == nil && taken[i] {
				p.forwards.open(k, h.Node, p.sendPacket)
				moved++
			} else {
				n.resume(p, k)
			}
		}
		if errors.Is(err, mesh.ErrNotLinked) {
			return moved
		}
	}
	return moved
}

// stop ends sending to devices of ours and returns their exports for the heir, in the same order.
func (n *Node) stop(p *parts, h heir, keys []cluster.Key) (stopped []cluster.Key, exports [][]byte) {
	p.rows.Lock()
	defer p.rows.Unlock()
	for _, k := range keys {
		if p.stance(k) != serving {
			continue
		}
		p.forwards.begin(k) // first: packets come as soon as it is exported
		b, err := p.vpn.Export(k, h.incarnation, true)
		if err != nil {
			p.forwards.end(k)
			continue
		}
		p.stances[k] = handed
		stopped, exports = append(stopped, k), append(exports, b)
	}
	return stopped, exports
}

// resume serves a device again that no heir has taken, as far as we know: if one has all the same, its claim comes.
func (n *Node) resume(p *parts, k cluster.Key) {
	p.rows.Lock()
	defer p.rows.Unlock()
	waited := p.forwards.end(k)
	if p.stance(k) != handed {
		return
	}
	delete(p.stances, k)
	p.vpn.Unmute(k)
	for _, packet := range waited {
		p.vpn.Deliver(k, packet)
	}
	n.settle(p, k)
}
