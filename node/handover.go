package node

import (
	"bytes"
	"context"
	"errors"
	"math"
	"slices"
	"time"

	"github.com/fxamacker/cbor/v2"
	"golang.org/x/sync/errgroup"

	"gatemesh/cluster"
	"gatemesh/mesh"
)

// Kinds of messages of the hand-over.
const (
	kindHandover = "handover" // a call: sessions for the receiver to keep, or to go on with
	kindFloors   = "floors"   // a chunk of vpn.Floors
)

const (
	handoverTimeout = time.Second         // of one call
	handoverSize    = mesh.MaxMessage / 2 // after which no export is added to a call
	handoverCount   = 512                 // exports in one call
	floorInterval   = time.Second         // between two rounds of floors
	floorSize       = mesh.MaxMessage - 1<<10
	exportTries     = 4 // for one heir and one set of keys; 1, 2 and 4 s apart
)

// bequest is the body of kindHandover. Its answer is a list of bool: which exports were taken.
type bequest struct {
	Final   bool     `cbor:"1,keyasint,omitempty"` // the sender has stopped: take over now
	Exports [][]byte `cbor:"2,keyasint"`
	Epochs  []uint64 `cbor:"3,keyasint,omitempty"` // of the sender's sessions, which may come later; Final only, one for each export
}

var errHandover = errors.New("hand-over is out of bounds")

func decodeBequest(b []byte) (h bequest, err error) {
	if err := cbor.Unmarshal(b, &h); err != nil {
		return bequest{}, err
	}
	if len(h.Exports) == 0 || len(h.Exports) > handoverCount {
		return bequest{}, errHandover
	}
	if h.Final && len(h.Epochs) != len(h.Exports) || slices.Contains(h.Epochs, math.MaxUint64) {
		return bequest{}, errHandover
	}
	return h, nil
}

// heir is a gateway that inherits devices, in one run of its engine.
type heir struct {
	cluster.Weighted
	incarnation uint64
}

// handOver keeps the sessions of this gateway with their heirs: each new set of keys, and all that have another heir
// when a gateway comes, goes, fills or drains. Nothing is sent while there is no heir, or nothing has changed.
func (n *Node) handOver(ctx context.Context, p *parts) error {
	tick := time.NewTicker(floorInterval)
	defer tick.Stop()
	var calls errgroup.Group // no error is returned
	defer func() { _ = calls.Wait() }()
	var known []heir
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-p.exports.wake:
		case <-tick.C:
			n.sendFloors(p)
		}
		alive := p.peers.inheritors()
		if !slices.Equal(alive, known) {
			known = alive
			for _, s := range p.sessions.OwnedBy(n.self) {
				p.exports.regard(s.Device, heirOf(s.Device, n.self, alive))
			}
		}
		n.export(ctx, p, alive, &calls)
	}
}

// heirOf returns who inherits a device of owner; the zero heir: nobody.
func heirOf(device cluster.Key, owner cluster.Node, alive []heir) heir {
	weighted := make([]cluster.Weighted, len(alive))
	for i, h := range alive {
		weighted[i] = h.Weighted
	}
	for _, first := range cluster.Heirs(device, owner, weighted) {
		for _, h := range alive {
			if h.Node == first {
				return h
			}
		}
	}
	return heir{}
}

// export begins to send what is due to the heirs, to all at once. What is due to one that has not answered yet waits
// for that: a gateway that is stuck holds up nobody else's.
func (n *Node) export(ctx context.Context, p *parts, alive []heir, calls *errgroup.Group) {
	due := map[heir][]cluster.Key{}
	idle := func(k cluster.Key) bool { return !p.exports.busy(heirOf(k, n.self, alive).Node) }
	for _, k := range p.exports.take(time.Now(), idle) {
		if h := heirOf(k, n.self, alive); !h.Node.IsZero() && p.serves(k) {
			due[h] = append(due[h], k)
		}
	}
	for h, keys := range due {
		p.exports.begin(h.Node)
		calls.Go(func() error {
			defer p.exports.end(h.Node)
			n.exportTo(ctx, p, h, keys)
			return nil
		})
	}
}

