package mesh

import (
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"
)

// gossiper is memberlist as [Mesh] runs it, on a transport without a network.
type gossiper struct {
	t    *transport
	gate gate
	list *memberlist.Memberlist
}

func newGossiper(tb testing.TB) *gossiper {
	tb.Helper()
	keyring, err := memberlist.NewKeyring(nil, make([]byte, 32))
	if err != nil {
		tb.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	m := &Mesh{
		log: log, self: identity{id: ID{1}}, gossip: 2, addr: netip.MustParseAddrPort("192.0.2.1:7946"), keyring: keyring,
		peers: map[ID]*peer{}, nodes: map[string]gossipNode{}, who: map[netip.AddrPort]ID{},
	}
	g := &gossiper{t: newTransport(&port{network: System, udp: noPackets{}}, m.addr, label(m.cfg.Cluster), m.heardFrom)}
	m.transport = g.t
	cfg := m.gossipConfig(nil).MemberlistConfig
	cfg.Name = nodeName(m.self.id, m.gossip)
	if g.list, err = memberlist.Create(cfg); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = g.list.Shutdown() })
	return g
}

// noPackets is a UDP socket to nowhere.
type noPackets struct{ net.PacketConn }

func (noPackets) WriteTo(b []byte, _ net.Addr) (int, error) { return len(b), nil }

// give is a stream from a stranger that says b and waits for the end.
func (g *gossiper) give(b []byte) {
	ours, theirs := net.Pipe()
	s := &stranger{Conn: ours, from: netip.MustParseAddrPort("198.51.100.1:1"), gate: &g.gate}
	g.gate.enter(s)
	go func() {
		_, _ = theirs.Write(b)
		theirs.Close()
	}()
	if first, err := s.peek(); err != nil || first != hasLabel {
		s.Close()
		return
	}
	g.t.take(s)
	for {
		g.gate.mu.Lock()
		n := len(g.gate.strangers)
		g.gate.mu.Unlock()
		if n == 0 {
			return
		}
		time.Sleep(20 * time.Microsecond)
	}
}

// What memberlist reads from who has no key changes nothing and takes no more
// memory than there are bytes.
func FuzzGossipOfStrangers(f *testing.F) {
	head := append([]byte{hasLabel, 11}, label([16]byte{})...)
	f.Add(head)
	f.Add(append(append([]byte(nil), head...), 10, 0, 0xff, 0xff, 0xff))           // a state of 16 MiB
	f.Add(append(append([]byte(nil), head...), 10, 0, 0, 0, 16, 1, 0, 0, 0, 0))    // encrypted, too short
	f.Add(append(append([]byte(nil), head...), 9, 0x82))                           // compressed, unencrypted
	f.Add(append(append([]byte(nil), head...), 6, 0x83, 0xa5, 'N', 'o', 'd', 'e')) // a push of nodes, unencrypted
	f.Add(append(append([]byte(nil), head...), append(head, 10, 0, 0, 0, 0)...))   // a label in a label
	f.Add([]byte{hasLabel, 0})
	f.Add([]byte{hasLabel, 255, 1, 2, 3})
	f.Add([]byte{0x16, 3, 1})
	g := newGossiper(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 64<<10 {
			return
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		g.give(b)
		if len(b) > 0 && len(b) < maxPacket {
			g.t.packets <- &memberlist.Packet{
				Buf: append([]byte(nil), b...), From: &net.UDPAddr{IP: net.IPv4(198, 51, 100, 1)},
				Timestamp: time.Now(),
			}
		}
		runtime.ReadMemStats(&after)
		if n := after.TotalAlloc - before.TotalAlloc; n > 1<<20+16*uint64(len(b)) {
			t.Errorf("%d bytes for %d", n, len(b))
		}
		if n := g.list.NumMembers(); n != 1 {
			t.Errorf("%d members", n)
		}
	})
}
