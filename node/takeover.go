package node

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"

	"gatemesh/cluster"
	"gatemesh/node/api"
)

// rankDelay is how long the next in rank waits for a claim or a confirmation
// by the one before.
const rankDelay = 500 * time.Millisecond

// hearsayDelay is how long the link of a gateway that comes back may take
// behind what others tell of it.
const hearsayDelay = 2 * time.Second

// callInterval is how exactly devices are called.
const callInterval = 50 * time.Millisecond

// nudges are the times after a takeover at which the device is called once
// more: the first message may be lost, and a late packet of its former gateway
// may lead it back.
var nudges = []time.Duration{100 * time.Millisecond, 300 * time.Millisecond}

// exportAfter is when a device that was taken over gets an heir: not while
// there are others to be taken over.
const exportAfter = time.Second

// orphans are the gateways that died and whose devices want a new one, and the
// devices that were taken over just now.
type orphans struct {
	wake chan struct{} // capacity 1

	mu    sync.Mutex // guards the fields below
	dead  []cluster.Node
	late  map[cluster.Node]time.Time // gateways that were heard of after they fell: when to look again
	taken []nudge
}

// nudge is devices to be called once more.
type nudge struct {
	devices []cluster.Key
	at      time.Time
}

func newOrphans() *orphans {
	return &orphans{wake: make(chan struct{}, 1), late: map[cluster.Node]time.Time{}}
}

// orphan notes that a gateway is gone. Called by the mesh; never blocks.
func (p *parts) orphan(id cluster.Node) {
	p.orphans.mu.Lock()
	p.orphans.dead = append(p.orphans.dead, id)
	p.orphans.mu.Unlock()
	p.orphans.rouse()
}

// hearsay notes that another gateway had news of one that had fallen: its last
// words, or it lives and a link to it is about to come. Never blocks.
func (o *orphans) hearsay(id cluster.Node, now time.Time) {
	o.mu.Lock()
	if _, waits := o.late[id]; !waits {
		o.late[id] = now.Add(hearsayDelay)
	}
	o.mu.Unlock()
	o.rouse()
}

func (o *orphans) rouse() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// busy says whether something is to be done later.
func (o *orphans) busy() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.taken)+len(o.late) > 0
}

// took notes that devices of another gateway were taken over. It never blocks
// and keeps the slice.
func (o *orphans) took(now time.Time, devices ...cluster.Key) {
	o.mu.Lock()
	for _, after := range nudges {
		o.taken = append(o.taken, nudge{devices, now.Add(after)})
	}
	o.mu.Unlock()
	o.rouse()
}

// gone returns the gateways that died since it was last called.
func (o *orphans) gone(now time.Time) []cluster.Node {
	o.mu.Lock()
	defer o.mu.Unlock()
	dead := o.dead
	o.dead = nil
	for id, at := range o.late {
		if !now.Before(at) {
			delete(o.late, id)
			dead = append(dead, id)
		}
	}
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
			devices = append(devices, n.devices...)
		}
	}
	clear(o.taken[len(rest):])
	o.taken = rest
	return devices
}

// due is a device that this gateway takes over at a time, unless another has
// it by then.
type due struct {
	session cluster.Session
	at      time.Time
}

// inherit returns when this gateway is to take over each of the sessions that
// dead owned: at once those of which it is heir, later by its rank the others.
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

// takeOver takes over the devices of gateways that died.
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
		if p.exile.silent.Load() {
			continue // weighExile rouses
		}
		now := time.Now()
		for _, device := range p.orphans.nudged(now) {
			p.vpn.Keepalive(device)
		}
		for _, dead := range p.orphans.gone(now) {
			sessions := p.sessions.OwnedBy(dead)
			n.log.Info("taking over", "from", dead, "devices", len(sessions))
			alive := p.peers.heirs(n.weighted(p))
			if p.leaving() && len(alive) > 1 {
				alive = alive[1:] // without us, as the others see it
			}
			waiting = append(waiting, inherit(n.self, dead, sessions, alive, now)...)
		}
		waiting = n.takeDue(p, waiting, now)
		if len(waiting) > 0 || p.orphans.busy() {
			timer.Reset(callInterval)
		}
	}
}

// takeDue takes over the devices whose time has come and that still want a
// gateway, and returns the rest.
func (n *Node) takeDue(p *parts, waiting []due, now time.Time) []due {
	rest := waiting[:0]
	var sessions []cluster.Session
	for _, d := range waiting {
		if now.Before(d.at) {
			rest = append(rest, d)
			continue
		}
		current, ok := p.sessions.Owner(d.session.Device)
		if !ok || current.Owner != d.session.Owner || p.peers.isAlive(current.Owner) || p.linked(current.Owner) {
			continue // it has another owner, none any more, or its old one is back
		}
		sessions = append(sessions, current)
	}
	if len(sessions) > 0 {
		n.succeed(p, sessions, false)
	}
	clear(waiting[len(rest):])
	return rest
}

// succeed makes devices of another gateway ours: those of which there are keys
// are claimed, all at once, and called under them; to the others we initiate.
// An attempt that may fail is no claim. final says that their gateway has just
// handed them over, so that it knew best where they are.
func (n *Node) succeed(p *parts, sessions []cluster.Session, final bool) {
	for batch := range slices.Chunk(sessions, succeedCount) { // what others wrote is followed between two
		n.succeedSome(p, batch, final)
	}
}

// succeedCount is how many devices are taken over while p.rows is held.
const succeedCount = 256

func (n *Node) succeedSome(p *parts, sessions []cluster.Session, final bool) {
	begin := time.Now()
	claims := make([]cluster.Session, 0, len(sessions))
	var calls []cluster.Session
	for _, s := range sessions {
		if p.vpn.Holds(s.Device) {
			claims = append(claims, s)
		} else {
			calls = append(calls, s)
		}
	}
	p.rows.Lock()
	defer p.rows.Unlock()
	p.sessions.Claim(claims, n.store.Stamp())
	taken := make([]cluster.Key, 0, len(claims))
	for _, s := range claims {
		p.steering.confirmed(s.Device)
		at := s.Endpoint
		if final {
			at = netip.AddrPort{}
		}
		if err := p.vpn.TakeOver(s.Device, at); err != nil {
			n.log.Debug("session was not taken over", "err", err)
			delete(p.stances, s.Device) // the claim stands until the handshake is given up
			p.vpn.Initiate(s.Device, s.Endpoint)
			continue
		}
		taken = append(taken, s.Device)
		delete(p.stances, s.Device) // the claim says that it is ours
		p.places.put(s.Device, s.Endpoint, true)
		p.exports.wantAt(s.Device, begin.Add(exportAfter))
	}
	for _, s := range calls {
		if p.stance(s.Device) != serving { // Initiate ends what else it may be
			p.stances[s.Device] = calling
		}
		p.vpn.Initiate(s.Device, s.Endpoint)
	}
	if len(taken) > 0 {
		p.orphans.took(begin, taken...)
	}
	if n.listened() && len(sessions) > 0 {
		n.tell(api.Event{Kind: api.EventTakenOver, GatewayID: sessions[0].Owner.String(), Count: len(sessions)})
	}
	n.log.Info("took over", "with keys", len(taken), "by handshake", len(sessions)-len(taken), "in", time.Since(begin))
}
