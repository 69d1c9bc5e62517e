package vpn

import (
	"net/netip"
	"testing"
	"time"

	"gatemesh/vpn/vpntest"
)

// promoted is a session at b, whose current keys, which the device has just begun to use, are older than the previous
// ones, which were taken over. far is the device's end of these.
func promoted(t *testing.T, age time.Duration) (a, b *Gateway, q *peer, far *keypair) {
	t.Helper()
	a, b, p, far := exporter(t)
	q = b.adopt(b.newHeir(Device{Key: p.key, Addresses: p.addresses}))
	next, _ := fresh(t, b, q, age, false)
	mustImport(t, b, mustExport(t, a, b, p.key))
	if err := b.TakeOver(p.key, deviceAddr); err != nil {
		t.Fatal(err)
	}
	b.confirm(next, newEndpoint(&vpntest.Endpoint{AddrPort: deviceAddr}))
	if q.current.Load() != next || q.previous == nil {
		t.Fatal("not the state that was wanted")
	}
	return a, b, q, far
}

// An export has the current keys first and no younger ones behind them.
func TestExportLeavesYoungerKeysOut(t *testing.T) {
	_, b, q, _ := promoted(t, 100*time.Millisecond)
	c := heirOf(t, new([]Device))
	c.cfg.Lookup = b.cfg.Lookup
	mustImport(t, c, mustExport(t, b, c, q.key))
	if h := c.vault.take(q.key); h.n != 1 || h.pairs[0].local != q.current.Load().local {
		t.Errorf("held: %d keypairs", h.n)
	}
}

// When the current keys end before the previous ones, these go on alone: they are heard, taken over again and exported.
func TestPreviousKeysOutliveTheCurrentOnes(t *testing.T) {
	a, b, q, far := promoted(t, 100*time.Second)
	previous := q.previous
	if b.tick(q, b.now()+RejectAfterTime-50*time.Second); q.current.Load() != previous || q.previous != nil {
		t.Fatalf("current %p, previous %p, want %p alone", q.current.Load(), q.previous, previous)
	}
	if b.Count() != 1 {
		t.Errorf("%d sessions", b.Count())
	}
	m, _ := far.sealer.seal(make([]byte, keepaliveSize), 0)
	if !b.receiveOne(m, deviceAddr) {
		t.Error("a message under them was not accepted")
	}
	mustImport(t, b, mustExport(t, a, b, q.key))
	if err := b.TakeOver(q.key, netip.AddrPort{}); err != nil {
		t.Error(err)
	}
	if b.tick(q, b.now()+RejectAfterTime); q.current.Load() != nil || b.Count() != 0 {
		t.Errorf("%d sessions after their end", b.Count())
	}
}

// What was left of a device's earlier state neither ends nor hinders a session that is taken over.
func TestTakeOverBeginsAnew(t *testing.T) {
	a, b, p, _ := exporter(t)
	q := b.adopt(b.newHeir(Device{Key: p.key, Addresses: p.addresses}))
	q.timers.erase.Store(int64(b.now() + 5*time.Second)) // of keys that ended long ago
	q.timers.retransmit.Store(int64(b.now() + time.Second))
	q.target = newEndpoint(&vpntest.Endpoint{AddrPort: netip.MustParseAddrPort("198.51.100.1:1")})
	mustImport(t, b, mustExport(t, a, b, p.key))
	if err := b.TakeOver(p.key, deviceAddr); err != nil {
		t.Fatal(err)
	}
	if left := time.Duration(q.timers.erase.Load()) - b.now(); left < eraseAfter-time.Minute {
		t.Errorf("the session ends in %v", left)
	}
	if q.target != nil || q.timers.retransmit.Load() != 0 {
		t.Errorf("the device is still called at %v", q.target.addr)
	}
	b.renew(q, b.now())
	if r, ok := b.requests.take(); !ok || r.peer != q {
		t.Error("no new keys are asked for")
	}
}

// Mute ends what Initiate has begun and what still waits for a worker, also after Unmute.
func TestMuteEndsCalls(t *testing.T) {
	g := idle(t)
	p, _ := live(t, g, netip.MustParseAddr("10.0.0.9"))
	g.Initiate(p.key, netip.MustParseAddrPort("198.51.100.1:1"))
	g.Mute(p.key)
	q, ok := g.requests.take()
	if _, begun := g.begin(p, q, Device{Key: p.key}); !ok || begun || p.timers.retransmit.Load() != 0 {
		t.Errorf("a takeover that waited: taken %v, begun %v", ok, begun)
	}
	g.Initiate(p.key, netip.MustParseAddrPort("198.51.100.1:1"))
	q, _ = g.requests.take()
	if _, begun := g.begin(p, q, Device{Key: p.key}); !begun || p.target == nil {
		t.Fatal("not begun")
	}
	g.Mute(p.key)
	g.postpone(p)
	g.Unmute(p.key)
	if p.target != nil || p.timers.retransmit.Load() != 0 {
		t.Error("the handshake goes on after Unmute")
	}
}
