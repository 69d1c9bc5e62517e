package vpn

import (
	"context"
	"time"
)

// sweep looks at devices when their deadlines come.
func (g *Gateway) sweep(ctx context.Context) error {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		now := g.now()
		p, next := g.schedule.pop(now)
		if p == nil {
			next = earliest(next, g.vault.sweep(now))
		}
		if p != nil {
			g.tick(p, now)
			continue
		}
		wait := time.Hour
		if next != 0 {
			wait = next - now
		}
		timer.Reset(wait)
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		case <-g.schedule.wake:
		}
	}
}

// tick does what p's timers ask for and schedules p again.
func (g *Gateway) tick(p *peer, now time.Duration) {
	if p.dead.Load() {
		return
	}
	if due(&p.timers.keepalive, now) {
		g.sendKeepalive(p)
		if p.timers.anotherKeepalive.Swap(false) && p.timers.keepalive.Load() == 0 {
			p.timers.keepalive.Store(int64(now + KeepaliveTimeout))
		}
	}
	if due(&p.timers.renew, now) {
		g.renew(p, now)
	}
	if due(&p.timers.handshake, now) {
		p.mu.Lock()
		g.clearSource(p)
		p.mu.Unlock()
		g.want(p, now)
	}
	if g.expire(p, now) {
		g.forget(p, false)
		return
	}
	p.mu.Lock()
	at := earliest(p.timers.next(), p.nextExpiry())
	p.mu.Unlock()
	if at != 0 {
		g.schedule.at(p, at)
	}
}

// expire retransmits or gives up a handshake, erases keys that are too old, and reports whether p is to be forgotten.
func (g *Gateway) expire(p *peer, now time.Duration) (forget bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	current := p.current.Load()
	retired := p.expire(now)
	if current != nil && p.current.Load() == nil {
		g.confirmed.Add(-1)
	}
	g.retire(retired[:]...)
	if p.quiet.Load() && p.keyless() {
		return true
	}
	if due(&p.timers.retransmit, now) {
		if p.attempts++; p.attempts > maxAttempts {
			g.count.givenUp.Add(1)
			g.abandon(p)
			g.discard(p)
			p.target = nil
			p.timers.keepalive.Store(0)
		} else {
			g.clearSource(p)
			g.request(p, true)
		}
	}
	if p.pending != nil && p.pending.late(now) && p.timers.retransmit.Load() == 0 && !p.queued.Load() {
		g.abandon(p)
	}
	if due(&p.timers.erase, now) {
		return true
	}
	// Without keys, an awaited response and a confirmed address there is nothing left to go on with.
	return p.keyless() && p.endpoint.Load() == nil && p.timers.retransmit.Load() == 0 && !p.queued.Load()
}

// clearSource forgets which of our addresses the device talks to, in case this is why it does not hear. Under p.mu.
func (g *Gateway) clearSource(p *peer) {
	old := p.endpoint.Load()
	if old == nil || !old.src.IsValid() {
		return
	}
	if ep, err := g.parseEndpoint(old.addr); err == nil {
		p.endpoint.Store(newEndpoint(ep))
	}
}
