package vpn

import (
	"crypto/ecdh"
	"errors"
	"fmt"
	"time"
)

// Why a handshake message is refused. All are counted, none is answered.
var (
	errHandshake = errors.New("handshake message does not authenticate")
	errLowOrder  = errors.New("public key of low order")
)

// identity is the cluster's static key with what is derived from it once.
type identity struct {
	private *ecdh.PrivateKey
	public  Key
	mac1Key [32]byte // of mac1 in messages to us
}

func newIdentity(private Key) (*identity, error) {
	if private == (Key{}) {
		return nil, errors.New("private key is zero")
	}
	k, err := ecdh.X25519().NewPrivateKey(private[:])
	if err != nil {
		return nil, fmt.Errorf("parse private key: %w", err)
	}
	id := &identity{private: k, public: Key(k.PublicKey().Bytes())}
	id.mac1Key = mac1Key(id.public)
	return id, nil
}

// remote is a device's static key with what is derived from it once.
type remote struct {
	key       Key
	public    *ecdh.PublicKey
	mac1Key   [32]byte // of mac1 in messages to it
	cookieKey [32]byte // of cookie replies from it
}

func remoteOf(key Key) *remote {
	return &remote{key: key, public: parsePublic(key[:]), mac1Key: mac1Key(key), cookieKey: hash([]byte(labelCookie), key[:])}
}

// shared is the secret that both static keys share. It costs one X25519.
func (id *identity) shared(r *remote) (secret [32]byte, err error) {
	shared, err := id.private.ECDH(r.public)
	if err != nil {
		return secret, errLowOrder
	}
	secret = [32]byte(shared)
	clear(shared)
	return secret, nil
}

// keys is what a finished handshake leaves to both sides.
type keys struct {
	send, receive [32]byte
	local, remote uint32 // receiver indices: ours and the device's
}

// incoming is an initiation that opened with our key. It names a device, but only the timestamp proves it.
type incoming struct {
	symmetric
	device    Key
	ephemeral *ecdh.PublicKey
	sender    uint32
	timestamp [28]byte  // sealed
	proven    Timestamp // the same, opened; zero: not yet
}

// openInitiation opens the device's key of an initiation whose length, type and mac1 are right. It costs one X25519.
func (id *identity) openInitiation(m []byte) (*incoming, error) {
	in := &incoming{symmetric: begin(id.public), ephemeral: parsePublic(m[8:40]), sender: le.Uint32(m[4:]), timestamp: [28]byte(m[88:116])}
	in.mixHash(m[8:40])
	in.mixKey(m[8:40])
	secret, err := id.private.ECDH(in.ephemeral)
	if err != nil {
		return nil, errLowOrder
	}
	key := in.mixDH(secret)
	clear(secret)
	if !in.open(&key, in.device[:], m[40:88]) {
		return nil, errHandshake
	}
	return in, nil
}

// openTimestamp authenticates the device with the static secret shared with it. It may be called once.
func (in *incoming) openTimestamp(static *[32]byte) (ts Timestamp, err error) {
	key := in.mixDH(static[:])
	if !in.open(&key, ts[:], in.timestamp[:]) {
		return Timestamp{}, errHandshake
	}
	return ts, nil
}

// respond makes the response, without macs, and the keys. The state of in is used up. It costs three X25519.
func (in *incoming) respond(device *ecdh.PublicKey, psk *Key, local uint32) (m [responseSize]byte, k keys, err error) {
	ephemeral := newEphemeral()
	le.PutUint32(m[:], typeResponse)
	le.PutUint32(m[4:], local)
	le.PutUint32(m[8:], in.sender)
	copy(m[12:44], ephemeral.PublicKey().Bytes())
	in.mixHash(m[12:44])
	in.mixKey(m[12:44])
	for _, public := range []*ecdh.PublicKey{in.ephemeral, device} {
		secret, err := ephemeral.ECDH(public)
		if err != nil {
			return m, k, errLowOrder
		}
		in.mixKey(secret)
		clear(secret)
	}
	key := in.mixPSK(psk)
	in.seal(&key, m[44:44], nil)
	k = keys{local: local, remote: in.sender}
	k.receive, k.send = in.split()
	return m, k, nil
}

// outgoing is our initiation whose response is awaited.
type outgoing struct {
	symmetric
	ephemeral *ecdh.PrivateKey
	local     uint32
	made      time.Duration // since start
}

// late reports whether a response is not accepted any more. Where none came, the next initiation has taken this one's
// place by then. But where the device's own handshake was confirmed meanwhile there is no next one, and whoever holds
// the response back on its way could complete it whenever he likes. Until then it is accepted, because the device that
// made it counts on it.
func (out *outgoing) late(now time.Duration) bool {
	return now-out.made > RekeyTimeout+rekeyTimeoutJitter
}

// initiate makes an initiation, without macs. It costs two X25519.
func (id *identity) initiate(r *remote, secret *[32]byte, local uint32, ts Timestamp) (m [initiationSize]byte, out *outgoing, err error) {
	out = &outgoing{symmetric: begin(r.key), ephemeral: newEphemeral(), local: local}
	le.PutUint32(m[:], typeInitiation)
	le.PutUint32(m[4:], local)
	copy(m[8:40], out.ephemeral.PublicKey().Bytes())
	out.mixHash(m[8:40])
	out.mixKey(m[8:40])
	es, err := out.ephemeral.ECDH(r.public)
	if err != nil {
		return m, nil, errLowOrder
	}
	key := out.mixDH(es)
	clear(es)
	out.seal(&key, m[40:40], id.public[:])
	key = out.mixDH(secret[:])
	out.seal(&key, m[88:88], ts[:])
	return m, out, nil
}

// finish authenticates a response, whose length, type and mac1 are right, and makes the keys. out is a copy of the
// state: a response that does not authenticate must not use it up. It costs two X25519.
func (id *identity) finish(out outgoing, psk *Key, m []byte) (k keys, err error) {
	public := parsePublic(m[12:44])
	out.mixHash(m[12:44])
	out.mixKey(m[12:44])
	for _, private := range []*ecdh.PrivateKey{out.ephemeral, id.private} {
		secret, err := private.ECDH(public)
		if err != nil {
			return k, errLowOrder
		}
		out.mixKey(secret)
		clear(secret)
	}
	key := out.mixPSK(psk)
	if !out.open(&key, nil, m[44:60]) {
		return k, errHandshake
	}
	k = keys{local: out.local, remote: le.Uint32(m[4:])}
	k.send, k.receive = out.split()
	return k, nil
}
