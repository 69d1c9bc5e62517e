package vpntest

import (
	"crypto/ecdh"
	"crypto/rand"
	"encoding/binary"

	"golang.org/x/crypto/blake2s"
	"golang.org/x/crypto/chacha20poly1305"
	"golang.zx2c4.com/wireguard/device"
)

// Forger makes handshake initiations as somebody does who knows nothing but the public key of the gateways and perhaps
// those of devices. They cost the gateway what genuine ones cost until it asks for a proof, and the forger next to nothing:
// the sender's index, which only mac1 covers, makes each of them new. It is for one goroutine.
type Forger struct {
	mac1Key, cookieKey [32]byte
	prepared           [][]byte
	next               uint32
}

// maxPrepared is how many initiations of a Forger differ in more than their index.
const maxPrepared = 1024

// NewForger makes a Forger for gateways with that public key. Its initiations name the devices with those public keys
// in turn; without any they name devices that nobody has enrolled.
func NewForger(gateway [32]byte, devices [][32]byte) *Forger {
	f := &Forger{
		mac1Key:   blake2s.Sum256(append([]byte(device.WGLabelMAC1), gateway[:]...)),
		cookieKey: blake2s.Sum256(append([]byte(device.WGLabelCookie), gateway[:]...)),
	}
	if len(devices) == 0 {
		for range 16 {
			_, public := NewKey()
			devices = append(devices, public)
		}
	}
	for _, d := range devices[:min(len(devices), maxPrepared)] {
		f.prepared = append(f.prepared, forge(gateway, d))
	}
	return f
}

// forge is an initiation that names a device, up to the macs (whitepaper §5.4.2), with noise for the sealed timestamp.
func forge(gateway, name [32]byte) []byte {
	to, err := ecdh.X25519().NewPublicKey(gateway[:])
	if err != nil {
		panic(err) // all strings of 32 bytes are points
	}
	ephemeral, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		panic(err) // crypto/rand does not fail
	}
	shared, err := ephemeral.ECDH(to)
	if err != nil {
		panic(err) // a gateway's key is not of low order
	}
	m := make([]byte, device.MessageInitiationSize)
	m[0] = device.MessageInitiationType
	rand.Read(m[88:116])
	public := ephemeral.PublicKey().Bytes()
	copy(m[8:], public)
	transcript := mixed(device.InitialHash, gateway[:])
	transcript = mixed(transcript, public)
	var chain, key [32]byte
	device.KDF1(&chain, device.InitialChainKey[:], public)
	device.KDF2(&chain, &key, chain[:], shared)
	aead, err := chacha20poly1305.New(key[:])
	if err != nil {
		panic(err) // the length is right
	}
	aead.Seal(m[40:40], make([]byte, chacha20poly1305.NonceSize), name[:], transcript[:])
	return m
}

func mixed(transcript [32]byte, data []byte) [32]byte {
	return blake2s.Sum256(append(transcript[:], data...))
}

// Next returns a new initiation with the right mac1 and, if cookie is not zero, mac2. It belongs to the caller.
func (f *Forger) Next(cookie [16]byte) []byte {
	f.next++
	m := append([]byte(nil), f.prepared[int(f.next)%len(f.prepared)]...)
	binary.LittleEndian.PutUint32(m[4:], f.next)
	sum(m[116:132], f.mac1Key[:], m[:116])
	if cookie != [16]byte{} {
		sum(m[132:148], cookie[:], m[:132])
	}
	return m
}

// Cookie opens a cookie reply to an initiation.
func (f *Forger) Cookie(reply, initiation []byte) (cookie [16]byte, ok bool) {
	if len(reply) != device.MessageCookieReplySize || reply[0] != device.MessageCookieReplyType {
		return cookie, false
	}
	aead, err := chacha20poly1305.NewX(f.cookieKey[:])
	if err != nil {
		panic(err) // the length is right
	}
	_, err = aead.Open(cookie[:0], reply[8:32], reply[32:64], initiation[116:132])
	return cookie, err == nil
}

func sum(dst, key, data []byte) {
	h, err := blake2s.New128(key)
	if err != nil {
		panic(err) // keys have 32 or 16 bytes
	}
	h.Write(data)
	h.Sum(dst[:0])
}
