package mesh

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log"
	"net/netip"
	"strconv"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/hashicorp/serf/serf"
)

// Names of tags in serf.
const (
	tagName = "name"
	tagAddr = "addr"
)

// gossipStatus is what serf knows of a member, the better the greater.
type gossipStatus uint8

const (
	gossipUnknown gossipStatus = iota
	gossipLeft
	gossipFailed
	gossipAlive
)

// gossipNode is one name in serf: one process of a member.
type gossipNode struct {
	id     ID
	boot   uint64
	status gossipStatus
}

// nodeName is how a process is called in serf. It is another one at each
// start: a name that comes back with another address is taken for a conflict,
// and its old state would outlive the process.
func nodeName(id ID, boot uint64) string {
	return fmt.Sprintf("%s-%016x", id, boot)
}

// parseNodeName is the inverse of nodeName. It takes no other form.
func parseNodeName(s string) (ID, uint64, bool) {
	if len(s) != 32+1+16 || s[32] != '-' {
		return ID{}, 0, false
	}
	id, ok := parseID(s[:32])
	boot, err := strconv.ParseUint(s[33:], 16, 64)
	if !ok || err != nil || nodeName(id, boot) != s {
		return ID{}, 0, false
	}
	return id, boot, true
}

// label keeps clusters apart that share a network (memberlist's Label, at
// most 255 bytes, which is also authenticated).
func label(cluster [16]byte) string { return "gm-" + hex.EncodeToString(cluster[:4]) }

// gossipConfig is serf as it suits us: for membership and nothing else.
func (m *Mesh) gossipConfig(events chan<- serf.Event) *serf.Config {
	addr, boot := m.place()
	m.transport.advertise = addr
	logger := log.New(&gossipLog{log: m.log}, "", 0)
	ml := memberlist.DefaultLANConfig()
	ml.Transport = m.transport
	ml.Label = label(m.cfg.Cluster)
	ml.BindPort = int(addr.Port())
	ml.Keyring = m.keyring
	ml.ProbeInterval = 500 * time.Millisecond
	ml.ProbeTimeout = 250 * time.Millisecond
	ml.SuspicionMult = 4
	ml.TCPTimeout = 5 * time.Second
	ml.EnableCompression = false // work for a stranger's bytes, and little gain
	ml.DNSConfigPath = ""
	ml.Alive = aliveFilter{m}
	ml.Logger = logger

	c := serf.DefaultConfig()
	c.NodeName = nodeName(m.self.id, boot)
	c.Tags = map[string]string{tagName: m.cfg.Name, tagAddr: addr.String()}
	c.EventCh = events
	c.MemberlistConfig = ml
	c.Logger = logger
	c.LogOutput = nil
	c.EnableNameConflictResolution = false // it shuts down the one that came back
	c.DisableCoordinates = true            // heartbeats measure round trips
	c.ReconnectInterval = 5 * time.Second
	c.ReconnectTimeoutOverride = supersededTimeout{m}
	c.LeavePropagateDelay = time.Second
	c.BroadcastTimeout = 2 * time.Second
	return c
}

// aliveFilter keeps out names that are not ours to give, and those of members
// that are barred.
type aliveFilter struct{ m *Mesh }

// NotifyAlive implements [memberlist.AliveDelegate]. memberlist calls it under
// its lock, see ReconnectTimeout.
func (f aliveFilter) NotifyAlive(n *memberlist.Node) error {
	id, _, ok := parseNodeName(n.Name)
	if !ok {
		return errors.New("malformed name")
	}
	if f.m.isBarred(id) {
		return ErrEvicted
	}
	return nil
}

// supersededTimeout lets serf forget processes whose successor is there.
type supersededTimeout struct{ m *Mesh }

// ReconnectTimeout implements [serf.ReconnectTimeoutOverrider]. serf calls it
// under its lock, so that ours is never held while serf is called.
func (o supersededTimeout) ReconnectTimeout(member *serf.Member, timeout time.Duration) time.Duration {
	id, boot, ok := parseNodeName(member.Name)
	if !ok {
		return 0
	}
	o.m.mu.Lock()
	defer o.m.mu.Unlock()
	p := o.m.peers[id]
	if id == o.m.self.id || p != nil && (p.serf == gossipAlive || p.link != nil) && p.gossip != 0 && p.gossip != boot {
		return time.Minute
	}
	return timeout
}

