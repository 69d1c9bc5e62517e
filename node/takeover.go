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

// callInterval is how exactly devices are called.
const callInterval = 50 * time.Millisecond

// nudges are the times after a takeover at which the device is called once
// more: its old gateway may live, and until it knows better each packet of its
// own leads the device back to where its new keys are unknown.
var nudges = []time.Duration{100 * time.Millisecond, 300 * time.Millisecond, time.Second, 3 * time.Second}

// orphans are the gateways that died and whose devices want a new one, and the
// devices that were taken over just now.
type orphans struct {
	wake chan struct{} // capacity 1

	mu     sync.Mutex // guards the fields below
	dead   []cluster.Node
	taken  []nudge
	called map[cluster.Node]map[cluster.Key]struct{} // devices called since their gateway fell
}

// nudge is a device to be called once more.
type nudge struct {
	device cluster.Key
	at     time.Time
}

func newOrphans() *orphans {
	return &orphans{wake: make(chan struct{}, 1), called: map[cluster.Node]map[cluster.Key]struct{}{}}
}

// call notes that a device of a gateway that fell is being called.
func (o *orphans) call(owner cluster.Node, device cluster.Key) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.called[owner] == nil {
		o.called[owner] = map[cluster.Key]struct{}{}
	}
	o.called[owner][device] = struct{}{}
}

// back is for a gateway that was taken for dead and is here again: abandon is
// called with each device of its own that was called meanwhile.
func (o *orphans) back(owner cluster.Node, abandon func(cluster.Key)) {
	o.mu.Lock()
	devices := o.called[owner]
	delete(o.called, owner)
	o.mu.Unlock()
	for d := range devices {
		abandon(d)
	}
}

// orphan notes that a gateway is gone. Called by the mesh; never blocks.
func (p *parts) orphan(id cluster.Node) {
	p.orphans.mu.Lock()
	p.orphans.dead = append(p.orphans.dead, id)
	p.orphans.mu.Unlock()
	p.orphans.rouse()
}

func (o *orphans) rouse() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// busy says whether there are devices to be called again.
func (o *orphans) busy() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.taken) > 0
}

// took notes that a device of another gateway was taken over. It never blocks.
func (o *orphans) took(device cluster.Key, now time.Time) {
	o.mu.Lock()
	for _, after := range nudges {
		o.taken = append(o.taken, nudge{device, now.Add(after)})
	}
	o.mu.Unlock()
	o.rouse()
}

// gone returns the gateways that died since it was last called.
func (o *orphans) gone() []cluster.Node {
	o.mu.Lock()
	defer o.mu.Unlock()
	dead := o.dead
	o.dead = nil
	return dead
}

// nudged returns the devices to be called again at now.
func (o *orphans) nudged(now time.Time) (devices []cluster.Key) {
	o.mu.Lock()
	defer o.mu.Unlock()
	rest := o.taken[:0]
	for _, n := range o.taken {
		if now.Before(n.at) {
			rest = append(rest, n)
		} else {
			devices = append(devices, n.device)
		}
	}
	o.taken = rest
	return devices
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
	timer := time.NewTimer(0)
	defer timer.Stop()
	var waiting []due
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-p.orphans.wake:
		case <-timer.C:
		}
		now := time.Now()
		for _, device := range p.orphans.nudged(now) {
			p.vpn.Keepalive(device)
		}
		for _, dead := range p.orphans.gone() {
			sessions := p.sessions.OwnedBy(dead)
			n.log.Info("taking over", "from", dead, "devices", len(sessions))
			waiting = append(waiting, inherit(n.self, dead, sessions, p.peers.heirs(n.self, n.cfg.Capacity), now)...)
		}
		waiting = n.callDue(p, waiting, now)
		if len(waiting) > 0 || p.orphans.busy() {
			timer.Reset(callInterval)
		}
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
		if !ok || current.Owner != d.session.Owner || p.peers.isAlive(current.Owner) || p.linked(current.Owner) {
			continue // it has another owner, none any more, or its old one is back
		}
		p.orphans.call(current.Owner, d.session.Device)
		p.vpn.Initiate(d.session.Device, current.Endpoint)
	}
	return rest
}
