package vpn

import (
	"context"
	"crypto/cipher"
	"crypto/rand"
	"crypto/subtle"
	"net/netip"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/chacha20poly1305"
)

// cookies makes and checks the cookies by which a device shows, under load, that it is where its messages say
// (whitepaper §5.4.7). Their secret follows from the cluster's private key and the time, so every gateway of the
// cluster takes what another one has handed out and none has to tell: time is cut into slots of two minutes, cookies
// are made under the secret of now and taken under it and its neighbours, so gateways may be up to two minutes apart.
type cookies struct {
	aead    cipher.AEAD // of cookie replies
	key     [32]byte    // the secrets are derived from it
	secrets atomic.Pointer[cookieSecrets]
}

// cookieSecrets are those of a slot, the one before and the one after.
type cookieSecrets struct {
	slot                  int64
	current, before, next [32]byte
}

const (
	cookieSlot   = 120                 // seconds
	labelSecrets = "gatemesh cookies1" // no message of the protocol is hashed with it
)

func newCookies(id *identity) *cookies {
	key := hash([]byte(labelCookie), id.public[:])
	aead, err := chacha20poly1305.NewX(key[:])
	if err != nil {
		panic(err) // the length is right
	}
	private := id.private.Bytes() // a copy
	defer clear(private)
	secret := hmac((*[32]byte)(private), []byte(labelSecrets), nil)
	return &cookies{aead: aead, key: secret}
}

// at returns the secrets for a time.
func (c *cookies) at(now time.Time) *cookieSecrets {
	slot := now.Unix() / cookieSlot
	if s := c.secrets.Load(); s != nil && s.slot == slot {
		return s
	}
	s := &cookieSecrets{slot: slot, current: c.secret(slot), before: c.secret(slot - 1), next: c.secret(slot + 1)}
	c.secrets.Store(s)
	return s
}

func (c *cookies) secret(slot int64) [32]byte {
	var b [8]byte
	le.PutUint64(b[:], uint64(slot))
	return hmac(&c.key, b[:], nil)
}

// cookie is MAC(secret, address || port).
func cookie(secret *[32]byte, of netip.AddrPort) [macSize]byte {
	var b [18]byte
	a := of.Addr().As16()
	copy(b[:], a[:])
	be.PutUint16(b[16:], of.Port())
	return mac(secret[:], b[:])
}

// proves reports whether mac2 of an initiation shows that its sender has received a cookie at that address.
func (c *cookies) proves(m []byte, from netip.AddrPort, now time.Time) bool {
	at := len(m) - macSize
	if [macSize]byte(m[at:]) == [macSize]byte{} {
		return false
	}
	s := c.at(now)
	for _, secret := range []*[32]byte{&s.current, &s.before, &s.next} {
		key := cookie(secret, from)
		sum := mac(key[:], m[:at])
		if subtle.ConstantTimeCompare(sum[:], m[at:]) == 1 {
			return true
		}
	}
	return false
}

// reply makes the cookie reply to an initiation.
func (c *cookies) reply(d *datagram, now time.Time) (m [cookieSize]byte) {
	le.PutUint32(m[:], typeCookie)
	copy(m[4:], d.bytes[4:8])
	rand.Read(m[8:32])
	sealed := cookie(&c.at(now).current, d.addr)
	c.aead.Seal(m[32:32], m[8:32], sealed[:], d.bytes[initiationSize-2*macSize:initiationSize-macSize])
	return m
}

// challenges sends cookie replies, up to cookieRate. A reply has less than half the size of what it answers.
func (g *Gateway) challenges(ctx context.Context) error {
	var limit bucket
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-g.intake.ask:
		}
		switch d := g.intake.takeAsked(); {
		case d == nil:
		case !limit.take(cookieRate, cookieRate, g.now()):
			g.count.cookiesHeld.Add(1)
		default:
			g.sendCookie(d)
		}
	}
}

func (g *Gateway) sendCookie(d *datagram) {
	m := g.cookies.reply(d, g.cfg.Now())
	if g.send([][]byte{m[:]}, newEndpoint(d.from)) {
		g.count.cookiesSent.Add(1)
	}
}
