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
	"gatemesh/node/api"
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
		kept, err := n.store.Clock(k) // of earlier runs, of this gateway and of all
		if err != nil {
			n.log.Error("read clock of device", "err", err)
			return vpn.Device{}, false
		}
		out.Received = later(out.Received, kept)
		return out, true
	}
}

// steer decides who answers an initiation, and passes it on.
func (n *Node) steer(p *parts) vpn.SteerFunc {
	return func(device vpn.Key, from netip.AddrPort, initiation []byte) bool {
		now := n.cfg.Now()
		owner, owned := p.sessions.Owner(device)
		heir, _ := p.forwards.heir(device)
		k := knock{
			device: device, now: now, owner: owner, owned: owned, heir: heir, alive: p.peers.serves,
			lent: owned && n.isLent(p, owner.Owner, now),
		}
		v := p.steering.decide(k,
			func(answering int, r *rand.Rand) (cluster.Node, bool) {
				own := n.load(p)
				own.Sessions += answering
				return cluster.Place(own, p.peers.weigh(now), r)
			})
		if !v.sent {
			return true
		}
		if err := p.pass(mesh.ID(v.target), passed{From: from, Initiation: initiation, Device: device}); err != nil {
			n.log.Debug("initiation not passed on, answered here", "to", v.target, "err", err)
			p.steering.here(device, owner.Epoch, now)
			return true
		}
		p.peers.sent(v.target, now)
		if n.listened() {
			n.tell(api.Event{Kind: api.EventSteered, GatewayID: v.target.String(), DeviceID: cluster.KeyString(device)})
		}
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
			owner, _ := p.sessions.Owner(in.Device)
			p.steering.here(in.Device, owner.Epoch, n.cfg.Now())
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
	if heir, _ := p.forwards.heir(device); !heir.IsZero() {
		return false
	}
	return owned && owner.Owner == n.self || p.vpn.Count() < n.offers().Capacity && !p.draining.Load()
}

// onSession writes down what the engine says of its sessions.
func (n *Node) onSession(p *parts) func(vpn.Event) {
	return func(e vpn.Event) {
		p.rows.Lock()
		defer p.rows.Unlock()
		owner, owned := p.sessions.Owner(e.Device)
		mine, _ := p.sessions.Own(e.Device)
		s, worth := record(n.self, mine, owner, owned, e)
		p.places.follow(e)
		switch {
		case e.Kind == vpn.Heard:
			n.onHeard(p, e.Device)
		case !worth || e.Kind == vpn.Confirmed && !p.stance(e.Device).confirmed(e.Imported):
		case e.Kind == vpn.Confirmed:
			n.onConfirmed(p, s, e, owned && owner.Owner != n.self)
		default:
			p.sessions.Put(s)
		}
		if e.Kind == vpn.Gone {
			n.onGone(p, e, owned && owner.Owner == n.self)
		}
	}
}

// onConfirmed writes a confirmation. took says that the device was another
// gateway's. p.rows is held.
func (n *Node) onConfirmed(p *parts, s cluster.Session, e vpn.Event, took bool) {
	p.steering.confirmed(e.Device)
	if took {
		p.orphans.took(time.Now(), e.Device)
	}
	p.sessions.Confirm(s, n.store.Stamp())
	if n.listened() {
		n.tell(api.Event{Kind: api.EventConnected, GatewayID: n.self.String(), DeviceID: cluster.KeyString(e.Device)})
	}
	delete(p.stances, e.Device) // its row says that it is served
	p.forwards.end(e.Device)
	if p.leaving() {
		p.rouseLeaving()
	}
	p.exports.want(e.Device)
}

// onGone ends what is known of a session beside its row. mine says that the
// row was the greatest: if the session was dropped all the same, another
// gateway confirmed the device just before we did. It has dropped it too by
// now, so somebody must call. p.rows is held.
func (n *Node) onGone(p *parts, e vpn.Event, mine bool) {
	delete(p.stances, e.Device)
	delete(p.kept, e.Device)
	p.forwards.end(e.Device)
	p.exports.forget(e.Device)
	if !mine || !e.Dropped || !e.Endpoint.IsValid() {
		return
	}
	if d, err := n.store.Device(e.Device); err == nil && d.Enabled {
		n.turn(p, e.Device, serving, recall)
	}
}

// record returns what is to be written of a device after event e: mine is what
// this gateway wrote last, owner who has the device now if owned. A row that
// makes no claim is written as released: it keeps the clocks of the device, by
// which replays are told.
func record(self cluster.Node, mine, owner cluster.Session, owned bool, e vpn.Event) (s cluster.Session, worth bool) {
	ours := owned && owner.Owner == self
	live := mine.Device == e.Device && !mine.Released // there are keys here, whoever has claimed the device
	s = mine
	s.Device = e.Device
	s.Received, s.Sent = later(s.Received, e.Received), later(s.Sent, e.Sent)
	switch e.Kind {
	case vpn.Confirmed:
		s.Released, s.Endpoint, s.Handshake = false, e.Endpoint, e.At
		if e.Index != s.Index {
			s.Index, s.Previous = e.Index, s.Index
		}
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
	case vpn.Heard:
		return s, false
	default: // Answered, Sent: its clocks
		s.Released = !ours && !live
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

// onForeign follows what another gateway wrote of a device.
func (n *Node) onForeign(p *parts) func(cluster.Session) {
	return func(s cluster.Session) {
		p.rows.Lock()
		n.settle(p, s.Device)
		p.rows.Unlock()
		if s.Owner != n.self && !s.Released && p.peers.hasFallen(s.Owner) && !p.linked(s.Owner) {
			p.orphans.hearsay(s.Owner, time.Now())
		}
	}
}

// settle does what the greatest row of a device asks for. p.rows is held.
func (n *Node) settle(p *parts, device cluster.Key) {
	g, known := p.sessions.Greatest(device)
	next, m := p.stance(device).after(n.self, g, known)
	n.turn(p, device, next, m)
}

// stance returns how this gateway stands to a device. p.rows is held.
func (p *parts) stance(device cluster.Key) stance {
	if s, ok := p.stances[device]; ok {
		return s
	}
	if own, ok := p.sessions.Own(device); ok && !own.Released {
		return serving
	}
	return away
}

// serves says whether this gateway sends to a device.
func (p *parts) serves(device cluster.Key) bool {
	p.rows.Lock()
	defer p.rows.Unlock()
	return p.stance(device) == serving
}

// turn takes a stance to a device and makes the move that goes with it. p.rows
// is held.
func (n *Node) turn(p *parts, device cluster.Key, s stance, m move) {
	switch s {
	case away, serving: // its row says which
		delete(p.stances, device)
	case calling, muted, handed:
		p.stances[device] = s
	}
	switch m {
	case stay, callAgain: // the latter is its caller's
	case mute:
		p.vpn.Mute(device)
	case drop:
		p.forwards.end(device)
		p.vpn.Drop(device)
	case recall, resume:
		own, ok := p.sessions.Own(device)
		if !ok {
			return
		}
		p.forwards.end(device)
		p.sessions.Claim([]cluster.Session{own}, n.store.Stamp())
		if m == resume || p.departing.Load() {
			p.vpn.Unmute(device)
			p.rouseLeaving()
			return
		}
		p.vpn.Initiate(device, own.Endpoint)
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
		p.vpn.Alone(p.peers.doubt())
		id := cluster.Node(e.Member.ID)
		n.tellMesh(e)
		switch e.Kind {
		case mesh.Up:
			n.log.Info("gateway up", "gateway", e.Member.Name, "id", id, "addr", e.Member.Addr)
		case mesh.Down:
			n.log.Warn("gateway down", "gateway", e.Member.Name, "id", id)
			n.fallen(p, id)
		case mesh.Synced:
			n.store.ConfirmTokens()
			n.abandon(p, id)
			if p.peers.returned(id) {
				n.recall(p)
			}
		case mesh.Left:
			n.log.Info("gateway left", "gateway", e.Member.Name, "id", id)
			n.fallen(p, id)
		case mesh.Stalled:
			n.log.Warn("this process did not run; it is silent until it has heard from the others", "gap", e.Gap)
		case mesh.Shunned:
		}
		p.exports.rouse() // there may be other heirs
		if e.Kind != mesh.Beat {
			n.onExile(p, e)
			poke(p.keys)
		}
	}
}

// fallen is for a gateway that is gone, as it seems.
func (n *Node) fallen(p *parts, id cluster.Node) {
	p.orphan(id)
	p.rows.Lock()
	defer p.rows.Unlock()
	back := recall
	if p.leaving() && len(p.linkedHeirs()) > 0 { // it goes to the next one
		back = resume
	}
	for _, k := range p.forwards.sentTo(id) {
		if p.stance(k) == handed {
			n.turn(p, k, serving, back)
		}
	}
}

// abandon gives up calling the devices of a gateway that is here again.
func (n *Node) abandon(p *parts, id cluster.Node) {
	p.rows.Lock()
	defer p.rows.Unlock()
	for device, s := range p.stances {
		if owner, ok := p.sessions.Owner(device); s == calling && ok && owner.Owner == id {
			delete(p.stances, device)
			p.vpn.Abandon(device)
			n.settle(p, device) // it may have been muted before
		}
	}
}

// recall calls all devices of ours. A gateway that took us for dead may have
// begun to call them: a stock client follows the initiation alone, and would
// talk to a gateway that has no keys for it until it gives up, 15 s later.
func (n *Node) recall(p *parts) {
	sessions := p.sessions.OwnedBy(n.self)
	devices := make([]cluster.Key, 0, len(sessions))
	for _, s := range sessions {
		p.vpn.Keepalive(s.Device)
		devices = append(devices, s.Device)
	}
	p.orphans.took(time.Now(), devices...)
}

// beat moves the fence and says how loaded this gateway is.
func (n *Node) beat(p *parts) func() []byte {
	return func() []byte {
		until, asleep := p.peers.beat(time.Now())
		p.vpn.Slept(asleep)
		if p.exile.silent.Load() {
			until = time.Time{}
		}
		p.vpn.Allow(until)
		o, sessions := n.offers(), p.vpn.Count()
		p.full.Store(fullness(p.full.Load(), sessions, o.Capacity))
		return report{
			Sessions: sessions, Capacity: o.Capacity, Serving: p.ready.Load(), Draining: p.draining.Load(),
			Counted: p.steering.counts(), Incarnation: p.vpn.Incarnation(), ReadOnly: n.store.Room().ReadOnly,
			Standby: o.Standby, Full: p.full.Load(), Clock: n.cfg.Now().UnixMicro(),
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
