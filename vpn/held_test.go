package vpn

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"gatemesh/vpn/vpntest"
)

// fresh makes keys for p that are that old; as responder they wait for the device as next. far is the device's end.
func fresh(tb testing.TB, g *Gateway, p *peer, age time.Duration, initiator bool) (kp, far *keypair) {
	tb.Helper()
	local, err := g.indices.reserve()
	if err != nil {
		tb.Fatal(err)
	}
	x, _ := vpntest.NewKey()
	y, _ := vpntest.NewKey()
	far = newKeypair(nil, &keys{send: y, receive: x, local: 9, remote: local}, g.now()-age, !initiator)
	kp = newKeypair(p, &keys{send: x, receive: y, local: local, remote: 9}, g.now()-age, initiator)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.install(kp)
	g.indices.put(kp)
	return kp, far
}

func mustImport(tb testing.TB, g *Gateway, export []byte) {
	tb.Helper()
	if _, err := g.Import(export); err != nil {
		tb.Fatal(err)
	}
}

// trio is three gateways, the first of which has a confirmed session of p's device.
func trio(tb testing.TB) (a, b, c *Gateway, p *peer) {
	tb.Helper()
	devices := new([]Device)
	a, b, c = heirOf(tb, devices), heirOf(tb, devices), heirOf(tb, devices)
	p, _ = live(tb, a, netip.MustParseAddr("10.0.0.9"))
	*devices = append(*devices, Device{Key: p.key, Addresses: p.addresses})
	return a, b, c, p
}

// Old keys whose counters an heir knows from elsewhere do not keep it from the new ones that come with them.
func TestNewKeysAreHeldWithoutTheOldOnes(t *testing.T) {
	a, b, c, p := trio(t)
	mustImport(t, b, mustExport(t, a, b, p.key)) // piece 1
	mustImport(t, c, mustExport(t, a, c, p.key)) // piece 2 of the same keys
	if err := b.TakeOver(p.key, deviceAddr); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Import(mustExport(t, b, c, p.key)); !errors.Is(err, errOverlap) {
		t.Errorf("current keys below what is held: %v", err)
	}
	kp, _ := fresh(t, b, b.peer(p.key), 0, true)
	mustImport(t, c, mustExport(t, b, c, p.key))
	h := c.vault.take(p.key)
	if h == nil || h.n != 1 || h.pairs[0].local != kp.local {
		t.Fatalf("held: %+v, want the new keys alone", h)
	}
	if h.pairs[1].send != (Key{}) || h.pairs[1].receive != (Key{}) {
		t.Error("the old keys are not erased")
	}
	if h.at != h.created[0]+RejectAfterTime {
		t.Errorf("held until %v, made at %v", h.at, h.created[0])
	}
}

// An owner that does not know yet that a device went on elsewhere takes no newer keys from their heir.
func TestExportOfFormerOwnerIsRefused(t *testing.T) {
	a, b, c, p := trio(t)
	old := p.current.Load()
	old.created -= 2 * maxTransit
	q := b.adopt(b.newHeir(Device{Key: p.key}))
	fresh(t, b, q, 0, true)
	newer := mustExport(t, b, c, p.key)
	mustImport(t, c, mustExport(t, a, c, p.key))
	mustImport(t, c, newer)
	if _, err := c.Import(mustExport(t, a, c, p.key)); !errors.Is(err, errReplaced) {
		t.Errorf("the former owner's export: %v", err)
	}
	old.created += 2*maxTransit - maxTransit/2 // what transit can make of keys made later
	mustImport(t, c, mustExport(t, a, c, p.key))
}

// A confirmation that is told after its session was given away would look like one of new keys.
func TestConfirmationIsToldBeforeFinalExport(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, p, _ := exporter(t)
		p.mu.Lock()
		a.establish(p, p.endpoint.Load())
		p.mu.Unlock()
		if _, err := a.Export(p.key, b.Incarnation(), true); !errors.Is(err, ErrBusy) || p.quiet.Load() {
			t.Fatalf("before it is told: %v", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		go a.notify(ctx)
		synctest.Wait()
		if _, err := a.Export(p.key, b.Incarnation(), true); err != nil {
			t.Errorf("afterwards: %v", err)
		}
		cancel()
	})
}

// Held are the devices of which there are imports.
func (g *Gateway) Held() []Key { return g.vault.devices() }
