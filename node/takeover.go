package node

import (
	"context"
	"sync"
	"time"

	"gatemesh/cluster"
)

// rankDelay is how long the next in rank waits for a confirmation by the one
// before.
const rankDelay = 500 * time.Millisecond

// orphans are the gateways that died and whose devices want a new one.
type orphans struct {
	wake chan struct{} // capacity 1

	mu   sync.Mutex // guards the field below
	dead []cluster.Node
}

func newOrphans() *orphans { return &orphans{wake: make(chan struct{}, 1)} }

// orphan notes that a gateway is gone. Called by the mesh; never blocks.
func (p *parts) orphan(id cluster.Node) {
	p.orphans.mu.Lock()
	p.orphans.dead = append(p.orphans.dead, id)
	p.orphans.mu.Unlock()
	select {
	case p.orphans.wake <- struct{}{}:
	default:
	}
}

func (o *orphans) take() []cluster.Node {
	o.mu.Lock()
	defer o.mu.Unlock()
	dead := o.dead
	o.dead = nil
	return dead
}

// due is a device that this gateway calls at a time, unless another has it by
// then.
type due struct {
	session cluster.Session
	at      time.Time
}

// inherit returns when this gateway is to call each of the sessions that dead
// owned: at once those of which it is heir, later by its rank the others.
func inherit(self, dead cluster.Node, sessions []cluster.Session, alive []cluster.Weighted, now time.Time) []due {
	var out []due
	for _, s := range sessions {
		for rank, heir := range cluster.Heirs(s.Device, dead, alive) {
			if heir == self {
				out = append(out, due{s, now.Add(time.Duration(rank) * rankDelay)})
				break
			}
		}
	}
	return out
}

// takeOver calls the devices of gateways that died.
func (n *Node) takeOver(ctx context.Context, p *parts) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	var waiting []due
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-p.orphans.wake:
		case <-tick.C:
			if len(waiting) == 0 {
				continue
			}
		}
		now := time.Now()
		for _, dead := range p.orphans.take() {
			sessions := p.sessions.OwnedBy(dead)
			n.log.Info("taking over", "from", dead, "devices", len(sessions))
			waiting = append(waiting, inherit(n.self, dead, sessions, p.peers.heirs(n.self, n.cfg.Capacity), now)...)
		}
		waiting = n.callDue(p, waiting, now)
	}
}

// callDue initiates to the devices whose time has come and that still want a
// gateway, and returns the rest.
func (n *Node) callDue(p *parts, waiting []due, now time.Time) []due {
	rest := waiting[:0]
	for _, d := range waiting {
		if now.Before(d.at) {
			rest = append(rest, d)
			continue
		}
		current, ok := p.sessions.Owner(d.session.Device)
		if !ok || current.Owner != d.session.Owner || p.peers.isAlive(current.Owner) {
			continue // it has another owner, none any more, or its old one is back
		}
		p.vpn.Initiate(d.session.Device, current.Endpoint)
	}
	return rest
}
