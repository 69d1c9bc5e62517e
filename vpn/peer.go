package vpn

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// peer is the state of one device that has a session here or is getting one.
type peer struct {
	*remote
	secret [32]byte // X25519 of both static keys; guarded by mu, zero when dead or not needed yet

	// Read by the packet path without a lock; written under mu.
	endpoint atomic.Pointer[endpoint] // confirmed address; nil: none yet
	current  atomic.Pointer[keypair]  // nil: none, packets are staged
	dead     atomic.Bool              // forgotten: nothing may be sent or accepted any more

	quiet  atomic.Bool  // nothing is sealed
	handed atomic.Bool  // quiet because it was exported for good
	listen atomic.Int64 // being muted, Heard is told for what comes in from then on, since start; 0: not muted; written under mu
	heard  atomic.Int64 // when an authenticated message came in last, since start; 0: never

	timers  timers
	rxBytes atomic.Uint64
	txBytes atomic.Uint64

	sentHandshake atomic.Int64 // when an initiation or response was sent last, since start; 0: never
	lastMinute    atomic.Bool  // the last-minute handshake of the current keypair was asked for
	queued        atomic.Bool  // an initiation waits for a worker

	mu             sync.Mutex // guards the fields below
	previous, next *keypair
	pending        *outgoing // our initiation without a response
	target         *endpoint // where the pending handshake goes; nil: the confirmed address
	candidate      *endpoint // where messages under imported keys came from last, if that is not the confirmed address
	psk            Key
	addresses      []netip.Prefix
	routed         bool      // addresses are in allowedIPs
	received, sent Timestamp // greatest known, local or not
	lastInitiation time.Duration
	attempts       int
	roamed         *notice // tells the confirmed address when it is told; nil: none waits
	established    bool    // was confirmed, or made by Initiate: the cluster knows of it
	handshake      time.Time
	since          time.Time
	staged         [][]byte // packets waiting for keys, oldest first, each with room for header, padding and tag
	cookie         [macSize]byte
	cookieAt       time.Duration // 0: no cookie
	lastMAC1       [macSize]byte
	hasLastMAC1    bool
	schedulePosition
}

// install makes a new keypair known to its peer (whitepaper §6.3) and returns those that nobody needs any more.
// As initiator it is used at once; as responder it waits as next for the device's first packet. Under mu.
//
//	initiator  next ─► previous (or current ─► previous), new ─► current
//	responder  new ─► next; on its first packet current ─► previous, next ─► current
func (p *peer) install(kp *keypair) (retired [3]*keypair) {
	if kp.initiator {
		retired[0] = p.previous
		if p.next != nil {
			retired[1] = p.current.Load()
			p.previous, p.next = p.next, nil
		} else {
			p.previous = p.current.Load()
		}
		p.current.Store(kp)
		p.lastMinute.Store(false)
		return retired
	}
	retired[0], retired[1] = p.next, p.previous
	p.next, p.previous = kp, nil
	return retired
}

// promote makes next current; kp must be next. It returns the keypair that nobody needs any more. The previous one is
// the younger of the two if it was taken over after next was made. Under mu.
func (p *peer) promote(kp *keypair) (retired *keypair) {
	retired = p.previous
	p.previous, p.next = p.current.Load(), nil
	p.current.Store(kp)
	kp.confirmed.Store(true)
	p.lastMinute.Store(false)
	return retired
}

// expire takes out the keypairs that are too old for any use. A previous one that is not becomes the current one, so
// there is none without the other. Under mu.
func (p *peer) expire(now time.Duration) (retired [3]*keypair) {
	if kp := p.previous; kp != nil && kp.expired(now) {
		retired[1], p.previous = kp, nil
	}
	if kp := p.current.Load(); kp != nil && kp.expired(now) {
		retired[0] = kp
		p.current.Store(p.previous)
		p.previous = nil
		p.lastMinute.Store(false)
	}
	if kp := p.next; kp != nil && kp.expired(now) {
		retired[2], p.next = kp, nil
	}
	return retired
}

// keyless reports whether there is no keypair left. Under mu.
func (p *peer) keyless() bool {
	return p.current.Load() == nil && p.previous == nil && p.next == nil
}

// nextExpiry is when the oldest keypair becomes useless; 0: there is none. Under mu.
func (p *peer) nextExpiry() (at time.Duration) {
	for _, kp := range [3]*keypair{p.current.Load(), p.previous, p.next} {
		if kp != nil && (at == 0 || kp.created+RejectAfterTime < at) {
			at = kp.created + RejectAfterTime
		}
	}
	return at
}
