package vpntest

import (
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/hmac"
	"crypto/rand"
	"encoding/binary"
	"hash"
	"time"

	"golang.org/x/crypto/blake2s"
	"golang.org/x/crypto/chacha20poly1305"
)

// Sizes of messages (whitepaper §5.4).
const (
	InitiationSize = 148
	ResponseSize   = 92
	transportSize  = 32 // with nothing inside
)

// Initiator is a device's side of handshakes without a device: it makes initiations beforehand, as many as a load
// needs. It shares no code with package vpn. It has no timers, no cookies and no preshared key.
type Initiator struct {
	private *ecdh.PrivateKey
	public  [32]byte
	server  *ecdh.PublicKey
	secret  []byte // of both static keys
	mac1    [32]byte
}

// Handshake is an initiation that waits for its response.
type Handshake struct {
	noise
	from      *Initiator
	ephemeral *ecdh.PrivateKey
	index     uint32
}

// Session seals as the device that made a handshake. One goroutine at a time may use it.
type Session struct {
	send    cipher.AEAD
	remote  uint32
	counter uint64
}

// NewInitiator returns the initiator of a device whose gateways have that public key.
func NewInitiator(private, server [32]byte) (*Initiator, error) {
	i := new(Initiator)
	var err error
	if i.private, err = ecdh.X25519().NewPrivateKey(private[:]); err != nil {
		return nil, err
	}
	if i.server, err = ecdh.X25519().NewPublicKey(server[:]); err != nil {
		return nil, err
	}
	if i.secret, err = i.private.ECDH(i.server); err != nil {
		return nil, err
	}
	i.public = [32]byte(i.private.PublicKey().Bytes())
	i.mac1 = blake2s.Sum256(append([]byte("mac1----"), server[:]...))
	return i, nil
}

// Initiate makes an initiation with that sender index and TAI64N of that time. It costs two X25519.
func (i *Initiator) Initiate(index uint32, at time.Time) ([]byte, *Handshake, error) {
	ephemeral, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	shared, err := ephemeral.ECDH(i.server)
	if err != nil {
		return nil, nil, err
	}
	h := &Handshake{noise: beginNoise(i.server.Bytes()), from: i, ephemeral: ephemeral, index: index}
	m := make([]byte, 8, InitiationSize)
	m[0] = 1
	binary.LittleEndian.PutUint32(m[4:], index)
	e := ephemeral.PublicKey().Bytes()
	h.mixHash(e)
	h.mixKey(e)
	m = append(m, e...)
	m = h.seal(m, h.mixDH(shared), i.public[:])
	var tai [12]byte
	binary.BigEndian.PutUint64(tai[:], 0x400000000000000a+uint64(at.Unix()))
	binary.BigEndian.PutUint32(tai[8:], uint32(at.Nanosecond()))
	m = h.seal(m, h.mixDH(i.secret), tai[:])
	mac, err := blake2s.New128(i.mac1[:])
	if err != nil {
		return nil, nil, err
	}
	mac.Write(m)
	return append(mac.Sum(m), make([]byte, 16)...), h, nil
}

// Finish makes the session of the response to this handshake; nil: it is not one. It may be called once and costs two
// X25519.
func (h *Handshake) Finish(response []byte) *Session {
	if len(response) != ResponseSize || response[0] != 2 || binary.LittleEndian.Uint32(response[8:]) != h.index {
		return nil
	}
	e, err := ecdh.X25519().NewPublicKey(response[12:44])
	if err != nil {
		return nil
	}
	h.mixHash(response[12:44])
	h.mixKey(response[12:44])
	for _, private := range []*ecdh.PrivateKey{h.ephemeral, h.from.private} {
		shared, err := private.ECDH(e)
		if err != nil {
			return nil
		}
		h.mixKey(shared)
	}
	var psk [32]byte
	t := h.kdf(psk[:], 3)
	h.chain = t[0]
	h.mixHash(t[1][:])
	if _, err := newAEAD(t[2]).Open(nil, make([]byte, 12), response[44:60], h.hash[:]); err != nil {
		return nil
	}
	return &Session{send: newAEAD(h.kdf(nil, 2)[0]), remote: binary.LittleEndian.Uint32(response[4:])}
}

// Seal appends the next transport message with a packet, padded, or a keepalive, which is empty.
func (s *Session) Seal(dst, packet []byte) []byte {
	at := len(dst)
	dst = append(dst, 4, 0, 0, 0)
	dst = binary.LittleEndian.AppendUint32(dst, s.remote)
	dst = binary.LittleEndian.AppendUint64(dst, s.counter)
	s.counter++
	var nonce [chacha20poly1305.NonceSize]byte
	copy(nonce[4:], dst[at+8:at+16])
	dst = append(dst, packet...)
	dst = append(dst, make([]byte, -len(packet)&15)...)
	return s.send.Seal(dst[:at+16], nonce[:], dst[at+16:], nil)
}

// SealedSize is the length of the message of a packet.
func SealedSize(packet int) int { return transportSize + (packet+15)&^15 }

// noise is the symmetric state of Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s.
type noise struct{ chain, hash [32]byte }

func beginNoise(server []byte) (n noise) {
	n.chain = blake2s.Sum256([]byte("Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s"))
	n.hash = blake2s.Sum256(append(n.chain[:], "WireGuard v1 zx2c4 Jason@zx2c4.com"...))
	n.mixHash(server)
	return n
}

func (n *noise) mixHash(data []byte) { n.hash = blake2s.Sum256(append(n.hash[:], data...)) }

func (n *noise) mixKey(input []byte) { n.chain = n.kdf(input, 1)[0] }

func (n *noise) mixDH(shared []byte) (key [32]byte) {
	t := n.kdf(shared, 2)
	n.chain = t[0]
	return t[1]
}

// seal appends the encrypted plaintext to m and mixes it in.
func (n *noise) seal(m []byte, key [32]byte, plaintext []byte) []byte {
	at := len(m)
	m = newAEAD(key).Seal(m, make([]byte, 12), plaintext, n.hash[:])
	n.mixHash(m[at:])
	return m
}

// kdf is HKDF with HMAC-BLAKE2s.
func (n *noise) kdf(input []byte, outputs int) (t [3][32]byte) {
	prk := hmacSum(n.chain[:], input)
	var last []byte
	for i := range outputs {
		t[i] = hmacSum(prk[:], append(last, byte(i+1)))
		last = append([]byte(nil), t[i][:]...)
	}
	return t
}

func hmacSum(key, data []byte) (sum [32]byte) {
	mac := hmac.New(func() hash.Hash { h, _ := blake2s.New256(nil); return h }, key)
	mac.Write(data)
	mac.Sum(sum[:0])
	return sum
}

func newAEAD(key [32]byte) cipher.AEAD {
	aead, err := chacha20poly1305.New(key[:])
	if err != nil {
		panic(err) // the length is right
	}
	return aead
}