// runGossip works as a node of serf until ctx ends, as another one from when
// our address has changed.
func (m *Mesh) runGossip(ctx context.Context) error {
	release := context.AfterFunc(ctx, m.transport.stop)
	defer release()
	for ctx.Err() == nil {
		if err := m.gossipAsOne(ctx); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// gossipAsOne works as one node of serf until ctx ends or our address changes.
func (m *Mesh) gossipAsOne(ctx context.Context) error {
	m.forgetGossip()
	// serf sends events under its locks. The buffer is for those that come
	// after we have stopped to listen.
	events := make(chan serf.Event, 1024)
	s, err := serf.Create(m.gossipConfig(events))
	if err != nil {
		return fmt.Errorf("start serf: %w", err)
	}
	// One goroutine calls serf: its Join holds a lock while it dials.
	asked := make(chan struct{})
	m.run(func() {
		defer close(asked)
		for {
			select {
			case a := <-m.joins:
				m.join(s, a)
			case left := <-m.leaves:
				left <- s.Leave()
			case name := <-m.prunes:
				if err := s.RemoveFailedNodePrune(name); err != nil {
					m.log.Debug("serf did not forget", "name", name, "err", err)
				}
			case <-m.relocated:
				return
			case <-ctx.Done():
				return
			}
		}
	})
	for {
		select {
		case e := <-events:
			if e, ok := e.(serf.MemberEvent); ok {
				m.onGossip(e)
			}
			continue
		case <-asked:
		}
		break
	}
	if err := s.Shutdown(); err != nil {
		return fmt.Errorf("stop serf: %w", err)
	}
	return nil
}

// forgetGossip drops what another node of ours knew: a new one begins alone.
func (m *Mesh) forgetGossip() {
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.nodes)
	for _, p := range m.peers {
		p.serf = gossipUnknown
	}
}

// join makes serf exchange its state with the member at a.
func (m *Mesh) join(s *serf.Serf, a netip.AddrPort) {
	if m.gossipKnows(a) {
		return
	}
	// memberlist takes an address with a zone for a name.
	if _, err := s.Join([]string{netip.AddrPortFrom(a.Addr().WithZone(""), a.Port()).String()}, true); err != nil {
		m.log.Debug("serf did not join", "addr", a, "err", err)
	}
}

// joinGossip queues the join of a peer that we reached, if serf does not see
// it alive.
func (m *Mesh) joinGossip(l *link) {
	m.mu.Lock()
	n := m.nodes[nodeName(l.id, l.hello.gossip())]
	m.mu.Unlock()
	if n.status == gossipAlive {
		return
	}
	select {
	case m.joins <- l.addr:
	default:
	}
}

// joinMissing queues the join of all peers that we reached and that serf does
// not see.
func (m *Mesh) joinMissing() {
	m.prune()
	for _, l := range m.links() {
		if l.dialer == m.self.id {
			m.joinGossip(l)
		}
	}
}

// gossipKnows says whether serf sees the process that is linked at a.
func (m *Mesh) gossipKnows(a netip.AddrPort) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.peers[m.who[a]]
	return p != nil && p.link != nil && m.nodes[nodeName(p.id, p.gossip)].status == gossipAlive
}

// onGossip takes in what serf says.
func (m *Mesh) onGossip(e serf.MemberEvent) {
	var closing []*link
	m.mu.Lock()
	for _, member := range e.Members {
		id, boot, ok := parseNodeName(member.Name)
		if !ok || id == m.self.id {
			continue
		}
		status := gossipUnknown
		switch e.Type {
		case serf.EventMemberJoin, serf.EventMemberUpdate:
			status = gossipAlive
		case serf.EventMemberFailed:
			status = gossipFailed
		case serf.EventMemberLeave:
			status = gossipLeft
		}
		if l := m.learn(gossipNode{id, boot, status}, member); l != nil {
			closing = append(closing, l)
		}
	}
	m.mu.Unlock()
	for _, l := range closing {
		l.close(errGoodbye)
	}
	wake(m.due)
}

// learn records what serf says of one node. It returns a link to close.
// m.mu is held.
func (m *Mesh) learn(n gossipNode, member serf.Member) *link {
	if n.status == gossipUnknown {
		delete(m.nodes, member.Name)
	} else {
		m.nodes[member.Name] = n
	}
	p := m.peer(n.id)
	if p == nil {
		return nil
	}
	p.serf = gossipUnknown
	known := false
	for _, other := range m.nodes {
		if other.id == n.id {
			known, p.serf = true, max(p.serf, other.status)
		}
	}
	if n.status == gossipAlive {
		m.learnAddr(p, member)
	}
	var l *link
	// A link says more than serf: only its last process can leave for it.
	if p.serf == gossipLeft && (p.link == nil || p.gossip == n.boot) {
		if l = m.fall(p, Left); l == nil {
			p.left = true
		}
	}
	p.touch(time.Now())
	if !known && p.link == nil && !p.up && !p.down {
		delete(m.peers, n.id)
	}
	return l
}

// learnAddr takes the address and name from the tags of a member. m.mu is
// held.
func (m *Mesh) learnAddr(p *peer, member serf.Member) {
	if len(p.name) == 0 {
		p.name = clip(member.Tags[tagName])
	}
	a, err := netip.ParseAddrPort(member.Tags[tagAddr])
	if err != nil || a.Addr().Zone() != "" {
		ip, ok := netip.AddrFromSlice(member.Addr)
		if !ok {
			return
		}
		a = netip.AddrPortFrom(ip.Unmap(), member.Port)
	}
	if p.link == nil {
		p.addr = a
		if p.down {
			m.rouse(p, time.Now())
		} else {
			p.next = time.Time{} // it is there: dial by the rules of a new one
		}
	}
	p.learn(a, false)
}
