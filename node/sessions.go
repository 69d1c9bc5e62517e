package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"github.com/fxamacker/cbor/v2"

	"gatemesh/cluster"
	"gatemesh/mesh"
	"gatemesh/vpn"
)

// Kinds of messages between gateways.
const (
	kindInitiation = "initiation" // a device's initiation for the receiver to answer
	kindSessions   = "sessions"   // asks for the counters of the receiver's sessions
)

// lookup is the engine's view of the store.
func (n *Node) lookup(p *parts) vpn.LookupFunc {
	return func(k vpn.Key) (vpn.Device, bool) {
		d, err := n.store.Device(k)
		if err != nil {
			if !errors.Is(err, cluster.ErrNotFound) {
				n.log.Error("read device", "err", err)
			}
			return vpn.Device{}, false
		}
		if !d.Enabled {
			return vpn.Device{}, false
		}
		out := vpn.Device{Key: k, PresharedKey: d.PresharedKey}
		for _, a := range d.Addresses {
			out.Addresses = append(out.Addresses, netip.PrefixFrom(a, a.BitLen()))
		}
		out.Received, out.Sent = p.sessions.Clocks(k)
		return out, true
	}
}

// steer decides who answers an initiation, and passes it on.
func (n *Node) steer(p *parts) vpn.SteerFunc {
	return func(device vpn.Key, from netip.AddrPort, initiation []byte) bool {
		now := n.cfg.Now()
		owner, owned := p.sessions.Owner(device)
		v := p.steering.decide(knock{device: device, now: now, owner: owner, owned: owned, alive: p.peers.serves},
			func(answering int, r *rand.Rand) (cluster.Node, bool) {
				own := cluster.Load{
					Node: n.self, Sessions: p.vpn.Count() + answering, Capacity: n.cfg.Capacity, Draining: !p.ready.Load(),
				}
				return cluster.Place(own, p.peers.weigh(now), r)
			})
		if !v.sent {
			return true
		}
		if err := p.pass(mesh.ID(v.target), passed{From: from, Initiation: initiation, Device: device}); err != nil {
			n.log.Debug("initiation not passed on, answered here", "to", v.target, "err", err)
			p.steering.here(device, now)
			return true
		}
		p.peers.sent(v.target, now)
		return false
	}
}

// pass sends an initiation to another gateway. It does not block.
func (p *parts) pass(to mesh.ID, in passed) error {
	b, err := cbor.Marshal(in)
	if err != nil {
		return fmt.Errorf("encode initiation: %w", err)
	}
	return p.mesh.Send(to, kindInitiation, b)
}

// onInitiation answers what another gateway passed on, or gives it back.
func (n *Node) onInitiation(p *parts) mesh.Handler {
	return func(_ context.Context, from mesh.ID, payload []byte) ([]byte, error) {
		var in passed
		if err := cbor.Unmarshal(payload, &in); err != nil || !in.valid() {
			return nil, errors.New("not an initiation")
		}
		if in.Back {
			p.steering.here(in.Device, n.cfg.Now())
		} else if !n.answers(p, in.Device) {
			in.Back = true
			return nil, p.pass(from, in)
		} else {
			p.steering.guest(in.Device, cluster.Node(from), n.cfg.Now())
		}
		p.vpn.Inject(in.Initiation, in.From)
		return nil, nil
	}
}

// answers says whether this gateway can answer a device that another sent.
func (n *Node) answers(p *parts, device cluster.Key) bool {
	if _, err := n.store.Device(device); err != nil || !p.ready.Load() {
		return false
	}
	owner, owned := p.sessions.Owner(device)
	return owned && owner.Owner == n.self || p.vpn.Count() < n.cfg.Capacity
}

// onSession writes down what the engine says of its sessions.
func (n *Node) onSession(p *parts) func(vpn.Event) {
	return func(e vpn.Event) {
		p.rows.Lock()
		defer p.rows.Unlock()
		owner, owned := p.sessions.Owner(e.Device)
		mine, _ := p.sessions.Own(e.Device)
		s, worth := record(n.self, mine, owner, owned, e)
		if !worth {
			return
		}
		if e.Kind == vpn.Confirmed {
			p.steering.confirmed(e.Device)
			if owned && owner.Owner != n.self {
				p.orphans.took(e.Device, time.Now())
			}
			p.sessions.Confirm(s, n.store.Stamp())
		} else {
			p.sessions.Put(s)
		}
	}
}

