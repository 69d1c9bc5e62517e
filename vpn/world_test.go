package vpn_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"gatemesh/vpn"
	"gatemesh/vpn/vpntest"
)

// world is gateways of one cluster and stock devices on an in-memory Internet. It holds two properties in every test:
// no counter of a key is used twice, by whichever gateway, and every goroutine ends.
type world struct {
	t               *testing.T
	net             *vpntest.Internet
	private, public vpn.Key
	fast            bool // gateways have edges of the fast path

	mu      sync.Mutex // guards the fields below
	devices map[vpn.Key]vpn.Device
	sent    map[nonce]bool
	wire    []vpntest.Datagram // handshake messages, in order
	data    map[netip.Addr]int // transport messages by source host
}

type nonce struct {
	from     netip.AddrPort
	receiver uint32
	counter  uint64
}

var (
	inner4 = netip.MustParseAddr("10.255.0.1") // of the network behind every gateway
	inner6 = netip.MustParseAddr("fd00::1")

	gateways = netip.MustParsePrefix("192.0.2.0/24") // outer addresses
)

// bubble runs a test in a world on a fake clock, once on the portable path of packets and once on the fast one.
func bubble(t *testing.T, test func(t *testing.T, w *world)) {
	t.Helper()
	for _, path := range []string{"portable", "fast"} {
		t.Run(path, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.fast = path == "fast"
				test(t, w)
			})
		})
	}
}

func newWorld(t *testing.T) *world {
	w := &world{
		t: t, net: vpntest.NewInternet(1),
		devices: make(map[vpn.Key]vpn.Device), sent: make(map[nonce]bool), data: make(map[netip.Addr]int),
	}
	w.private, w.public = vpntest.NewKey()
	w.net.Tap(w.tap)
	// Without any latency a response overtakes the stock device's starting its retransmission timer.
	w.net.SetFaults(vpntest.Faults{Latency: time.Millisecond})
	return w
}

func (w *world) tap(d vpntest.Datagram) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if d.Type() != 4 || len(d.Payload) < 32 {
		w.wire = append(w.wire, d)
		return
	}
	w.data[d.From.Addr()]++
	from := d.From
	if gateways.Contains(from.Addr()) {
		from = netip.AddrPort{} // sessions move between them, with their keys
	}
	n := nonce{from, binary.LittleEndian.Uint32(d.Payload[4:]), binary.LittleEndian.Uint64(d.Payload[8:])}
	if w.sent[n] {
		w.t.Errorf("%v sent counter %d to receiver %08x twice", d.From, n.counter, n.receiver)
	}
	w.sent[n] = true
}

// count is the number of handshake messages of that type that left a host.
func (w *world) count(host netip.Addr, kind int) (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, d := range w.wire {
		if d.From.Addr() == host && d.Type() == kind {
			n++
		}
	}
	return n
}

// messages are the handshake messages of that type that left a host.
func (w *world) messages(host netip.Addr, kind int) (found []vpntest.Datagram) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, d := range w.wire {
		if d.From.Addr() == host && d.Type() == kind {
			found = append(found, d)
		}
	}
	return found
}

func (w *world) dataFrom(host netip.Addr) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.data[host]
}

func (w *world) lookup(k vpn.Key) (vpn.Device, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	d, ok := w.devices[k]
	return d, ok
}

func (w *world) enrol(d vpn.Device) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.devices[d.Key] = d
}

func (w *world) remove(k vpn.Key) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.devices, k)
}

// gateway is a running gateway with an echoing network behind it.
type gateway struct {
	*vpn.Gateway
	t      *testing.T
	addr   netip.AddrPort
	tun    *vpntest.TUN
	bind   *vpntest.Bind
	cancel context.CancelFunc
	done   chan error

	mu     sync.Mutex // guards the field below
	events []vpn.Event
}

// gateway starts one on a host at port 51820, with its fence open for ever.
func (w *world) gateway(host string, options ...func(*vpn.Config)) *gateway {
	w.t.Helper()
	addr := netip.AddrPortFrom(netip.MustParseAddr(host), 51820)
	g := &gateway{t: w.t, addr: addr, tun: vpntest.NewEchoTUN(0, inner4, inner6), bind: w.net.Bind(addr.Addr())}
	g.bind.Batch, g.tun.Batch = 8, 8
	cfg := vpn.Config{PrivateKey: w.private, Port: addr.Port(), Bind: g.bind, TUN: g.tun, Lookup: w.lookup, Notify: g.notify}
	for _, o := range options {
		o(&cfg)
	}
	if w.fast {
		cfg.Bind, cfg.TUN = vpn.FastEdges(cfg.Bind, cfg.TUN)
	}
	var err error
	if g.Gateway, err = vpn.New(cfg); err != nil {
		w.t.Fatal(err)
	}
	g.Allow(time.Now().Add(1000 * time.Hour))
	var ctx context.Context
	ctx, g.cancel = context.WithCancel(context.Background())
	g.done = make(chan error, 1)
	go func() { g.done <- g.Run(ctx) }()
	w.t.Cleanup(g.kill)
	return g
}

