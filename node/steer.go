package node

import (
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"

	"gatemesh/cluster"
)

const (
	// decisionLife is how long a decision sticks: cookies and the retries of a
	// device need the same gateway to answer again.
	decisionLife = 120 * time.Second
	// knockGap tells a device that knocks again from one datagram that came
	// twice: WireGuard retries after 5 s (REKEY_TIMEOUT).
	knockGap = time.Second
	// pendingLife is how long a device that was sent away counts as under way.
	pendingLife = 3 * time.Second
)

// decision is where a device that knocked was sent.
type decision struct {
	target cluster.Node
	at     time.Time // of the last knock
	until  time.Time
}

// verdict is the outcome of one knock.
type verdict struct {
	target cluster.Node
	sent   bool // to another gateway, target
}

// knock is one initiation that opened, and what is known about its device.
type knock struct {
	device cluster.Key
	now    time.Time
	owner  cluster.Session // who owns the device; valid if owned
	owned  bool
	alive  func(cluster.Node) bool // may a device be sent there?
}

// steering remembers decisions and devices under way, and decides. It has no
// clock and does no I/O.
type steering struct {
	self cluster.Node

	mu        sync.Mutex // guards the fields below
	decisions map[cluster.Key]decision
	pending   map[cluster.Node]map[cluster.Key]time.Time // under way, to us too, until when
	sweep     time.Time
	rnd       *rand.Rand
}

func newSteering(self cluster.Node, seed uint64) *steering {
	return &steering{
		self:      self,
		decisions: map[cluster.Key]decision{},
		pending:   map[cluster.Node]map[cluster.Key]time.Time{},
		rnd:       rand.New(rand.NewPCG(seed, 0)),
	}
}

// decide says who answers. place is asked only when nothing older decides:
//
//	our device ───────────────────────────────► here
//	sent away, knocks again, target silent ───► here
//	sent away, target alive ──────────────────► the same target
//	owner alive ──────────────────────────────► its owner
//	otherwise ────────────────────────────────► placement
func (s *steering) decide(k knock, place func(pending func(cluster.Node) int, r *rand.Rand) (cluster.Node, bool)) verdict {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forget(k.now)
	if k.owned && k.owner.Owner == s.self {
		return verdict{target: s.self}
	}
	d, decided := s.decisions[k.device]
	target := s.self
	switch {
	case decided && d.target != s.self && k.alive(d.target):
		again := k.now.Sub(d.at) >= knockGap
		confirmed := k.owned && k.owner.Owner == d.target && k.owner.Handshake.After(d.at)
		if !again || confirmed {
			target = d.target
		}
	case decided && d.target == s.self:
	case !decided && k.owned && k.alive(k.owner.Owner):
		target = k.owner.Owner
	default:
		if t, here := place(s.pendingFor, s.rnd); !here {
			target = t
		}
	}
	s.settle(k.device, target, k.now)
	return verdict{target: target, sent: target != s.self}
}

// settle writes down where a device goes. The lock is held.
func (s *steering) settle(device cluster.Key, target cluster.Node, now time.Time) {
	for _, p := range s.pending {
		delete(p, device)
	}
	s.decisions[device] = decision{target: target, at: now, until: now.Add(decisionLife)}
	if s.pending[target] == nil {
		s.pending[target] = map[cluster.Key]time.Time{}
	}
	s.pending[target][device] = now.Add(pendingLife)
}

// here notes that a device that should have been sent away could not be.
func (s *steering) here(device cluster.Key, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.settle(device, s.self, now)
}

// arrived notes that a device is confirmed at gateway id: it is counted there
// from now on. It says whether this gateway had sent it.
func (s *steering) arrived(id cluster.Node, device cluster.Key) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, mine := s.pending[id][device]
	delete(s.pending[id], device)
	return mine
}

// pendingFor counts what is under way to id. The lock is held.
func (s *steering) pendingFor(id cluster.Node) int { return len(s.pending[id]) }

// forget drops what has run out, at most once a second. The lock is held.
func (s *steering) forget(now time.Time) {
	if now.Sub(s.sweep) < time.Second {
		return
	}
	s.sweep = now
	for k, d := range s.decisions {
		if now.After(d.until) {
			delete(s.decisions, k)
		}
	}
	for _, p := range s.pending {
		for k, until := range p {
			if now.After(until) {
				delete(p, k)
			}
		}
	}
}

// passed is an initiation on its way from one gateway to another, and back if
// that one cannot answer it: it does not know the device yet, or it is full.
type passed struct {
	From       netip.AddrPort `cbor:"1,keyasint"`
	Initiation []byte         `cbor:"2,keyasint"`
	Device     [32]byte       `cbor:"3,keyasint"`
	Back       bool           `cbor:"4,keyasint,omitempty"`
}

// initiationSize is the length of a handshake initiation (WireGuard
// whitepaper, section 5.4.2).
const initiationSize = 148

// valid refuses what no gateway would pass on.
func (p *passed) valid() bool {
	return len(p.Initiation) == initiationSize && p.Initiation[0] == 1 && p.From.IsValid() && p.From.Port() != 0
}
