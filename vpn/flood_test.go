package vpn_test

import (
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"gatemesh/vpn"
	"gatemesh/vpn/vpntest"
)

// A bubble knows no CPU time, so a worker is made to sleep for each device it looks up: the gateways here do
// 1 / lookupTime = 500 handshakes per second, and floods are three times as many.
const (
	lookupTime = 2 * time.Millisecond
	floodRate  = 1500
)

func slow(cfg *vpn.Config) {
	lookup := cfg.Lookup
	cfg.Lookup = func(k vpn.Key) (vpn.Device, bool) {
		time.Sleep(lookupTime)
		return lookup(k)
	}
}

// attacker floods a gateway in a bubble.
type attacker struct {
	w       *world
	to      netip.AddrPort
	forger  *vpntest.Forger
	sources []netip.AddrPort
	prove   bool // answers cookies

	mu      sync.Mutex // guards the fields below
	sent    map[netip.AddrPort][]byte
	cookies map[netip.AddrPort][16]byte
	stop    chan struct{}
	done    chan struct{}
}

// attack begins a flood, which ends with stop or the test. Datagrams to its sources are read from the wire.
func (w *world) attack(to netip.AddrPort, named []vpn.Key, prove bool, sources ...netip.AddrPort) *attacker {
	a := &attacker{
		w: w, to: to, forger: vpntest.NewForger(w.public, named), sources: sources, prove: prove,
		sent: map[netip.AddrPort][]byte{}, cookies: map[netip.AddrPort][16]byte{}, stop: make(chan struct{}), done: make(chan struct{}),
	}
	w.net.Tap(a.hear)
	go a.run()
	return a
}

func (a *attacker) run() {
	defer close(a.done)
	const burst = 30
	tick := time.NewTicker(burst * time.Second / floodRate)
	defer tick.Stop()
	for n := 0; ; {
		for range burst {
			from := a.sources[n%len(a.sources)]
			n++
			a.mu.Lock()
			m := a.forger.Next(a.cookies[from])
			a.sent[from] = m
			a.mu.Unlock()
			a.w.net.Send(from, a.to, m)
		}
		select {
		case <-tick.C:
		case <-a.stop:
			return
		}
	}
}

// hear is called with everything that is sent.
func (a *attacker) hear(d vpntest.Datagram) {
	if d.Type() != 3 || !a.prove || d.From != a.to {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if m := a.sent[d.To]; m != nil {
		if cookie, ok := a.forger.Cookie(d.Payload, m); ok {
			a.cookies[d.To] = cookie
		}
	}
}

func (a *attacker) end() {
	close(a.stop)
	<-a.done
}

// addresses are n sources: the first so many hosts of a network in turn, with as many ports each as it takes.
func addresses(first netip.Addr, hosts, n int) (list []netip.AddrPort) {
	base := first.As4()
	for i := range n {
		host := base
		host[2] += byte(i % hosts >> 8)
		host[3] += byte(i % hosts)
		list = append(list, netip.AddrPortFrom(netip.AddrFrom4(host), uint16(1000+i/hosts)))
	}
	return list
}

// TestFlood has devices connect and others rekey while somebody floods their gateway.
func TestFlood(t *testing.T) {
	const connected, newcomers = 10, 25
	far, nat := netip.MustParseAddr("198.51.0.0"), netip.MustParseAddr("203.0.0.200")
	for _, c := range []struct {
		name    string
		known   bool
		prove   bool
		sources []netip.AddrPort
		natted  bool // the newcomers are behind the attacker's address
	}{
		{"unknown keys, one address", false, false, addresses(far, 1, 1), false},
		{"unknown keys, many addresses", false, false, addresses(far, 4000, 4000), false},
		{"unknown keys, 3000 ports of one address, cookies", false, true, addresses(far, 1, 3000), false},
		{"known keys, 40 addresses of 10 ports, cookies", true, true, addresses(far, 40, 400), false},
		{"known keys, behind one NAT", true, true, addresses(nat, 1, 1), true},
		{"known keys, 300 ports of one NAT", true, true, addresses(nat, 1, 300), true},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				g := w.gateway("192.0.2.1", slow)
				var old, young []*client
				for i := range connected {
					old = append(old, w.client(i, g.addr))
					old[i].ping(t)
				}
				time.Sleep(vpn.RekeyAfterTime - 10*time.Second)
				var named []vpn.Key
				for i := range newcomers {
					young = append(young, w.client(100+i, g.addr, func(cfg *vpntest.ClientConfig, _ *vpn.Device) {
						if c.natted {
							cfg.Bind, cfg.Port = w.net.Bind(nat), uint16(40000+i)
						}
					}))
				}
				if c.known {
					for _, d := range append(old, young...) {
						named = append(named, d.key)
					}
				}
				a := w.attack(g.addr, named, c.prove, c.sources...)
				defer a.end()
				time.Sleep(2 * time.Second)

				before := g.Stats().ResponsesSent
				var wg sync.WaitGroup
				for i, d := range old { // they rekey in this time
					wg.Go(func() {
						if lost := d.pings(20); lost != 0 {
							t.Errorf("connected device %d has lost %d pings", i, lost)
						}
					})
				}
				for i, d := range young {
					wg.Go(func() {
						time.Sleep(time.Duration(i) * 200 * time.Millisecond)
						if !d.Ping(inner4, 10*time.Second) {
							t.Errorf("new device %d is not served", i)
						}
					})
				}
				wg.Wait()
				for _, m := range w.messages(g.addr.Addr(), 3) {
					if slices.ContainsFunc(old, func(d *client) bool { return d.addr == m.To }) {
						t.Errorf("a connected device at %v was asked for a cookie", m.To)
					}
				}
				s := g.Stats()
				if n := s.ResponsesSent - before; n < connected+newcomers {
					t.Errorf("%d responses for %d devices", n, connected+newcomers)
				}
				if s.CookiesSent == 0 || s.UnderLoad < 10*time.Second {
					t.Errorf("%d cookies in %v under load", s.CookiesSent, s.UnderLoad)
				}
				t.Logf("%v", flooded(s))
			})
		})
	}
}

// flooded is what a flood shows in the counters.
func flooded(s vpn.Stats) string {
	return fmt.Sprintf("initiations %d, opened %d, cookies %d held %d, bad mac2 %d, replaced %d, dropped %d, under load %v",
		s.InitiationsReceived, s.BadHandshake+s.UnknownDevice, s.CookiesSent, s.CookiesHeld, s.BadCookie, s.Replaced, s.QueueFull, s.UnderLoad)
}
