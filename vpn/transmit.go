package vpn

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"golang.zx2c4.com/wireguard/tun"
)

// transmitter is what the transmitting goroutine works with.
type transmitter struct {
	g   *Gateway
	out [][]byte // sealed messages of the run at hand
	unreachables
}

// transmit seals what comes from the TUN. Only the TUN's end, or errors that do not end, end it: what one packet makes
// Read say stops no other.
func (g *Gateway) transmit(ctx context.Context) error {
	n := g.tun().BatchSize()
	buffers, sizes := makeBuffers(n), make([]int, n)
	t := &transmitter{g: g, out: make([][]byte, 0, n)}
	pause := backoff{log: g.cfg.Log}
	for {
		n, err := g.tun().Read(buffers, sizes, headerSize)
		t.batch(buffers[:n], sizes, g.now())
		if err == nil || errors.Is(err, tun.ErrTooManySegments) {
			pause.succeeded()
		} else if end, err := g.readFailed(ctx, err, &pause); end {
			return err
		}
	}
}

// readFailed tells whether an error of reading the TUN ends it, and with what; else it has waited.
func (g *Gateway) readFailed(ctx context.Context, err error, pause *backoff) (bool, error) {
	switch {
	case ctx.Err() != nil:
		return true, nil
	case errors.Is(err, os.ErrClosed):
		return true, fmt.Errorf("%w: read: %w", ErrTUN, err)
	}
	g.count.readErrors.Add(1)
	if !pause.failed(ctx, "read from TUN", err) {
		return true, nil
	}
	if pause.lasting() {
		return true, fmt.Errorf("%w: read: %w", ErrTUN, err)
	}
	return false, nil
}

// batch seals and sends packets, each at offset headerSize of its buffer, in runs for one device.
func (t *transmitter) batch(buffers [][]byte, sizes []int, now time.Duration) {
	var last netip.Addr
	var owner *peer
	begin := 0 // of the run for owner
	for i := range buffers {
		n := 0
		packet, _, dst, ok := parseIP(buffers[i][headerSize : headerSize+sizes[i]])
		if ok {
			n = len(packet)
		}
		sizes[i] = n
		if n == 0 {
			t.g.count.badPacket.Add(1)
			continue
		}
		if dst == last {
			continue
		}
		if p := t.g.allowed.lookup(dst); p != owner || i == 0 {
			t.run(owner, buffers[begin:i], sizes[begin:i], now)
			owner, begin = p, i
		}
		last = dst
	}
	t.run(owner, buffers[begin:], sizes[begin:], now)
	t.tell()
}

// run seals and sends packets for one device; those of size 0 are skipped.
func (t *transmitter) run(p *peer, buffers [][]byte, sizes []int, now time.Duration) {
	g := t.g
	if p == nil {
		for i, b := range buffers {
			if n := sizes[i]; n > 0 {
				g.count.noSession.Add(1)
				t.add(b[headerSize:headerSize+n], now)
			}
		}
		return
	}
	if p.quiet.Load() {
		for i, b := range buffers {
			if n := sizes[i]; n > 0 {
				g.divert(p, b[headerSize:headerSize+n])
			}
		}
		return
	}
	kp := p.current.Load()
	bytes := 0
	t.out = t.out[:0]
	for i, b := range buffers {
		n := sizes[i]
		if n == 0 {
			continue
		}
		if !kp.usable(now) {
			g.stage(p, b[headerSize:headerSize+n], now)
			continue
		}
		m, ok := sealPacket(kp, b, n, g.cfg.MTU)
		if !ok {
			kp = nil
			g.stage(p, b[headerSize:headerSize+n], now)
			continue
		}
		t.out = append(t.out, m)
		bytes += len(m)
	}
	if len(t.out) > 0 {
		g.sendData(p, kp, t.out, bytes, true, now)
	}
}

// sealPacket pads the packet of n bytes at b[headerSize:] and seals it in place.
func sealPacket(kp *keypair, b []byte, n, mtu int) ([]byte, bool) {
	size := padded(n, mtu)
	clear(b[headerSize+n : headerSize+size])
	return kp.sealer.seal(b, size)
}

