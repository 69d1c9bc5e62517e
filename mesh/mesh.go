package mesh

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"

	"github.com/hashicorp/memberlist"
	"golang.org/x/sync/errgroup"
)

// Mesh is one member.
type Mesh struct {
	cfg       Config
	self      identity
	boot      uint64 // of this process
	port      *port
	transport *transport
	log       *slog.Logger
	strangers *StrangerLog
	names     []string // of States, sorted
	handlers  map[string]Handler
	merges    map[string]chan struct{} // by state: a token per merge at work
	leaves    chan chan error          // to serf
	prunes    chan string              // names that serf is to forget
	keyring   *memberlist.Keyring      // of serf

	wanted    chan []netip.AddrPort // addresses to dial now
	due       chan struct{}         // buffered 1: look again whom to dial
	joins     chan netip.AddrPort   // addresses for serf
	moved     chan struct{}         // buffered 1: remote data was merged
	told      chan struct{}         // buffered 1: events are queued
	testified chan struct{}         // buffered 1: a witness has answered
	relocated chan struct{}         // buffered 1: serf must start anew

	run   func(func())  // starts a goroutine of Run; set once by Run, called by its goroutines
	ended chan struct{} // closed when Run has returned

	mu      sync.Mutex     // guards the fields below
	addr    netip.AddrPort // at which others reach us
	gossip  uint64         // part of our name in serf: boot, or another one when addr has changed
	state   runState
	stop    context.CancelFunc // ends Run
	leaving bool               // said goodbye: no link is made any more
	peers   map[ID]*peer
	nodes   map[string]gossipNode  // what serf knows, by its names
	who     map[netip.AddrPort]ID  // who was met at an address
	dialing map[netip.AddrPort]int // dials under way
	barred  map[ID]struct{}        // nothing is taken from them
	checks  int                    // calls of Recheck
	events  []Event

	refusals []Refusal           // the oldest first
	booked   map[netip.Addr]bool // in the book when it was last read; replaced, not changed
}

type runState int

const (
	built runState = iota
	running
	closed
)

// New opens the port. It starts nothing. Errors about the port are a
// *PortError.
func New(cfg Config) (*Mesh, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	self, err := newIdentity(cfg.Key)
	if err != nil {
		return nil, err
	}
	boot, err := newBoot()
	if err != nil {
		return nil, fmt.Errorf("draw boot id: %w", err)
	}
	p, err := openPort(cfg.Network, cfg.Listen, cfg.Log)
	if err != nil {
		return nil, err
	}
	m := &Mesh{
		cfg: cfg, self: self, boot: boot, gossip: boot, port: p, log: cfg.Log, strangers: NewStrangerLog(cfg.Log),
		names: slices.Sorted(maps.Keys(cfg.States)), handlers: map[string]Handler{},
		merges: map[string]chan struct{}{}, leaves: make(chan chan error),
		prunes: make(chan string, 64), barred: map[ID]struct{}{},
		wanted: make(chan []netip.AddrPort, 16), due: make(chan struct{}, 1),
		joins: make(chan netip.AddrPort, 64), moved: make(chan struct{}, 1), told: make(chan struct{}, 1),
		testified: make(chan struct{}, 1), relocated: make(chan struct{}, 1),
		ended: make(chan struct{}),
		peers: map[ID]*peer{}, nodes: map[string]gossipNode{},
		who: map[netip.AddrPort]ID{}, dialing: map[netip.AddrPort]int{},
	}
	for _, name := range m.names {
		m.merges[name] = make(chan struct{}, maxMerges)
	}
	if m.keyring, err = memberlist.NewKeyring(nil, cfg.GossipKey[:]); err != nil {
		return nil, errors.Join(fmt.Errorf("gossip key: %w", err), p.close())
	}
	m.addr = cfg.Advertise
	if !m.addr.IsValid() {
		m.addr = netip.AddrPortFrom(m.advertised(), p.number())
	}
	m.transport = newTransport(p, m.addr, label(cfg.Cluster), m.heardFrom)
	p.gate.familiar = m.peerAt
	return m, nil
}

