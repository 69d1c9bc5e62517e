package vpn

import (
	"crypto/cipher"
	"reflect"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/chacha20poly1305"
)

// keypair is one session's keys, for both directions. Its plain fields are set once, before it is published.
type keypair struct {
	peer      *peer
	local     uint32        // receiver index in messages to us, a slot of the index table
	created   time.Duration // since the gateway's start; of imported ones never later than where they were made
	initiator bool
	foreign   bool                    // local was drawn by another gateway
	confirmed atomic.Bool             // the device has proven to us that it has the keys
	imported  atomic.Bool             // taken over: sending is allowed, a new address is only a candidate
	untold    atomic.Bool             // Notify has not heard yet that they are confirmed
	share     atomic.Pointer[share]   // the keys left this gateway or came to it; nil: neither
	chain     atomic.Pointer[keypair] // the next one in its slot of the index table
	sealer    sealer
	opener    opener
}

func newKeypair(p *peer, k *keys, created time.Duration, initiator bool) *keypair {
	kp := &keypair{peer: p, local: k.local, created: created, initiator: initiator}
	kp.confirmed.Store(initiator)
	kp.sealer.aead, kp.sealer.remote = newAEAD(&k.send), k.remote
	kp.sealer.limit.Store(kp.sealer.part.end())
	kp.opener.aead = newAEAD(&k.receive)
	clear(k.send[:])
	clear(k.receive[:])
	return kp
}

// expired reports whether the keys are too old for use (whitepaper §6.2).
func (kp *keypair) expired(now time.Duration) bool { return now-kp.created >= RejectAfterTime }

// usable reports whether packets may be sealed now. kp may be nil.
func (kp *keypair) usable(now time.Duration) bool {
	return kp != nil && !kp.expired(now) && kp.sealer.next.Load() < kp.sealer.limit.Load()
}

// stale reports whether a sender should ask for new keys (whitepaper §6.2). Its own part of the counters nears its end
// long before RekeyAfterMessages.
func (kp *keypair) stale(now time.Duration) bool {
	return kp.sealer.next.Load()+keyMargin > kp.sealer.limit.Load() || kp.initiator && now-kp.created > RekeyAfterTime
}

// erase overwrites both keys. Packets being sealed or opened are waited for.
func (kp *keypair) erase() {
	kp.sealer.erase()
	kp.opener.erase()
}

// sealer is the sending half of a keypair. The counter is taken where the packet is sealed, under one mutex.
type sealer struct {
	remote uint32        // receiver index in messages to the device
	next   atomic.Uint64 // counter of the next message; written under mu
	limit  atomic.Uint64 // the first counter that is another's; written under mu

	mu      sync.Mutex  // guards the fields below
	aead    cipher.AEAD // nil: erased
	nonce   [chacha20poly1305.NonceSize]byte
	part    part
	given   int  // pieces of the part that were given away
	stopped bool // nothing is sealed
}

// seal makes a transport message in place. The packet is at b[headerSize:], already padded, n bytes long; b's
// capacity has tagSize bytes more. It returns false when the keys are erased or stopped or their counters used up.
func (s *sealer) seal(b []byte, n int) ([]byte, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	counter := s.next.Load()
	if s.aead == nil || s.stopped || counter >= s.limit.Load() {
		return nil, false
	}
	s.next.Store(counter + 1)
	le.PutUint32(b, typeTransport)
	le.PutUint32(b[4:], s.remote)
	le.PutUint64(b[8:], counter)
	le.PutUint64(s.nonce[4:], counter)
	s.aead.Seal(b[headerSize:headerSize], s.nonce[:], b[headerSize:headerSize+n], nil)
	return b[:headerSize+n+tagSize], true
}

// cut gives the next piece of the counters away, for good, with the key; with stop nothing is sealed any more.
func (s *sealer) cut(stop bool) (key Key, piece part, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	raw := aeadKey(s.aead)
	if piece, ok = s.part.piece(s.given + 1); !ok || raw == nil {
		return key, part{}, false
	}
	s.given++
	s.stopped = s.stopped || stop
	return *raw, piece, true
}

// advance goes on in a part that came back, from a counter inside of it; it reports whether that part is above all
// counters used here.
func (s *sealer) advance(to part, from uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.aead == nil || to.lo < s.limit.Load() || from < to.lo {
		return false
	}
	s.part, s.given = to, 0
	s.next.Store(from)
	s.limit.Store(to.end())
	return true
}

// stop lets nothing be sealed until it is called again with false. Counters below a piece that was given away are still
// this sealer's own.
func (s *sealer) stop(stopped bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopped = stopped
}

func (s *sealer) erase() {
	s.mu.Lock()
	defer s.mu.Unlock()
	eraseAEAD(s.aead)
	s.aead = nil
}

// opener is the receiving half of a keypair.
type opener struct {
	mu     sync.Mutex  // guards the fields below
	aead   cipher.AEAD // nil: erased
	nonce  [chacha20poly1305.NonceSize]byte
	floor  uint64 // the first counter that is accepted
	top    uint64 // above all that were accepted
	filter window
}

// verdict is what became of a transport message.
type verdict int

const (
	opened verdict = iota
	erased
	forged
	replayed
)

// open authenticates a transport message in place and returns what it carries, padding included; empty is a
// keepalive. A message that is not authentic is destroyed. The replay window (RFC 6479) moves only for authentic ones.
func (o *opener) open(m []byte) ([]byte, verdict) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.aead == nil {
		return nil, erased
	}
	counter := le.Uint64(m[8:])
	le.PutUint64(o.nonce[4:], counter)
	plain, err := o.aead.Open(m[headerSize:headerSize], o.nonce[:], m[headerSize:], nil)
	if err != nil {
		return nil, forged
	}
	if counter < o.floor || !o.filter.ValidateCounter(counter, RejectAfterMessages) {
		return nil, replayed
	}
	o.top = max(o.top, counter+1)
	return plain, opened
}

// next is the first counter that another holder of the keys shall accept.
func (o *opener) next() uint64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return max(o.floor, o.top)
}

// raise refuses what is below floor from now on.
func (o *opener) raise(floor uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.floor = max(o.floor, floor)
}

// key returns the key; false: erased.
func (o *opener) key() (Key, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if raw := aeadKey(o.aead); raw != nil {
		return *raw, true
	}
	return Key{}, false
}

func (o *opener) erase() {
	o.mu.Lock()
	defer o.mu.Unlock()
	eraseAEAD(o.aead)
	o.aead = nil
}

// eraseAEAD overwrites the key inside x/crypto's cipher, which has no method for it: a struct whose first field is
// the array that holds it. Were it ever laid out otherwise, dropping the reference would have to do (a test tells).
func eraseAEAD(aead cipher.AEAD) {
	if key := aeadKey(aead); key != nil {
		clear(key[:])
	}
}

func aeadKey(aead cipher.AEAD) *[chacha20poly1305.KeySize]byte {
	v := reflect.ValueOf(aead)
	if v.Kind() != reflect.Pointer || v.Elem().Kind() != reflect.Struct || v.Elem().NumField() == 0 {
		return nil
	}
	field := v.Elem().Field(0)
	if field.Type() != reflect.TypeFor[[chacha20poly1305.KeySize]byte]() {
		return nil
	}
	return (*[chacha20poly1305.KeySize]byte)(field.Addr().UnsafePointer())
}
