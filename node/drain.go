package node

import (
	"context"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"gatemesh/cluster"
	"gatemesh/node/api"
)

const (
	departTimeout = 5 * time.Second        // at the end of the process
	departLinger  = 500 * time.Millisecond // then: what is under way from devices is passed on
	drainPatience = 10 * time.Second       // Drain returns when nothing has changed for so long
	drainPause    = 200 * time.Millisecond // between two rounds of giving away
	drainLook     = 50 * time.Millisecond  // between two looks at what is left
	finalCount    = 64                     // exports in one call: devices wait for the answer
	keepFor       = 30 * time.Second       // a device that only we reach is not given away again before
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
	p.departing.Store(true)
	if had, _ := n.burden(p); n.drain(ctx, p, departTimeout) < len(had) {
		select {
		case <-ctx.Done():
		case <-time.After(departLinger):
		}
	}
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
	had, _ := n.burden(p)
	if d.Undo {
		p.draining.Store(false)
		n.log.Info("takes devices again")
		return api.Drained{Left: len(had)}, nil
	}
	if len(had) > 0 && len(p.linkedHeirs()) == 0 {
		return api.Drained{}, api.Errorf(api.Unavailable,
			"start another gateway first, or see in `gatemesh gateway list` why it is not linked",
			"there is no gateway that could take the devices")
	}
	left := n.drain(ctx, p, drainPatience)
	moved := 0
	for _, k := range had {
		if s, owned := p.sessions.Owner(k); owned && s.Owner != n.self && !p.handedOver(k) {
			moved++
		}
	}
	return api.Drained{Moved: moved, Left: left}, nil
}

// drain takes no new devices from now on, has giveAway hand over those that are here, and waits until their new
// gateways have heard them. It gives up waiting when their number has not fallen for patience, when they are all such
// that no other gateway reaches, or when there is no heir. It returns how many are left.
func (n *Node) drain(ctx context.Context, p *parts, patience time.Duration) (left int) {
	p.draining.Store(true)
	n.tell(api.Event{Kind: api.EventDraining, GatewayID: n.self.String()})
	p.rouseLeaving()
	tick := time.NewTicker(drainLook)
	defer tick.Stop()
	for fewest, since := -1, time.Now(); ; {
		devices, kept := n.burden(p)
		left = len(devices)
		if fewest < 0 || left < fewest {
			fewest, since = left, time.Now()
		}
		if left == kept || !p.draining.Load() || time.Since(since) >= patience || len(p.linkedHeirs()) == 0 {
			break
		}
		select {
		case <-ctx.Done():
			return left
		case <-tick.C:
		}
	}
	n.log.Info("drained", "left", left)
	n.tell(api.Event{Kind: api.EventDrained, GatewayID: n.self.String(), Count: left, Text: "devices that are left"})
	return left
}

// burden lists the devices that this gateway sends to, and those that it has handed over and whose new gateway has not
// heard them. kept is how many of them only this gateway reaches.
func (n *Node) burden(p *parts) (devices []cluster.Key, kept int) {
	owned := p.sessions.OwnedBy(n.self)
	p.rows.Lock()
	defer p.rows.Unlock()
	for _, s := range owned {
		if p.stance(s.Device) == serving {
			devices = append(devices, s.Device)
			if p.isKept(s.Device) {
				kept++
			}
		}
	}
	for k, s := range p.stances {
		if s == handed {
			devices = append(devices, k)
		}
	}
	return devices, kept
}

// isKept says whether a device is not to be given away yet. p.rows is held.
func (p *parts) isKept(k cluster.Key) bool {
	until, ok := p.kept[k]
	return ok && !p.departing.Load() && time.Now().Before(until)
}

// handedOver says whether a device was given to a gateway that has not heard it.
func (p *parts) handedOver(k cluster.Key) bool {
	p.rows.Lock()
	defer p.rows.Unlock()
	return p.stance(k) == handed
}