// advertised chooses the address at which others reach us.
func (m *Mesh) advertised() netip.Addr {
	if bound := addrOf(m.port.tcp.Addr()).Addr(); bound.IsValid() && !bound.IsUnspecified() {
		return bound
	}
	if s, _ := m.toward(); s.IsValid() {
		return s
	}
	if s := m.cfg.Network.Source(netip.Addr{}); s.IsValid() {
		return s
	}
	return netip.IPv6Loopback()
}

// toward returns our address toward the first member in the book to which
// there is a way, and whether there are members in it at all.
func (m *Mesh) toward() (s netip.Addr, known bool) {
	if m.cfg.Book == nil {
		return s, false
	}
	for _, a := range m.cfg.Book() {
		known = true
		if s := m.cfg.Network.Source(a.Addr()); s.IsValid() && !s.IsUnspecified() {
			return s, true
		}
	}
	return s, known
}

// Addr returns the address at which others reach us.
// It may change while the mesh runs.
func (m *Mesh) Addr() netip.AddrPort {
	addr, _ := m.place()
	return addr
}

// ID returns our own.
func (m *Mesh) ID() ID { return m.self.id }

// Run works until ctx ends, Close is called or a part fails; then it tells
// the peers that this process stops. It may be called once. The end of ctx is
// no error.
func (m *Mesh) Run(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	m.mu.Lock()
	if m.state != built {
		m.mu.Unlock()
		return errors.New("mesh ran before or is closed")
	}
	m.state, m.stop = running, stop
	m.mu.Unlock()
	defer close(m.ended)

	g, inner := errgroup.WithContext(ctx)
	m.run = func(f func()) { g.Go(func() error { f(); return nil }) }
	g.Go(func() error { return m.tellEvents(inner) })
	g.Go(func() error { return m.runGossip(inner) })
	g.Go(func() error { return m.pulse(inner) })
	g.Go(func() error { return m.reach(inner) })
	g.Go(func() error { return m.spread(inner) })
	g.Go(func() error { return m.follow(inner) })
	for _, name := range m.names {
		g.Go(func() error { return m.push(inner, name) })
	}
	g.Go(func() error { return m.transport.receive(inner) })
	g.Go(func() error {
		return m.port.accept(inner, m.run, func(s *stranger) { m.serve(inner, s) })
	})
	g.Go(func() error { return m.hangUp(inner) })
	err := g.Wait()
	m.transport.drain()
	if ctx.Err() != nil {
		return nil //nolint:nilerr // asked to end, and it did
	}
	return err
}

// hangUp waits for the end, tells the peers and closes the port.
func (m *Mesh) hangUp(ctx context.Context) error {
	<-ctx.Done()
	m.farewell(kindClosing)
	return m.port.close()
}

// Close ends Run and closes the port. It waits for both and may be called
// twice.
func (m *Mesh) Close() error {
	m.mu.Lock()
	was, stop := m.state, m.stop
	if was == built {
		m.state = closed
		close(m.ended)
	}
	m.mu.Unlock()
	if was == running {
		stop()
		<-m.ended
	}
	return m.port.close()
}

// Leave says goodbye for good: to the peers on our links, which see us as
// Left at once, and to the others through serf. It waits for that, about two
// seconds, or for ctx. Afterwards no link is made; Close ends the rest.
func (m *Mesh) Leave(ctx context.Context) error {
	m.farewell(kindLeaving)
	m.mu.Lock()
	running := m.state == running
	m.mu.Unlock()
	if !running {
		return nil
	}
	left := make(chan error, 1)
	select {
	case m.leaves <- left:
	case <-m.ended:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-left:
		if err != nil {
			return fmt.Errorf("leave: %w", err)
		}
		return nil
	case <-m.ended:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// farewell ends all links with a last frame of kind k, waiting for at most
// 250 ms. No link is made afterwards.
func (m *Mesh) farewell(k kind) {
	m.mu.Lock()
	m.leaving = true
	var links []*link
	for _, p := range m.peers {
		if p.link != nil {
			links = append(links, p.link)
		}
	}
	m.mu.Unlock()
	for _, l := range links {
		l.farewell(k)
	}
	patience, cancel := context.WithTimeout(context.Background(), farewellTimeout)
	defer cancel()
	for _, l := range links {
		select {
		case <-l.done:
		case <-patience.Done():
			l.close(errFarewell)
		}
	}
}

// wake puts a token into a channel that is buffered by one.
func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