// exportTo sends sessions to their heir, call by call, until one fails. What is left is tried again when its time
// comes.
func (n *Node) exportTo(ctx context.Context, p *parts, h heir, keys []cluster.Key) {
	for len(keys) > 0 && ctx.Err() == nil {
		var batch []cluster.Key
		var exports [][]byte
		size := 0
		for len(keys) > 0 && size < handoverSize && len(batch) < handoverCount {
			if b, err := p.vpn.Export(keys[0], h.incarnation, false); err == nil {
				batch, exports = append(batch, keys[0]), append(exports, b)
				size += len(b)
			}
			keys = keys[1:]
		}
		if len(batch) == 0 {
			continue
		}
		taken, err := n.give(ctx, p, h.Node, bequest{Exports: exports})
		if err != nil {
			n.log.Debug("sessions were not handed to their heir", "heir", h.Node, "devices", len(batch), "err", err)
			return
		}
		for i, k := range batch {
			p.exports.answered(k, h, taken[i])
		}
	}
}

// give calls a gateway with exports and returns which of them it took.
func (n *Node) give(ctx context.Context, p *parts, to cluster.Node, h bequest) ([]bool, error) {
	ctx, cancel := context.WithTimeout(ctx, handoverTimeout)
	defer cancel()
	b, err := cbor.Marshal(h)
	if err != nil {
		return nil, err
	}
	defer clear(b)
	answer, err := p.mesh.Call(ctx, mesh.ID(to), kindHandover, b)
	if err != nil {
		return nil, err
	}
	var taken []bool
	if err := cbor.Unmarshal(answer, &taken); err != nil {
		return nil, err
	}
	if len(taken) != len(h.Exports) {
		return nil, errHandover
	}
	return taken, nil
}

// sendFloors tells each heir what it shall not accept any more.
func (n *Node) sendFloors(p *parts) {
	for _, h := range p.peers.inheritors() {
		p.vpn.Floors(h.incarnation, floorSize, func(chunk []byte) {
			if err := p.mesh.Send(mesh.ID(h.Node), kindFloors, chunk); err != nil {
				n.log.Debug("floors were not sent", "heir", h.Node, "err", err) // the next export carries them
			}
		})
	}
}

// onFloors takes in a chunk of floors.
func (n *Node) onFloors(p *parts) mesh.Handler {
	return func(_ context.Context, _ mesh.ID, payload []byte) ([]byte, error) {
		return nil, p.vpn.RaiseFloors(payload)
	}
}

// onHandover keeps what another gateway exports, and takes over at once what it has stopped.
func (n *Node) onHandover(p *parts) mesh.Handler {
	return func(_ context.Context, from mesh.ID, payload []byte) ([]byte, error) {
		defer clear(payload)
		h, err := decodeBequest(payload)
		if err != nil {
			return nil, err
		}
		if !p.ready.Load() || p.draining.Load() {
			return nil, errors.New("takes no devices now")
		}
		taken := make([]bool, len(h.Exports))
		var devices []cluster.Key
		var epochs []uint64
		for i, e := range h.Exports {
			k, err := p.vpn.Import(e)
			clear(e)
			if err != nil {
				n.log.Debug("export refused", "err", err)
				continue
			}
			if h.Final && !p.mayGive(cluster.Node(from), k) {
				n.log.Debug("device is another gateway's", "device", k, "from", cluster.Node(from))
				continue
			}
			taken[i] = true
			devices = append(devices, k)
			if h.Final {
				epochs = append(epochs, h.Epochs[i])
			}
		}
		if h.Final {
			n.receive(p, devices, epochs)
		}
		return cbor.Marshal(taken)
	}
}

// mayGive says whether a gateway may hand a device over for good: nobody else that lives owns it.
func (p *parts) mayGive(from cluster.Node, k cluster.Key) bool {
	s, owned := p.sessions.Owner(k)
	return !owned || s.Owner == from || s.Owner != p.peers.self && !p.peers.isAlive(s.Owner)
}

// receive takes over devices whose gateway has stopped sending to them. epochs are those of its sessions.
func (n *Node) receive(p *parts, devices []cluster.Key, epochs []uint64) {
	now := n.store.Now()
	sessions := make([]cluster.Session, 0, len(devices))
	for i, k := range devices {
		s, ok := p.sessions.Owner(k)
		if !ok { // confirmed so recently that we have not heard of it
			s = cluster.Session{Device: k, Since: now, Handshake: now}
		}
		s.Epoch = max(s.Epoch, epochs[i])
		sessions = append(sessions, s)
	}
	n.succeed(p, sessions, true)
}

// inheritors lists the other gateways that may take over devices, in order.
func (p *peers) inheritors() []heir {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]heir, 0, len(p.loads))
	for id, l := range p.loads {
		if p.alive[id] && l.Serving && !l.Draining && l.Incarnation != 0 {
			out = append(out, heir{l.weighted(id), l.Incarnation})
		}
	}
	slices.SortFunc(out, func(a, b heir) int { return bytes.Compare(a.Node[:], b.Node[:]) })
	return out
}
