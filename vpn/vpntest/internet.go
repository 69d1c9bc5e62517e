package vpntest

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"
)

const firstPort = 49152 // of those that Open(0) takes

// Internet delivers datagrams between the sockets opened on its hosts.
//
//	Bind.Send ─► tap ─► cut? ─► lost? ─► doubled? ─► delayed? ─► socket at the destination, or nowhere
type Internet struct {
	mu       sync.Mutex // guards the fields below
	random   *rand.Rand
	sockets  map[netip.AddrPort]*Bind
	faults   Faults
	cut      map[[2]netip.Addr]bool
	down     map[netip.Addr]bool
	taps     []func(Datagram)
	nextPort uint16
}

// Faults is what an Internet does to datagrams. The zero value delivers each at once.
type Faults struct {
	Loss      float64       // share of datagrams lost
	Duplicate float64       // share delivered twice
	Reorder   float64       // share delayed by up to Jitter, so that later ones overtake them
	Latency   time.Duration // of all
	Jitter    time.Duration // of the reordered
}

// Datagram is one UDP datagram on its way.
type Datagram struct {
	From, To netip.AddrPort
	Payload  []byte
}

// Type is the WireGuard message type: 1 initiation, 2 response, 3 cookie reply, 4 transport.
func (d Datagram) Type() int {
	if len(d.Payload) == 0 {
		return 0
	}
	return int(d.Payload[0])
}

// NewInternet returns an Internet whose faults are drawn from that seed.
func NewInternet(seed uint64) *Internet {
	return &Internet{
		random:   rand.New(rand.NewPCG(seed, 0)),
		sockets:  make(map[netip.AddrPort]*Bind),
		cut:      make(map[[2]netip.Addr]bool),
		down:     make(map[netip.Addr]bool),
		nextPort: firstPort,
	}
}

// SetFaults changes what happens to datagrams from now on.
func (n *Internet) SetFaults(f Faults) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.faults = f
}

// Cut stops or restores delivery between two hosts, both ways.
func (n *Internet) Cut(a, b netip.Addr, cut bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cut[[2]netip.Addr{a, b}] = cut
	n.cut[[2]netip.Addr{b, a}] = cut
}

// Down stops or restores delivery from and to a host.
func (n *Internet) Down(host netip.Addr, down bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.down[host] = down
}

// Tap calls fn for each datagram that is sent, before faults. The payload is fn's own. fn must not block and must not
// call the Internet.
func (n *Internet) Tap(fn func(Datagram)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.taps = append(n.taps, fn)
}

// Send sends a datagram from any address, a foreign one too.
func (n *Internet) Send(from, to netip.AddrPort, payload []byte) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, tap := range n.taps {
		tap(Datagram{from, to, slices.Clone(payload)})
	}
	if n.cut[[2]netip.Addr{from.Addr(), to.Addr()}] || n.down[from.Addr()] || n.down[to.Addr()] || n.chance(n.faults.Loss) {
		return
	}
	copies := 1
	if n.chance(n.faults.Duplicate) {
		copies = 2
	}
	for i := range copies {
		d := Datagram{from, to, slices.Clone(payload)}
		// The stock device makes one session twice when two of its workers meet one response at the same moment, so a
		// doubled datagram comes a little later.
		delay := n.faults.Latency + time.Duration(i)*time.Millisecond
		if n.faults.Jitter > 0 && n.chance(n.faults.Reorder) {
			delay += time.Duration(n.random.Int64N(int64(n.faults.Jitter)))
		}
		if delay > 0 {
			time.AfterFunc(delay, func() { n.deliver(d) })
		} else if socket := n.sockets[to]; socket != nil {
			socket.put(d)
		}
	}
}

func (n *Internet) deliver(d Datagram) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if socket := n.sockets[d.To]; socket != nil && !n.down[d.To.Addr()] {
		socket.put(d)
	}
}

// chance is under mu. It draws nothing when p is 0.
func (n *Internet) chance(p float64) bool { return p > 0 && n.random.Float64() < p }
