package meshtest

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"
)

// Network joins hosts. Its methods may be called from several goroutines, and
// take effect for what is on its way, too.
type Network struct {
	mu      sync.Mutex // guards everything below and all sockets; never held while waiting
	rng     *rand.Rand
	latency time.Duration
	jitter  time.Duration
	loss    float64
	hosts   map[netip.Addr]*Host
	cuts    map[direction]bool
	gone    map[netip.Addr]bool // vanished
	pipes   map[*pipe]bool
	lan     lan
	dials   int // that reached a listener
}

type direction struct{ from, to netip.Addr }

// NewNetwork returns a network without hosts, on which everything takes half a
// millisecond and nothing is lost. The seed is that of loss and jitter.
func NewNetwork(seed uint64) *Network {
	return &Network{
		rng: rand.New(rand.NewPCG(seed, 0)), latency: 500 * time.Microsecond,
		hosts: map[netip.Addr]*Host{}, cuts: map[direction]bool{}, gone: map[netip.Addr]bool{},
		pipes: map[*pipe]bool{}, lan: newLANState(),
	}
}

// Latency makes everything take d, and datagrams up to jitter more.
func (n *Network) Latency(d, jitter time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.latency, n.jitter = d, jitter
}

// Loss makes datagrams and multicasts get lost with probability p.
func (n *Network) Loss(p float64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.loss = p
}

// Dials returns how many connections were made so far.
func (n *Network) Dials() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.dials
}

// Host starts a host at addr: one process's view of the network. A host that
// was there before is killed.
func (n *Network) Host(addr netip.Addr) *Host {
	n.mu.Lock()
	defer n.mu.Unlock()
	if old := n.hosts[addr]; old != nil {
		n.kill(old)
	}
	h := &Host{net: n, addr: addr, port: 40000, tcp: map[uint16]*listener{}, udp: map[uint16]*packets{}}
	n.hosts[addr] = h
	return h
}

// Cut lets nothing through from the hosts of a to those of b and back.
func (n *Network) Cut(a, b []netip.Addr) {
	n.CutOneWay(a, b)
	n.CutOneWay(b, a)
}

// CutOneWay lets nothing through from the hosts of a to those of b.
func (n *Network) CutOneWay(a, b []netip.Addr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, from := range a {
		for _, to := range b {
			n.cuts[direction{from, to}] = true
		}
	}
	n.wakeAll()
}

// Heal undoes Cut and CutOneWay, both ways.
func (n *Network) Heal(a, b []netip.Addr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, from := range a {
		for _, to := range b {
			delete(n.cuts, direction{from, to})
			delete(n.cuts, direction{to, from})
		}
	}
	n.wakeAll()
}

// Kill ends the process on a host as an operating system would: its sockets
// are closed, and its peers are told by resets. A new one begins with Host.
func (n *Network) Kill(addr netip.Addr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if h := n.hosts[addr]; h != nil {
		n.kill(h)
	}
}

// Move gives a host another address, which nobody has. Its process lives on;
// what it listens on listens there, and its connections are dead, of which
// neither side is told.
func (n *Network) Move(from, to netip.Addr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	h := n.hosts[from]
	if h == nil || n.hosts[to] != nil {
		panic(fmt.Sprintf("move %v to %v", from, to))
	}
	delete(n.hosts, from)
	n.hosts[to], h.addr = h, to
	for p := range n.pipes {
		p.stale = p.stale || p.from == h || p.to == h
	}
}

// Vanish takes a host off the network without a word: nothing reaches it or
// comes from it. It does not notice.
func (n *Network) Vanish(addr netip.Addr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.gone[addr] = true
	n.wakeAll()
}

// Return undoes Vanish.
func (n *Network) Return(addr netip.Addr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.gone, addr)
	n.wakeAll()
}

// kill ends h. n.mu is held.
func (n *Network) kill(h *Host) {
	h.dead = true
	for _, l := range h.tcp {
		l.close()
	}
	for _, p := range h.udp {
		p.close()
	}
	for p := range n.pipes {
		if p.from == h || p.to == h {
			p.reset(h)
		}
	}
	n.lan.drop(h)
	delete(n.hosts, h.addr)
}

// passes says whether something gets from one host to the other now. n.mu is
// held.
func (n *Network) passes(from, to netip.Addr) bool {
	return !n.cuts[direction{from, to}] && !n.gone[from] && !n.gone[to]
}

// lost draws whether one datagram is lost. n.mu is held.
func (n *Network) lost() bool { return n.loss > 0 && n.rng.Float64() < n.loss }

// delay draws how long one datagram takes. n.mu is held.
func (n *Network) delay() time.Duration {
	d := n.latency
	if n.jitter > 0 {
		d += time.Duration(n.rng.Int64N(int64(n.jitter)))
	}
	return d
}

// wakeAll makes all streams look again at what gets through. n.mu is held.
func (n *Network) wakeAll() {
	for p := range n.pipes {
		p.wake()
	}
}

// Addr returns the address 10.0.x.y of the i-th host, counted from 1.
func Addr(i int) netip.Addr {
	if i < 1 || i > 0xfffe {
		panic(fmt.Sprintf("no host %d", i))
	}
	return netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
}

// Break resets all connections between two hosts. Both processes live on.
func (n *Network) Break(a, b netip.Addr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for p := range n.pipes {
		if p.from.addr == a && p.to.addr == b || p.from.addr == b && p.to.addr == a {
			p.reset(p.from)
		}
	}
}
