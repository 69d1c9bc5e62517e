package node

import (
	"crypto/rand"
	"encoding/binary"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"gatemesh/cluster"
	"gatemesh/vpn"
	"gatemesh/vpn/vpntest"
)

// BenchmarkSucceed is the death of a gateway with 10,000 devices, as its one heir lives through it: the claims, their
// delta for the others, and the takeover of all sessions with a message to each device. One op is all of it.
func BenchmarkSucceed(b *testing.B) {
	const devices = 10_000
	log := slog.New(slog.DiscardHandler)
	self, dead := cluster.Node{1}, cluster.Node{2}
	store, err := cluster.Open(cluster.Config{Node: self, Log: log})
	if err != nil {
		b.Fatal(err)
	}
	defer store.Close()
	var keys [devices]cluster.Key
	for i := range keys {
		_, keys[i] = vpntest.NewKey()
	}
	for b.Loop() {
		b.StopTimer()
		internet := vpntest.NewInternet(1)
		private, _ := vpntest.NewKey()
		g, err := vpn.New(vpn.Config{
			PrivateKey: private, Bind: internet.Bind(netip.MustParseAddr("10.0.0.1")), TUN: vpntest.NewTUN(0),
			Lookup: func(k vpn.Key) (vpn.Device, bool) { return vpn.Device{Key: k}, true }, Log: log,
		})
		if err != nil {
			b.Fatal(err)
		}
		g.Allow(time.Now().Add(time.Hour))
		n := &Node{self: self, store: store, log: log}
		p := &parts{
			sessions: cluster.NewSessions(self, 1, log), steering: newSteering(self, 1), orphans: newOrphans(), exports: newExports(),
			forwards: newForwards(), stances: map[cluster.Key]stance{}, places: newPlaces(), vpn: g,
		}
		before := p.sessions.Digest()
		sessions := make([]cluster.Session, devices)
		for i, k := range keys {
			at := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), 4000)
			sessions[i] = cluster.Session{Device: k, Owner: dead, Endpoint: at, Handshake: time.Now(), Index: uint32(i + 1)}
			if _, err := g.Import(export(g.Incarnation(), k, uint32(i+1), uint64(i+1), at)); err != nil {
				b.Fatal(err)
			}
		}
		b.StartTimer()
		n.succeed(p, sessions, false)
		for _, err := range p.sessions.Delta(before) {
			if err != nil {
				b.Fatal(err)
			}
		}
		b.StopTimer()
		if got := len(p.sessions.OwnedBy(self)); got != devices || len(p.stances) != 0 {
			b.Fatalf("%d claimed, %d called", got, len(p.stances))
		}
		g.Close()
		b.StartTimer()
	}
	b.ReportMetric(float64(b.Elapsed().Milliseconds())/float64(b.N), "ms/10k")
}

// export is a session of one keypair, in the engine's format.
func export(to uint64, device cluster.Key, index uint32, number uint64, at netip.AddrPort) []byte {
	le := binary.LittleEndian
	b := append(make([]byte, 0, 195), 1, 1)
	b = le.AppendUint64(b, to)
	b = le.AppendUint64(b, 99)
	b = le.AppendUint64(b, number)
	b = append(b, device[:]...)
	b = append(b, make([]byte, 24)...)
	a := at.Addr().As4()
	b = append(append(b, 4), a[:]...)
	b = append(b, make([]byte, 12)...)
	b = le.AppendUint16(b, at.Port())
	var secrets [64]byte
	_, _ = rand.Read(secrets[:]) // never fails, crypto/rand
	b = append(b, secrets[:]...)
	b = le.AppendUint32(b, index)
	b = le.AppendUint32(b, index)
	b = le.AppendUint32(b, 1000)
	b = append(b, 0, 1)
	b = le.AppendUint64(b, 1<<55)
	return le.AppendUint64(b, 0)
}
