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
	// answerLife is how long a device that was answered but not confirmed counts
	// as a session that comes.
	answerLife = 3 * time.Second
)

// decision is where a device that knocked was sent.
type decision struct {
	target cluster.Node
	epoch  uint64    // of the device's session at that time: a greater one is an answer
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
	heir   cluster.Node            // who has it from us; zero: nobody
	alive  func(cluster.Node) bool // may a device be sent there?
	lent   bool                    // its owner is a standby gateway, and an active one has room
}

// steering remembers decisions and the devices that are being answered here,
// and decides. It has no clock and does no I/O.
type steering struct {
	self cluster.Node

	mu        sync.Mutex // guards the fields below
	decisions map[cluster.Key]decision
	answering map[cluster.Key]answer
	counted   map[cluster.Node]uint64 // devices that others sent and that were confirmed here
	sweep     time.Time
	rnd       *rand.Rand
}

// answer is a device that is not confirmed yet.
type answer struct {
	from  cluster.Node // that sent it; ourselves: it knocked here
	until time.Time
}

func newSteering(self cluster.Node, seed uint64) *steering {
	return &steering{
		self:      self,
		decisions: map[cluster.Key]decision{},
		answering: map[cluster.Key]answer{},
		counted:   map[cluster.Node]uint64{},
		rnd:       rand.New(rand.NewPCG(seed, 0)),
	}
}

// decide says who answers. place is asked only when nothing older decides:
//
//	handed over, heir alive ──────────────────► its heir
//	our device, and it is not lent ───────────► here
//	sent away, knocks again, target silent ───► here
//	sent away, target alive ──────────────────► the same target
//	decided to answer here, no owner since ───► here
//	owner alive, and it is not lent ──────────► its owner
//	otherwise ────────────────────────────────► placement
func (s *steering) decide(k knock, place func(answering int, r *rand.Rand) (cluster.Node, bool)) verdict {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forget(k.now)
	if !k.heir.IsZero() && k.alive(k.heir) {
		return verdict{target: k.heir, sent: true}
	}
	if k.owned && k.owner.Owner == s.self && !k.lent {
		return verdict{target: s.self}
	}
	d, decided := s.decisions[k.device]
	target, epoch := s.self, uint64(0)
	if k.owned {
		epoch = k.owner.Epoch
	}
	switch {
	case decided && d.target != s.self && k.alive(d.target):
		again := k.now.Sub(d.at) >= knockGap
		confirmed := k.owned && k.owner.Owner == d.target && k.owner.Epoch > d.epoch
		if !again || confirmed {
			target = d.target
		}
		if !again {
			epoch = d.epoch
		}
	case decided && d.target == s.self && !(k.foreign(s.self) && k.owner.Epoch > d.epoch):
		epoch = d.epoch
	case k.foreign(s.self) && !k.lent:
		target = k.owner.Owner
	default:
		if t, here := place(len(s.answering), s.rnd); !here {
			target = t
		}
	}
	s.settle(k.device, target, epoch, k.now)
	return verdict{target: target, sent: target != s.self}
}

// settle writes down where a device goes. The lock is held.
func (s *steering) settle(device cluster.Key, target cluster.Node, epoch uint64, now time.Time) {
	s.decisions[device] = decision{target: target, epoch: epoch, at: now, until: now.Add(decisionLife)}
	if target == s.self {
		s.answering[device] = answer{s.self, now.Add(answerLife)}
	}
}

// foreign says whether a device is owned by another gateway, to which it may be sent.
func (k *knock) foreign(self cluster.Node) bool {
	return k.owned && k.owner.Owner != self && k.alive(k.owner.Owner)
}

// here notes that a device that should have been sent away could not be. epoch is that of its session.
func (s *steering) here(device cluster.Key, epoch uint64, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.settle(device, s.self, epoch, now)
}

// lose forgets where a device was to go, which is another's business from now on.
func (s *steering) lose(device cluster.Key) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.decisions, device)
}

// guest notes that a device is answered here because another gateway sent it.
func (s *steering) guest(device cluster.Key, from cluster.Node, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forget(now)
	s.answering[device] = answer{from, now.Add(answerLife)}
}

// confirmed notes that a device is confirmed here.
func (s *steering) confirmed(device cluster.Key) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a, ok := s.answering[device]; ok && a.from != s.self && (s.counted[a.from] > 0 || len(s.counted) < maxCounted) {
		s.counted[a.from]++
	}
	delete(s.answering, device)
}

// counts returns how many devices of each other gateway were confirmed here.
func (s *steering) counts() []count {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]count, 0, len(s.counted))
	for from, n := range s.counted {
		out = append(out, count{from, n})
	}
	return out
}

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
	for k, a := range s.answering {
		if now.After(a.until) {
			delete(s.answering, k)
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
