package node

import (
	"context"
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"time"

	"github.com/fxamacker/cbor/v2"

	"gatemesh/cluster"
	"gatemesh/mesh"
)

// kindDatagram is a transport message for the receiver's engine, from the gateway that a device sent it to.
const kindDatagram = "datagram"

const (
	strayQueue    = 256                    // datagrams that wait
	strayInterval = 5 * time.Second        // between two answers to one device
	strayPause    = 100 * time.Millisecond // in doubt, from a device's first one to the first answer
	strayDevices  = 4096                   // that are remembered for this
)

// stray is a transport message whose receiver index the engine does not know.
type stray struct {
	index   uint32
	from    netip.AddrPort
	message []byte // nil: another gateway passed it on already
}

// strays are transport messages that came to the wrong gateway.
type strays struct {
	queue chan stray
	acted map[cluster.Key]time.Time // when a device was called because of one; only guide uses it
}

func newStrays() *strays {
	return &strays{queue: make(chan stray, strayQueue), acted: map[cluster.Key]time.Time{}}
}

// put is a vpn.UnknownFunc.
func (s *strays) put(index uint32, from netip.AddrPort, message []byte) {
	select {
	case s.queue <- stray{index, from, slices.Clone(message)}:
	default:
	}
}

// may says whether a device may be called now because of a stray. In doubt a first one may have been under way while the
// device made keys with another gateway, and clients ignore initiations within 50 ms of the last: so it takes a second.
func (s *strays) may(k cluster.Key, doubt bool, now time.Time) bool {
	last, ok := s.acted[k]
	if ok && now.Sub(last) < strayInterval {
		return false
	}
	wait := doubt && (!ok || now.Sub(last) >= 2*strayInterval)
	if len(s.acted) >= strayDevices {
		for k, at := range s.acted {
			if now.Sub(at) >= strayInterval {
				delete(s.acted, k)
			}
		}
		if len(s.acted) >= strayDevices {
			return false
		}
	}
	s.acted[k] = now
	if wait {
		s.acted[k] = now.Add(strayPause - strayInterval)
	}
	return !wait
}

// datagram is the body of kindDatagram.
type datagram struct {
	From    netip.AddrPort `cbor:"1,keyasint"`
	Message []byte         `cbor:"2,keyasint"`
}

func decodeDatagram(b []byte) (d datagram, err error) {
	if err := cbor.Unmarshal(b, &d); err != nil {
		return datagram{}, err
	}
	if len(d.Message) < 32 || d.Message[0] != 4 || !d.From.IsValid() || d.From.Port() == 0 {
		return datagram{}, errors.New("not a transport message")
	}
	return d, nil
}

// guide brings strays to where they belong. Their source is never answered.
func (n *Node) guide(ctx context.Context, p *parts) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case s := <-p.strays.queue:
			n.guideOne(p, s, time.Now())
		}
	}
}

// guideOne follows a receiver index to the device's gateway:
//
//	another, alive ──────────► pass the message on
//	another, dead, keys held ► take over, open
//	none; from one of ours,
//	   in doubt or taken over ► it made its keys with a gateway that we do not hear: initiate
//	ours ────────────────────► the device made its keys with a gateway that died with them: initiate to where it is known to be
func (n *Node) guideOne(p *parts, s stray, now time.Time) {
	owner, ok := p.sessions.ByIndex(s.index)
	switch {
	case !ok && s.message != nil:
		p.recallFrom(s.from, now)
	case ok && owner.Owner == n.self:
		if s.from == owner.Endpoint && p.strays.may(owner.Device, false, now) {
			p.vpn.Initiate(owner.Device, owner.Endpoint)
		}
	case !ok || s.message == nil: // gateways that disagree do not send messages round
	case p.peers.isAlive(owner.Owner) || p.linked(owner.Owner):
		b, err := cbor.Marshal(datagram{s.from, s.message})
		if err == nil {
			_ = p.mesh.Send(mesh.ID(owner.Owner), kindDatagram, b) // as a router with full queues
		}
	case p.vpn.Holds(owner.Device) && p.strays.may(owner.Device, false, now):
		n.succeed(p, []cluster.Session{owner}, false)
		p.vpn.InjectTransport(s.message, s.from)
	}
}

// recallFrom initiates to the device of ours that is known to be at an address: what came from there is under keys that
// nobody has told us of. That can be if we took it over, or in doubt: it made them with a gateway that we do not hear,
// and what we had under way to it led it back.
func (p *parts) recallFrom(from netip.AddrPort, now time.Time) {
	p.rows.Lock()
	defer p.rows.Unlock()
	k, taken, ok := p.places.device(from)
	if !ok || !taken && !p.peers.doubt() {
		return
	}
	if own, mine := p.sessions.Own(k); mine && !own.Released && own.Endpoint == from && p.strays.may(k, !taken, now) {
		p.vpn.Initiate(k, from)
	}
}

// onDatagram opens what a device sent to another gateway.
func (n *Node) onDatagram(p *parts) mesh.Handler {
	return func(_ context.Context, _ mesh.ID, payload []byte) ([]byte, error) {
		d, err := decodeDatagram(payload)
		if err != nil {
			return nil, err
		}
		p.vpn.InjectTransport(d.Message, d.From)
		index := binary.LittleEndian.Uint32(d.Message[4:])
		if own, ok := p.sessions.ByIndex(index); ok && own.Owner == n.self && index != own.Index && index != own.Previous {
			// The sender gave way to us, but the device has made its keys with another.
			p.strays.put(index, d.From, nil)
		}
		return nil, nil
	}
}
