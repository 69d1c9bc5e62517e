package vpn

import (
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/subtle"

	"golang.org/x/crypto/blake2s"
	"golang.org/x/crypto/chacha20poly1305"
)

// Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s (whitepaper §5.4; T. Perrin, "The Noise Protocol Framework", revision 34).

const (
	construction = "Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s"
	identifier   = "WireGuard v1 zx2c4 Jason@zx2c4.com"
	labelMAC1    = "mac1----"
	labelCookie  = "cookie--"
)

var (
	initialChain = blake2s.Sum256([]byte(construction))
	initialHash  = hash(initialChain[:], []byte(identifier))
	zeroNonce    [chacha20poly1305.NonceSize]byte
)

// hash is HASH(a || b). a and b together have at most 128 bytes.
func hash(a, b []byte) [32]byte {
	var buf [128]byte
	n := copy(buf[:], a)
	n += copy(buf[n:], b)
	return blake2s.Sum256(buf[:n])
}

// hmac is HMAC-BLAKE2s(key, a || b) without allocation. a and b together have at most 64 bytes.
func hmac(key *[32]byte, a, b []byte) [32]byte {
	var inner [blake2s.BlockSize + 64]byte
	var outer [blake2s.BlockSize + 32]byte
	for i := range blake2s.BlockSize {
		inner[i], outer[i] = 0x36, 0x5c
	}
	for i, k := range key {
		inner[i] ^= k
		outer[i] ^= k
	}
	n := blake2s.BlockSize
	n += copy(inner[n:], a)
	n += copy(inner[n:], b)
	sum := blake2s.Sum256(inner[:n])
	copy(outer[blake2s.BlockSize:], sum[:])
	return blake2s.Sum256(outer[:])
}

// kdf is HKDF with up to three outputs (whitepaper §5.4: Kdf1, Kdf2, Kdf3). input has at most 64 bytes.
func kdf(chain *[32]byte, input []byte, n int) (t1, t2, t3 [32]byte) {
	prk := hmac(chain, input, nil)
	t1 = hmac(&prk, []byte{1}, nil)
	if n > 1 {
		t2 = hmac(&prk, t1[:], []byte{2})
	}
	if n > 2 {
		t3 = hmac(&prk, t2[:], []byte{3})
	}
	clear(prk[:])
	return t1, t2, t3
}

// symmetric is the running state of a handshake: chaining key C and transcript hash H.
type symmetric struct {
	chain, hash [32]byte
}

// begin is the state after the responder's static key, which both sides know, is mixed in.
func begin(responder Key) symmetric {
	return symmetric{initialChain, hash(initialHash[:], responder[:])}
}

func (s *symmetric) mixHash(data []byte) { s.hash = hash(s.hash[:], data) }

func (s *symmetric) mixKey(input []byte) { s.chain, _, _ = kdf(&s.chain, input, 1) }

// mixDH is MixKey of a shared secret; key encrypts the next field.
func (s *symmetric) mixDH(secret []byte) (key [32]byte) {
	s.chain, key, _ = kdf(&s.chain, secret, 2)
	return key
}

// mixPSK is MixKeyAndHash of the preshared key; key encrypts the next field.
func (s *symmetric) mixPSK(psk *Key) (key [32]byte) {
	var tau [32]byte
	s.chain, tau, key = kdf(&s.chain, psk[:], 3)
	s.mixHash(tau[:])
	return key
}

// seal appends the encrypted plaintext to dst[:0] and mixes it in. A key seals once.
func (s *symmetric) seal(key *[32]byte, dst, plaintext []byte) {
	sealed := newAEAD(key).Seal(dst[:0], zeroNonce[:], plaintext, s.hash[:])
	s.mixHash(sealed)
	clear(key[:])
}

// open decrypts sealed to dst[:0] and mixes it in; it reports whether sealed is authentic.
func (s *symmetric) open(key *[32]byte, dst, sealed []byte) bool {
	_, err := newAEAD(key).Open(dst[:0], zeroNonce[:], sealed, s.hash[:])
	s.mixHash(sealed)
	clear(key[:])
	return err == nil
}

// split ends the handshake: the initiator sends with the first key and receives with the second.
func (s *symmetric) split() (initiator, responder [32]byte) {
	initiator, responder, _ = kdf(&s.chain, nil, 2)
	s.erase()
	return initiator, responder
}

func (s *symmetric) erase() {
	clear(s.chain[:])
	clear(s.hash[:])
}

// newAEAD copies the key.
func newAEAD(key *[32]byte) cipher.AEAD {
	aead, err := chacha20poly1305.New(key[:])
	if err != nil {
		panic(err) // the length is right; only a FIPS-only build refuses the cipher of the protocol
	}
	return aead
}

// mac is MAC(key, data): keyed BLAKE2s with 16 bytes of output.
func mac(key, data []byte) (sum [macSize]byte) {
	h, err := blake2s.New128(key)
	if err != nil {
		panic(err) // keys have 32 or 16 bytes
	}
	h.Write(data)
	h.Sum(sum[:0])
	return sum
}

func mac1Key(public Key) [32]byte { return hash([]byte(labelMAC1), public[:]) }

// checkMAC1 reports whether a handshake message proves knowledge of the public key behind key (whitepaper §5.3).
func checkMAC1(key *[32]byte, m []byte) bool {
	at := len(m) - 2*macSize
	sum := mac(key[:], m[:at])
	return subtle.ConstantTimeCompare(sum[:], m[at:at+macSize]) == 1
}

// putMAC1 fills in mac1 of a handshake message and returns it.
func putMAC1(key *[32]byte, m []byte) [macSize]byte {
	at := len(m) - 2*macSize
	sum := mac(key[:], m[:at])
	copy(m[at:], sum[:])
	return sum
}

func newEphemeral() *ecdh.PrivateKey {
	k, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		panic(err) // crypto/rand does not fail
	}
	return k
}

// parsePublic parses a received point. It does not tell points of low order; ECDH with them fails.
func parsePublic(b []byte) *ecdh.PublicKey {
	k, err := ecdh.X25519().NewPublicKey(b)
	if err != nil {
		panic(err) // all strings of 32 bytes are points
	}
	return k
}
