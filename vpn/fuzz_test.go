package vpn

import (
	"bytes"
	"net/netip"
	"testing"
	"time"

	"gatemesh/vpn/vpntest"

	"golang.zx2c4.com/wireguard/conn"
)

// recorder is a bind that keeps what would leave.
type recorder struct {
	conn.Bind
	sent [][]byte
}

func (r *recorder) Send(bufs [][]byte, _ conn.Endpoint) error {
	for _, b := range bufs {
		r.sent = append(r.sent, bytes.Clone(b))
	}
	return nil
}

// FuzzDatagram feeds a gateway that has a confirmed session, an awaited response and an enrolled device with whatever
// comes, once as it is and once with a right mac1. What was not made by one of the three's keys must change nothing and
// must not be answered.
func FuzzDatagram(f *testing.F) {
	private, public := vpntest.NewKey()
	d := Device{Key: public}
	g := idle(f, d)
	inner := netip.MustParseAddr("10.0.0.9")
	p, far := live(f, g, inner)
	at := p.endpoint.Load()
	out := &recorder{Bind: g.cfg.Bind}
	tun := g.tun().(*vpntest.TUN)
	g.cfg.Bind = out
	waiting, err := g.newPeer(Device{Key: p.key})
	if err != nil {
		f.Fatal(err)
	}
	mine, _, err := g.makeInitiation(waiting, at)
	if err != nil {
		f.Fatal(err)
	}
	id, err := newIdentity(private)
	if err != nil {
		f.Fatal(err)
	}
	to, secret, err := id.newRemote(g.identity.public)
	if err != nil {
		f.Fatal(err)
	}
	knock, _, err := id.initiate(to, &secret, 99, stamp(time.Now()))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(flip(knock[:], 100)) // the timestamp is forged
	f.Add(flip(knock[:], 50))  // the static key is
	f.Add(knock[:147])
	response := make([]byte, responseSize)
	le.PutUint32(response, typeResponse)
	le.PutUint32(response[8:], le.Uint32(mine[4:]))
	putMAC1(&g.identity.mac1Key, response)
	f.Add(response)
	cookie := make([]byte, cookieSize)
	le.PutUint32(cookie, typeCookie)
	le.PutUint32(cookie[4:], le.Uint32(mine[4:]))
	f.Add(cookie)
	packet := vpntest.EchoRequest(inner, netip.MustParseAddr("10.0.0.1"), 1, 1, nil)
	b := make([]byte, headerSize+len(packet)+2*paddingMultiple+tagSize)
	copy(b[headerSize:], packet)
	m, _ := sealPacket(far, b, len(packet), defaultMTU)
	m[20] ^= 1 // forged
	f.Add(bytes.Clone(m))
	f.Add([]byte{})
	for kind, size := range []int{0, initiationSize, responseSize, cookieSize, keepaliveSize} {
		f.Add(message(uint32(kind), max(size, 4)))
	}
	early := bytes.Clone(m[:headerSize+tagSize]) // a counter beyond the last
	le.PutUint64(early[8:], RejectAfterMessages)
	f.Add(early)

	r := &receiver{g: g}
	buffer := make([]byte, bufferSize)
	from := &vpntest.Endpoint{AddrPort: netip.MustParseAddrPort("198.51.100.66:666")}
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, macked := range []bool{false, true} { // the second gets behind mac1, which no fuzzer finds
			size := copy(buffer, b)
			if kind := messageType(buffer[:size]); macked && (kind == typeInitiation || kind == typeResponse) {
				putMAC1(&g.identity.mac1Key, buffer[:size])
			}
			r.datagram(buffer, size, from, g.now())
			r.flush(g.now())
			for d := g.intake.take(); d != nil; d = g.intake.take() {
				g.handle(d)
			}
		}
		g.intake.loadedUntil = g.now() + time.Hour // and again, under load
		size := copy(buffer, b)
		r.datagram(buffer, size, from, g.now())
		if d := g.intake.takeAsked(); d != nil {
			if reply := g.cookies.reply(d, time.Now()); messageType(reply[:]) != typeCookie || messageType(b) != typeInitiation {
				t.Errorf("%x is challenged with %x", b, reply)
			}
		}
		g.intake.loadedUntil = 0
		if len(out.sent) != 0 || len(tun.Packets()) != 0 || p.endpoint.Load() != at || len(g.live()) != 1 || g.requests.queue != nil {
			t.Errorf("%x changed something", b)
		}
	})
}

