package vpn

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"golang.zx2c4.com/wireguard/conn"
)

// Inject answers an initiation that another gateway has handed to us, from our own port and without steering, as if it
// had come from that address. It copies, never blocks, and drops when too many are waiting.
func (g *Gateway) Inject(initiation []byte, from netip.AddrPort) {
	if messageType(initiation) != typeInitiation {
		g.count.malformed.Add(1)
		return
	}
	ep, err := g.parseEndpoint(from)
	if err != nil {
		g.count.malformed.Add(1)
		return
	}
	g.count.initiationsInjected.Add(1)
	g.enqueue(initiation, ep, true)
}

// parseEndpoint is for addresses that come from the cluster; it is not for the packet path.
func (g *Gateway) parseEndpoint(addr netip.AddrPort) (conn.Endpoint, error) {
	if !addr.IsValid() || addr.Port() == 0 {
		return nil, fmt.Errorf("address %v of a device is not usable", addr)
	}
	return g.cfg.Bind.ParseEndpoint(netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port()).String())
}

// Initiate takes a device over: it begins a handshake with it at that address now, whatever was tried before, and
// retransmits it by WireGuard's rule for RekeyAttemptTime. It never blocks. A handshake with the device at the same
// address that is younger than RekeyTimeout is left to run.
func (g *Gateway) Initiate(k Key, addr netip.AddrPort) {
	g.Unmute(k)
	ep, err := g.parseEndpoint(addr)
	if err != nil || !g.requests.put(request{key: k, target: newEndpoint(ep)}) {
		g.count.requestsDropped.Add(1)
	}
}

// want asks a worker for an initiation to a device that has a session, unless a handshake message was sent to it
// within RekeyTimeout. The packet path may call it.
func (g *Gateway) want(p *peer, now time.Duration) {
	if sent := p.sentHandshake.Load(); sent != 0 && now-time.Duration(sent) < RekeyTimeout {
		return
	}
	if !g.mayBegin(p, now) {
		return
	}
	g.request(p, false)
}

func (g *Gateway) request(p *peer, retry bool) {
	if p.queued.Swap(true) {
		return
	}
	if !g.requests.put(request{key: p.key, peer: p, retry: retry}) {
		p.queued.Store(false)
		g.count.requestsDropped.Add(1)
	}
}

// request is an initiation to be made.
type request struct {
	key      Key
	peer     *peer     // a live session; nil: takeover
	target   *endpoint // of a takeover
	takeover *takeover // of a takeover, once it is queued
	retry    bool      // a retransmission
}

// takeover is one that waits for a worker, or has one and has not begun.
type takeover struct {
	target *endpoint // the newest one
	queued bool
}

// requests are the initiations waiting for a worker, one takeover and one of its session's own per device.
type requests struct {
	wake chan struct{} // capacity 1: there is something to take

	mu        sync.Mutex // guards the fields below
	queue     []request
	takeovers map[Key]*takeover // those that are not cancelled
}

func newRequests() *requests {
	return &requests{wake: make(chan struct{}, 1), takeovers: make(map[Key]*takeover)}
}

// put reports whether there was room. A takeover of a device that is waiting already gets the newer address.
func (r *requests) put(q request) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if q.peer == nil {
		q.takeover = r.takeovers[q.key]
		if q.takeover != nil && q.takeover.queued {
			q.takeover.target = q.target
			return true
		}
	}
	if len(r.queue) >= maxRequests {
		return false
	}
	if q.peer == nil {
		if q.takeover == nil {
			q.takeover = new(takeover)
			r.takeovers[q.key] = q.takeover
		}
		q.takeover.target, q.takeover.queued = q.target, true
	}
	r.queue = append(r.queue, q)
	r.signal()
	return true
}

// take returns the oldest request; ok is false when there is none. What takes over asks begun before it does.
func (r *requests) take() (q request, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for !ok && len(r.queue) > 0 {
		q = r.queue[0]
		r.queue[0] = request{}
		r.queue = r.queue[1:]
		ok = q.takeover == nil || r.takeovers[q.key] == q.takeover
	}
	if len(r.queue) > 0 {
		r.signal()
	} else {
		r.queue = nil
	}
	if ok && q.takeover != nil {
		q.target, q.takeover.queued = q.takeover.target, false
	}
	return q, ok
}

// begun ends the waiting of a takeover that was taken and reports whether it was not cancelled meanwhile.
func (r *requests) begun(q request) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.takeovers[q.key] != q.takeover {
		return false
	}
	if !q.takeover.queued { // else it was asked for again
		delete(r.takeovers, q.key)
	}
	return true
}

// cancel forgets the takeover of a device, if one waits or has not begun.
func (r *requests) cancel(k Key) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.takeovers, k)
}

func (r *requests) signal() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// work is one handshake worker.
func (g *Gateway) work(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-g.requests.wake:
			if q, ok := g.requests.take(); ok {
				g.initiate(q)
			}
		case <-g.intake.wake:
			if d := g.intake.take(); d != nil {
				g.handle(d)
			}
		}
	}
}

// handle does what a handshake message asks for.
func (g *Gateway) handle(d *datagram) {
	m := d.message()
	switch messageType(m) {
	case typeInitiation:
		g.handleInitiation(d)
	case typeResponse:
		g.handleResponse(m, newEndpoint(d.from))
	case typeCookie:
		g.handleCookie(m)
	}
}