// record returns what is to be written of a device after event e: mine is what
// this gateway wrote last, owner who has the device now if owned. A row that
// makes no claim is written as released: it keeps the clocks of the device, by
// which replays are told.
func record(self cluster.Node, mine, owner cluster.Session, owned bool, e vpn.Event) (s cluster.Session, worth bool) {
	ours := owned && owner.Owner == self
	s = mine
	s.Device = e.Device
	s.Received, s.Sent = later(s.Received, e.Received), later(s.Sent, e.Sent)
	switch e.Kind {
	case vpn.Confirmed:
		s.Released, s.Endpoint, s.Handshake = false, e.Endpoint, e.At
		if !ours {
			s.Since = e.At
		}
	case vpn.Roamed:
		if !ours {
			return s, false
		}
		s.Endpoint = e.Endpoint
	case vpn.Gone:
		s.Released = true
	default: // Answered, Sent: its clocks
		s.Released = !ours
	}
	if s.Handshake.IsZero() {
		s.Handshake = e.At
	}
	return s, true
}

func later(a, b vpn.Timestamp) vpn.Timestamp {
	if bytes.Compare(a[:], b[:]) < 0 {
		return b
	}
	return a
}

// onForeign lets go of a device that another gateway has confirmed since.
func (n *Node) onForeign(p *parts) func(cluster.Session) {
	return func(s cluster.Session) {
		if s.Owner == n.self || s.Released {
			return
		}
		if p.peers.hasFallen(s.Owner) && !p.linked(s.Owner) {
			p.orphan(s.Owner) // its last words came by way of another: they are an inheritance
			return
		}
		p.vpn.Drop(s.Device)
	}
}

// linked says whether the mesh has a gateway at the other end of a link right
// now, which is sooner than its event comes.
func (p *parts) linked(id cluster.Node) bool {
	return slices.ContainsFunc(p.mesh.Members(), func(m mesh.Member) bool {
		return m.ID == mesh.ID(id) && m.Linked
	})
}

// onMesh follows the peers.
func (n *Node) onMesh(p *parts) func(mesh.Event) {
	return func(e mesh.Event) {
		p.peers.on(e, n.cfg.Now())
		id := cluster.Node(e.Member.ID)
		switch e.Kind {
		case mesh.Up:
			n.log.Info("gateway up", "gateway", e.Member.Name, "id", id, "addr", e.Member.Addr)
		case mesh.Down:
			n.log.Warn("gateway down", "gateway", e.Member.Name, "id", id)
			p.orphan(id)
		case mesh.Synced:
			p.orphans.back(id, func(device cluster.Key) {
				if s, ok := p.sessions.Owner(device); ok && s.Owner == id {
					p.vpn.Abandon(device)
				}
			})
			if p.peers.returned(id) {
				n.recall(p)
			}
		case mesh.Left:
			n.log.Info("gateway left", "gateway", e.Member.Name, "id", id)
			p.orphan(id)
		case mesh.Stalled:
			n.log.Warn("this process did not run; it is silent until it has heard from the others", "gap", e.Gap)
		}
	}
}

// recall calls all devices of ours. A gateway that took us for dead may have
// begun to call them: a stock client follows the initiation alone, and would
// talk to a gateway that has no keys for it until it gives up, 15 s later.
func (n *Node) recall(p *parts) {
	now := time.Now()
	for _, s := range p.sessions.OwnedBy(n.self) {
		p.vpn.Keepalive(s.Device)
		p.orphans.took(s.Device, now)
	}
}

// beat moves the fence and says how loaded this gateway is.
func (n *Node) beat(p *parts) func() []byte {
	return func() []byte {
		until, asleep := p.peers.beat(time.Now())
		p.vpn.Slept(asleep)
		p.vpn.Allow(until)
		return report{
			Sessions: p.vpn.Count(), Capacity: n.cfg.Capacity, Serving: p.ready.Load(),
			Counted: p.steering.counts(),
		}.encode()
	}
}

// counters of one session, as one gateway tells another.
type counters struct {
	Device    [32]byte       `cbor:"1,keyasint"`
	Endpoint  netip.AddrPort `cbor:"2,keyasint"`
	Handshake time.Time      `cbor:"3,keyasint"`
	Rx        uint64         `cbor:"4,keyasint"`
	Tx        uint64         `cbor:"5,keyasint"`
}

// countersPage bounds one answer to kindSessions.
const countersPage = 4096

// onSessionsCall answers with the counters of the sessions whose device keys
// are above the one given, in order, a page at a time.
func (n *Node) onSessionsCall(p *parts) mesh.Handler {
	return func(_ context.Context, _ mesh.ID, payload []byte) ([]byte, error) {
		var after [32]byte
		if copy(after[:], payload) != len(after) {
			return nil, errors.New("no key given")
		}
		return cbor.Marshal(ownCounters(p, after))
	}
}

// ownCounters returns one page of this gateway's sessions above after.
func ownCounters(p *parts, after [32]byte) []counters {
	var out []counters
	for _, s := range p.vpn.Sessions() {
		if s.Confirmed && bytes.Compare(s.Device[:], after[:]) > 0 {
			out = append(out, counters{s.Device, s.Endpoint, s.Handshake, s.RxBytes, s.TxBytes})
		}
	}
	slices.SortFunc(out, func(a, b counters) int { return bytes.Compare(a.Device[:], b.Device[:]) })
	return out[:min(len(out), countersPage)]
}