// kill ends a gateway as a crash does: the devices hear nothing of it.
func (g *gateway) kill() {
	g.cancel()
	if err := <-g.done; err != nil {
		g.t.Errorf("Run: %v", err)
	}
	g.done <- nil
	if err := g.Close(); err != nil {
		g.t.Errorf("Close: %v", err)
	}
}

func (g *gateway) notify(e vpn.Event) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.events = append(g.events, e)
}

// takeover initiates and waits until the device has answered, if it does.
func (g *gateway) takeover(c *client) {
	g.Initiate(c.key, c.addr)
	time.Sleep(10 * time.Millisecond)
}

// happened are the events of that kind, oldest first.
func (g *gateway) happened(kind vpn.EventKind) (found []vpn.Event) {
	synctest.Wait()
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, e := range g.events {
		if e.Kind == kind {
			found = append(found, e)
		}
	}
	return found
}

func (g *gateway) session(k vpn.Key) (vpn.Session, bool) {
	for _, s := range g.Sessions() {
		if s.Device == k {
			return s, true
		}
	}
	return vpn.Session{}, false
}

// client is a stock device.
type client struct {
	*vpntest.Client
	key  vpn.Key
	bind *vpntest.Bind
	addr netip.AddrPort
	ip4  netip.Addr
	ip6  netip.Addr
}

// client enrols and starts device number i, which knows the gateway at that address; invalid: none.
func (w *world) client(i int, to netip.AddrPort, options ...func(*vpntest.ClientConfig, *vpn.Device)) *client {
	w.t.Helper()
	c := &client{
		addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, 0, byte(i >> 8), byte(i)}), 40000),
		ip4:  netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}),
		ip6:  netip.MustParseAddr(fmt.Sprintf("fd00::%x:1", i)),
	}
	c.bind = w.net.Bind(c.addr.Addr())
	cfg := vpntest.ClientConfig{Bind: c.bind, Port: c.addr.Port(), PeerKey: w.public, Endpoint: to, Addresses: []netip.Addr{c.ip4, c.ip6}}
	cfg.PrivateKey, c.key = vpntest.NewKey()
	device := vpn.Device{Key: c.key, Addresses: []netip.Prefix{netip.PrefixFrom(c.ip4, 32), netip.PrefixFrom(c.ip6, 128)}}
	for _, o := range options {
		o(&cfg, &device)
	}
	w.enrol(device)
	c.Client = vpntest.NewClient(w.t, cfg)
	return c
}

// ping fails the test unless both families get through.
func (c *client) ping(t *testing.T) {
	t.Helper()
	for _, to := range []netip.Addr{inner4, inner6} {
		if !c.Ping(to, time.Second) {
			t.Fatalf("no reply from %v", to)
		}
	}
}

// pings sends one a second and returns how many got no reply.
func (c *client) pings(n int) (lost int) {
	for range n {
		if !c.Ping(inner4, time.Second) {
			lost++
			continue
		}
		time.Sleep(time.Second)
	}
	return lost
}

// reach has the network behind a gateway ping the device.
func (g *gateway) reach(c *client, timeout time.Duration) bool {
	got := make(chan struct{}, 1)
	handle := g.tun.Handle(func(p []byte) {
		if src, _, _, _, ok := vpntest.Parse(p); ok && src == c.ip4 {
			select {
			case got <- struct{}{}:
			default:
			}
		}
	})
	defer func() { g.tun.Handle(handle) }()
	g.tun.Inject(vpntest.EchoRequest(inner4, c.ip4, 7, 7, make([]byte, 56)))
	select {
	case <-got:
		return true
	case <-time.After(timeout):
		return false
	}
}

// quiet checks that nothing that a healthy gateway refuses has come in.
func (g *gateway) quiet(t *testing.T) {
	t.Helper()
	s := g.Stats()
	bad := []uint64{s.Forged, s.Replayed, s.BadMAC, s.BadHandshake, s.BadSource, s.BadPacket, s.Malformed, s.UnknownDevice, s.UnknownIndex, s.Expired, s.SendErrors, s.Overflow}
	if i := slices.IndexFunc(bad, func(n uint64) bool { return n != 0 }); i >= 0 {
		t.Errorf("counter %d is %d: %+v", i, bad[i], s)
	}
}
