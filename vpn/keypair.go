package vpn

import (
	"crypto/cipher"
	"reflect"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/chacha20poly1305"
)

// keypair is one session's keys, for both directions. Its fields but confirmed are set once, before it is published.
type keypair struct {
	peer      *peer
	local     uint32        // receiver index in messages to us, a slot of the index table
	created   time.Duration // since the gateway's start
	initiator bool
	confirmed atomic.Bool // the device has proven that it has the keys: sending is allowed
	sealer    sealer
	opener    opener
}

func newKeypair(p *peer, k *keys, created time.Duration, initiator bool) *keypair {
	kp := &keypair{peer: p, local: k.local, created: created, initiator: initiator}
	kp.confirmed.Store(initiator)
	kp.sealer.aead, kp.sealer.remote = newAEAD(&k.send), k.remote
	kp.opener.aead = newAEAD(&k.receive)
	clear(k.send[:])
	clear(k.receive[:])
	return kp
}

// expired reports whether the keys are too old for use (whitepaper §6.2).
func (kp *keypair) expired(now time.Duration) bool { return now-kp.created >= RejectAfterTime }

// usable reports whether packets may be sealed now. kp may be nil.
func (kp *keypair) usable(now time.Duration) bool {
	return kp != nil && !kp.expired(now) && kp.sealer.next.Load() < RejectAfterMessages
}

// stale reports whether a sender should ask for new keys (whitepaper §6.2).
func (kp *keypair) stale(now time.Duration) bool {
	return kp.sealer.next.Load() > RekeyAfterMessages || kp.initiator && now-kp.created > RekeyAfterTime
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

	mu    sync.Mutex  // guards the fields below
	aead  cipher.AEAD // nil: erased
	nonce [chacha20poly1305.NonceSize]byte
}

// seal makes a transport message in place. The packet is at b[headerSize:], already padded, n bytes long; b's
// capacity has tagSize bytes more. It returns false when the keys are erased or their counters used up.
func (s *sealer) seal(b []byte, n int) ([]byte, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	counter := s.next.Load()
	if s.aead == nil || counter >= RejectAfterMessages {
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
	if !o.filter.ValidateCounter(counter, RejectAfterMessages) {
		return nil, replayed
	}
	return plain, opened
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
