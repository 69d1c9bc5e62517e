package vpn

import "golang.org/x/crypto/chacha20poly1305"

// putMACs completes a handshake message to p: mac1 always, mac2 while a cookie of its is fresh (whitepaper §5.4.4).
// Under p.mu.
func (g *Gateway) putMACs(p *peer, m []byte) {
	p.lastMAC1, p.hasLastMAC1 = putMAC1(&p.mac1Key, m), true
	if p.cookieAt != 0 && g.now()-p.cookieAt < cookieLifetime {
		sum := mac(p.cookie[:], m[:len(m)-macSize])
		copy(m[len(m)-macSize:], sum[:])
	}
}

// handleCookie keeps the cookie that a device under load answers our handshake message with; the next message, sent by
// its timer, carries it (whitepaper §5.4.7).
func (g *Gateway) handleCookie(m []byte) {
	p := g.awaiting(m)
	if p == nil {
		g.count.badHandshake.Add(1)
		return
	}
	aead, err := chacha20poly1305.NewX(p.cookieKey[:])
	if err != nil {
		panic(err) // the length is right
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	var cookie [macSize]byte
	if !p.hasLastMAC1 {
		g.count.badHandshake.Add(1)
		return
	}
	if _, err := aead.Open(cookie[:0], m[8:32], m[32:64], p.lastMAC1[:]); err != nil {
		g.count.badHandshake.Add(1)
		return
	}
	p.cookie, p.cookieAt = cookie, g.now()
	g.count.cookiesReceived.Add(1)
}