// sendData lets transport messages leave for the confirmed address and does once for them what every authenticated
// message asks for. It reports whether they left. kp may be nil: its keys were used up meanwhile.
func (g *Gateway) sendData(p *peer, kp *keypair, messages [][]byte, bytes int, data bool, now time.Duration) bool {
	to := p.endpoint.Load()
	if to == nil || p.dead.Load() || !g.send(messages, to) {
		return false
	}
	g.count.txPackets.Add(uint64(len(messages)))
	g.count.txBytes.Add(uint64(bytes))
	p.txBytes.Add(uint64(bytes))
	p.timers.anySent()
	if data {
		if at := p.timers.dataSent(now); at != 0 {
			g.schedule.at(p, at)
		}
	}
	if kp == nil || kp.stale(now) {
		g.want(p, now)
	}
	return true
}

// sendKeepalive sends an empty message if there are keys for it. Held back by the fence, it is tried again soon.
func (g *Gateway) sendKeepalive(p *peer) {
	now := g.now()
	kp := p.current.Load()
	if !kp.usable(now) {
		return
	}
	if kp.imported.Load() && !kp.confirmed.Load() {
		g.knock(p)
		return
	}
	m, ok := kp.sealer.seal(make([]byte, keepaliveSize), 0)
	if !ok {
		return
	}
	if !g.sendData(p, kp, [][]byte{m}, len(m), false, now) {
		g.keepaliveSoon(p, now)
	}
}

// keepaliveSoon makes up for messages that did not leave: the device may be waiting for the first one under new keys.
func (g *Gateway) keepaliveSoon(p *peer, now time.Duration) {
	at := now + fenceRetry
	p.timers.keepalive.Store(int64(at))
	g.schedule.at(p, at)
}

// stage keeps a copy of a packet until there are keys and asks for a handshake. The oldest one makes room.
func (g *Gateway) stage(p *peer, packet []byte, now time.Duration) {
	b := make([]byte, headerSize+len(packet), headerSize+len(packet)+paddingMultiple+tagSize)
	copy(b[headerSize:], packet)
	p.mu.Lock()
	var staged [][]byte
	quiet := p.quiet.Load()
	switch {
	case p.dead.Load():
		g.count.noSession.Add(1)
	case quiet: // since the packet was read
	case p.current.Load().usable(now): // keys came in between
		staged = append(g.unstage(p), b)
	case len(p.staged) < stagedPerPeer && g.staged.Load() < stagedTotal:
		g.staged.Add(1)
		p.staged = append(p.staged, b)
	case len(p.staged) > 0:
		g.count.overflow.Add(1)
		p.staged = append(p.staged[1:], b)
	default:
		g.count.overflow.Add(1)
	}
	p.mu.Unlock()
	if quiet {
		g.divert(p, packet)
		return
	}
	if staged != nil {
		g.sendStaged(p, staged)
		return
	}
	if p.timers.retransmit.Load() == 0 {
		g.request(p, false) // a worker sees to it that there is a timer, also where an initiation would be too soon
		return
	}
	g.want(p, now)
}

// unstage takes out the packets that waited. Under p.mu.
func (g *Gateway) unstage(p *peer) [][]byte {
	staged := p.staged
	p.staged = nil
	g.staged.Add(-int64(len(staged)))
	return staged
}

// discard drops the packets that waited. Under p.mu.
func (g *Gateway) discard(p *peer) {
	g.count.overflow.Add(uint64(len(g.unstage(p))))
}

// sendStaged seals and sends packets that waited for keys.
func (g *Gateway) sendStaged(p *peer, packets [][]byte) {
	if len(packets) == 0 {
		return
	}
	now := g.now()
	kp := p.current.Load()
	bytes := 0
	messages := make([][]byte, 0, len(packets))
	for _, b := range packets {
		if !kp.usable(now) {
			g.count.overflow.Add(1)
			continue
		}
		n := len(b) - headerSize
		m, ok := sealPacket(kp, b[:cap(b)], n, g.cfg.MTU)
		if !ok {
			g.count.overflow.Add(1)
			continue
		}
		messages = append(messages, m)
		bytes += len(m)
	}
	if len(messages) > 0 && !g.sendData(p, kp, messages, bytes, true, now) {
		g.keepaliveSoon(p, now)
	}
}
