package vpn

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"golang.zx2c4.com/wireguard/conn"
)

// receiver is what one receiving goroutine works with.
type receiver struct {
	g     *Gateway
	out   [][]byte     // packets of this batch for the TUN, from offset headerSize
	super *superWriter // what takes them; nil: the TUN's Write

	injected bool   // messages come from another gateway
	spare    []byte // a message that is tried under several keys

	// the run of messages under one keypair at hand
	run   *keypair
	from  conn.Endpoint // of its last message
	bytes uint64
	count uint64
	data  bool
}

// receiveFrom opens what comes in on one socket. Only the socket's end, or errors that do not end, end it: no datagram
// that somebody sends and no passing shortage of the host's may stop a gateway.
func (g *Gateway) receiveFrom(ctx context.Context, receive conn.ReceiveFunc, out *superWriter) error {
	buffers, sizes, endpoints := makeBuffers(g.batch), make([]int, g.batch), make([]conn.Endpoint, g.batch)
	r := &receiver{g: g, out: make([][]byte, 0, g.batch), super: out}
	pause := backoff{log: g.cfg.Log}
	for {
		n, err := receive(buffers, sizes, endpoints)
		if err != nil {
			if end, err := g.receiveFailed(ctx, err, &pause); end {
				return err
			}
			continue
		}
		pause.succeeded()
		now := g.now()
		for i := range n {
			if sizes[i] > 0 { // else the endpoint is stale
				r.datagram(buffers[i], sizes[i], endpoints[i], now)
			}
		}
		r.flush(now)
	}
}

// receiveFailed tells whether an error of reading the socket ends it, and with what; else it has waited.
func (g *Gateway) receiveFailed(ctx context.Context, err error, pause *backoff) (bool, error) {
	var socket net.Error // syscall.Errno is one, too
	switch {
	case ctx.Err() != nil:
		return true, nil
	case errors.Is(err, net.ErrClosed):
		return true, fmt.Errorf("%w: receive: %w", ErrSocket, err)
	case !errors.As(err, &socket): // the bind could not make sense of what somebody sent
		g.count.malformed.Add(1)
		g.cfg.Log.Debug("receive", "error", err)
		return false, nil
	}
	g.count.receiveErrors.Add(1)
	if !pause.failed(ctx, "receive", err) {
		return true, nil
	}
	if pause.lasting() {
		return true, fmt.Errorf("%w: receive: %w", ErrSocket, err)
	}
	return false, nil
}

func makeBuffers(n int) [][]byte {
	buffers := make([][]byte, n)
	for i := range buffers {
		buffers[i] = make([]byte, bufferSize)
	}
	return buffers
}

// datagram takes one datagram of the batch, which it may overwrite.
func (r *receiver) datagram(buffer []byte, size int, from conn.Endpoint, now time.Duration) {
	g := r.g
	m := buffer[:size]
	switch messageType(m) {
	case typeTransport:
		r.transport(buffer, m, from, now)
	case typeInitiation, typeResponse, typeCookie:
		g.enqueue(m, normalized(from), false)
	default:
		g.count.malformed.Add(1)
	}
}

// normalized turns an IPv4-mapped address of the module's own bind, which would be sent to through the IPv6 socket,
// into an IPv4 one.
func normalized(ep conn.Endpoint) conn.Endpoint {
	if e, ok := ep.(*conn.StdNetEndpoint); ok && e.Addr().Is4In6() {
		e.AddrPort = netip.AddrPortFrom(e.Addr().Unmap(), e.Port())
	}
	return ep
}

// transport opens a transport message in place and queues the packet inside for the TUN.
func (r *receiver) transport(buffer, m []byte, from conn.Endpoint, now time.Duration) {
	g := r.g
	kp := g.indices.get(le.Uint32(m[4:]))
	if kp == nil {
		if r.injected {
			g.count.unknownIndex.Add(1)
			return
		}
		g.unknown(m, from, now)
		return
	}
	kp, plain, result := r.open(kp, m, now)
	switch result {
	case opened:
	case erased:
		g.count.expired.Add(1)
		return
	case forged:
		g.count.forged.Add(1)
		return
	case replayed:
		g.count.replayed.Add(1)
		return
	}
	if kp != r.run {
		r.accepted(now)
		r.run = kp
	}
	r.from = from
	r.count++
	r.bytes += uint64(len(m))
	if !kp.confirmed.Load() {
		g.confirm(kp, newEndpoint(normalized(from)))
	}
	if len(plain) == 0 {
		return
	}
	r.data = true
	packet, src, _, ok := parseIP(plain)
	switch {
	case !ok:
		g.count.badPacket.Add(1)
	case g.allowed.lookup(src) != kp.peer:
		g.count.badSource.Add(1)
	default:
		r.out = append(r.out, buffer[:headerSize+len(packet)])
	}
}

// open opens m in place under kp, or under another keypair that has the same index; a failed attempt destroys a message,
// so all but the last one are made on a copy.
func (r *receiver) open(kp *keypair, m []byte, now time.Duration) (*keypair, []byte, verdict) {
	for twin := kp.twin(); twin != nil; kp, twin = twin, twin.twin() {
		if kp.expired(now) {
			continue
		}
		r.spare = append(r.spare[:0], m...)
		plain, result := kp.opener.open(r.spare)
		if result == opened || result == replayed {
			return kp, m[headerSize : headerSize+copy(m[headerSize:], plain)], result
		}
	}
	if kp.expired(now) {
		return kp, nil, erased
	}
	plain, result := kp.opener.open(m)
	return kp, plain, result
}

// accepted does once for a run of messages what every authenticated message asks for.
func (r *receiver) accepted(now time.Duration) {
	g, kp := r.g, r.run
	if kp == nil {
		return
	}
	p := kp.peer
	g.count.rxPackets.Add(r.count)
	g.count.rxBytes.Add(r.bytes)
	p.rxBytes.Add(r.bytes)
	if at := p.endpoint.Load(); at == nil || at.addr != addrPort(r.from) || at.src != r.from.SrcIP() || at.bare.Load() != nil {
		g.moved(kp, newEndpoint(normalized(r.from)), r.injected)
	}
	p.heard.Store(int64(now))
	g.listened(p, now)
	g.vault.accepted(kp)
	p.timers.anyReceived()
	if r.data {
		if at := p.timers.dataReceived(now); at != 0 {
			g.schedule.at(p, at)
		}
	}
	if current := p.current.Load(); current != nil && current.initiator && now-current.created > rekeyOnReceive && !p.lastMinute.Swap(true) {
		g.want(p, now)
	}
	r.run, r.from, r.bytes, r.count, r.data = nil, nil, 0, 0, false
}

// flush ends a batch.
func (r *receiver) flush(now time.Duration) {
	r.accepted(now)
	if len(r.out) == 0 {
		return
	}
	if err := r.write(); err != nil && !errors.Is(err, os.ErrClosed) {
		r.g.count.writeErrors.Add(1)
		r.g.cfg.Log.Debug("write to TUN", "error", err)
	}
	clear(r.out)
	r.out = r.out[:0]
}

// write hands the packets of this batch to the TUN.
func (r *receiver) write() (err error) {
	if r.super != nil {
		return r.super.write(r.out)
	}
	for packets := range slices.Chunk(r.out, max(r.g.tun().BatchSize(), r.g.batch)) {
		if _, e := r.g.tun().Write(packets, headerSize); e != nil {
			err = e
		}
	}
	return err
}
