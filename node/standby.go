package node

import (
	"context"
	"maps"
	"slices"
	"time"

	"gatemesh/cluster"
)

// returnAfter is the age of a device's keys from which a standby gateway gives it to an active one that has room: it
// is due for new keys then (REKEY_AFTER_TIME is 120 s) and makes them there. So devices go back one by one, and those
// of a gateway that comes and goes stay where they are.
const returnAfter = 100 * time.Second

func roleOf(standby bool) string {
	if standby {
		return "standby"
	}
	return "active"
}

// load is our own, as placement wants it.
func (n *Node) load(p *parts) cluster.Load {
	o := n.offers()
	return cluster.Load{
		Node: n.self, Sessions: p.vpn.Count(), Capacity: o.Capacity, Standby: o.Standby,
		Draining: !p.ready.Load() || p.draining.Load(),
	}
}

// weighted is ourselves among those that inherit.
func (n *Node) weighted(p *parts) cluster.Weighted {
	o := n.offers()
	return cluster.Weighted{Node: n.self, Capacity: o.Capacity, Standby: o.Standby, Full: p.full.Load()}
}

// isLent says whether a gateway is a standby while an active one has room.
func (n *Node) isLent(p *parts, owner cluster.Node, now time.Time) bool {
	if owner == n.self && !n.offers().Standby || owner != n.self && !p.peers.isStandby(owner) {
		return false
	}
	return cluster.Spare(n.load(p), p.peers.weigh(now))
}

// turnRole follows a change of our role. One that becomes a standby gives all its devices away, without a loss.
func (n *Node) turnRole(p *parts, was, is bool) {
	if was == is {
		return
	}
	p.retired.Store(is)
	p.exports.rouse()
	p.rouseLeaving()
}

// giveBack has a standby gateway give devices to the active ones, as many as those have room for: all if it has just
// become a standby, else those that are due for new keys.
func (n *Node) giveBack(ctx context.Context, p *parts) {
	if p.vpn.Count() == 0 {
		p.retired.Store(false)
		return
	}
	room := map[heir]int{}
	for _, h := range p.linkedHeirs() {
		if r, ok := p.peers.report(h.Node); ok && !h.Standby && !h.Full && r.Sessions < r.Capacity {
			room[h] = r.Capacity - r.Sessions
		}
	}
	if len(room) == 0 {
		return
	}
	all, now := p.retired.Load(), n.store.Now()
	devices := n.served(p, func(s cluster.Session) bool { return all || now.Sub(s.Handshake) > returnAfter })
	n.giveRound(ctx, p, devices, slices.Collect(maps.Keys(room)), room)
}