// leaving says whether devices are to be given away.
func (p *parts) leaving() bool {
	return p.draining.Load() || p.ready.lost.Load() || p.ready.surplus.Load()
}

// rouseLeaving wakes giveAway. It does not block.
func (p *parts) rouseLeaving() {
	select {
	case p.leave <- struct{}{}:
	default:
	}
}

// gives says whether devices are given away, or may be.
func (n *Node) gives(p *parts) bool { return p.leaving() || n.offers().Standby }

// giveAway hands devices to their heirs as long as this gateway drains, its data path is broken, or it is a standby:
// each is stopped, exported, taken over there and then, and dropped when its new gateway has heard it. Packets for it
// go there meanwhile. What no heir takes, what is taken back and what a handshake makes anew goes with the next round.
// Nobody else gives away.
func (n *Node) giveAway(ctx context.Context, p *parts) error {
	timer := time.NewTimer(drainPause)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-p.leave:
		case <-timer.C:
		}
		switch {
		case p.leaving():
			n.giveRound(ctx, p, n.served(p, nil), p.linkedHeirs(), nil)
		case n.offers().Standby:
			n.giveBack(ctx, p)
		default:
			continue
		}
		timer.Reset(drainPause)
	}
}

// giveRound gives each of the devices to its heir, once, and to an heir at most as many as room says; nil: all.
func (n *Node) giveRound(ctx context.Context, p *parts, devices []cluster.Key, heirs []heir, room map[heir]int) {
	given := map[heir][]cluster.Key{}
	for _, k := range devices {
		h := heirOf(k, n.self, heirs)
		if !h.Node.IsZero() && (room == nil || len(given[h]) < room[h]) {
			given[h] = append(given[h], k)
		}
	}
	var g errgroup.Group
	for h, keys := range given {
		g.Go(func() error {
			n.drainTo(ctx, p, h, keys)
			return nil
		})
	}
	_ = g.Wait() // no error is returned
}

// served lists the devices that this gateway sends to and that may be given away, those that some chooses; nil: all.
func (n *Node) served(p *parts, some func(cluster.Session) bool) (devices []cluster.Key) {
	owned := p.sessions.OwnedBy(n.self)
	p.rows.Lock()
	defer p.rows.Unlock()
	for _, s := range owned {
		if p.stance(s.Device) == serving && !p.isKept(s.Device) && (some == nil || some(s)) {
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
	return slices.DeleteFunc(p.peers.inheritors(), func(h heir) bool { return !linked[h.Node] })
}

// drainTo hands devices to one heir, a few at a time, until a call fails.
func (n *Node) drainTo(ctx context.Context, p *parts, h heir, keys []cluster.Key) {
	for batch := range slices.Chunk(keys, finalCount) {
		if ctx.Err() != nil || !n.gives(p) {
			return
		}
		stopped, b := n.stop(p, h, batch)
		if len(stopped) == 0 {
			continue
		}
		taken, err := n.give(ctx, p, h.Node, b)
		for i, k := range stopped {
			if err == nil && taken[i] {
				p.forwards.open(k, h.Node, time.Now(), p.sendPacket)
			} else {
				n.resume(p, k)
			}
		}
		if err != nil {
			n.log.Warn("devices were not taken by their heir", "heir", h.Node, "devices", len(stopped), "err", err)
			return
		}
	}
}

// stop ends sending to devices of ours and returns what the heir needs of them, in the same order. A device with which
// a handshake is under way stays until that is over.
func (n *Node) stop(p *parts, h heir, keys []cluster.Key) (stopped []cluster.Key, out bequest) {
	out.Final = true
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
		p.steering.lose(k)
		own, _ := p.sessions.Own(k)
		stopped, out.Exports, out.Epochs = append(stopped, k), append(out.Exports, b), append(out.Epochs, own.Epoch)
	}
	return stopped, out
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