// FuzzInner feeds the gateway with authentic messages of a device that holds anything inside.
func FuzzInner(f *testing.F) {
	g := idle(f)
	inner := netip.MustParseAddr("10.0.0.9")
	_, far := live(f, g, inner)
	r := &receiver{g: g}
	tun := g.tun().(*vpntest.TUN)
	f.Add(vpntest.EchoRequest(inner, netip.MustParseAddr("10.0.0.1"), 1, 1, nil))
	f.Add(vpntest.EchoRequest(netip.MustParseAddr("10.0.0.8"), netip.MustParseAddr("10.0.0.1"), 1, 1, nil))
	f.Add(vpntest.EchoRequest(netip.MustParseAddr("fd00::9"), netip.MustParseAddr("fd00::1"), 1, 1, nil))
	f.Add([]byte{0x45})
	f.Add([]byte{})
	buffer := make([]byte, bufferSize)
	from := &vpntest.Endpoint{AddrPort: netip.MustParseAddrPort("203.0.113.1:9")}
	now := g.now() // the keys do not grow old
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 1<<15 {
			return
		}
		copy(buffer[headerSize:], b)
		m, ok := sealPacket(far, buffer, len(b), defaultMTU)
		if !ok {
			t.Fatal("not sealed")
		}
		r.datagram(buffer, len(m), from, now)
		r.flush(now)
		select {
		case packet := <-tun.Packets():
			if got, src, _, ok := parseIP(packet); !ok || src != inner || !bytes.Equal(got, packet) {
				t.Errorf("%x came through", packet)
			}
		default:
			if _, src, _, ok := parseIP(b); ok && src == inner {
				t.Errorf("%x did not come through", b)
			}
		}
	})
}

// FuzzTUN feeds the gateway with anything from the TUN.
func FuzzTUN(f *testing.F) {
	g := idle(f)
	inner := netip.MustParseAddr("10.0.0.9")
	_, far := live(f, g, inner)
	out := &recorder{Bind: g.cfg.Bind}
	g.cfg.Bind = out
	t := &transmitter{g: g}
	f.Add(vpntest.EchoRequest(netip.MustParseAddr("10.0.0.1"), inner, 1, 1, nil))
	f.Add(vpntest.EchoRequest(netip.MustParseAddr("fd00::1"), netip.MustParseAddr("fd00::9"), 1, 1, nil))
	f.Add([]byte{0x60})
	f.Add([]byte{})
	buffers := makeBuffers(2)
	now := g.now() // the keys do not grow old
	f.Fuzz(func(tt *testing.T, b []byte) {
		if len(b) > 1<<15 {
			return
		}
		out.sent = nil
		sizes := []int{copy(buffers[0][headerSize:], b), copy(buffers[1][headerSize:], b)}
		t.batch(buffers, sizes, now)
		packet, _, dst, ok := parseIP(b)
		if want := ok && dst == inner; want != (len(out.sent) == 2) {
			tt.Fatalf("%d messages for %x", len(out.sent), b)
		}
		for _, m := range out.sent {
			if plain, v := far.opener.open(m); v != opened || !bytes.HasPrefix(plain, packet) || len(plain)%paddingMultiple != 0 && len(plain) != defaultMTU && len(packet) <= defaultMTU {
				tt.Errorf("%v: %x", v, plain)
			}
		}
	})
}
