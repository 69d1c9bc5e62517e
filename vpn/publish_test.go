package vpn

import (
	"net/netip"
	"testing"
	"time"
)

// TestImportedKeysAreFoundLast stops a takeover where its keys become known to the vault.
func TestImportedKeysAreFoundLast(t *testing.T) {
	a, b, p, far := exporter(t)
	for range 3 {
		a.receiveOne(sealed(t, far, ""), deviceAddr)
	}
	if _, err := b.Import(mustExport(t, a, b, p.key)); err != nil {
		t.Fatal(err)
	}
	there := b.cfg.Lookup
	b.cfg.Lookup = func(k Key) (Device, bool) {
		b.vault.mu.Lock()
		return there(k)
	}
	done := make(chan error)
	go func() { done <- b.TakeOver(p.key, netip.AddrPort{}) }()
	var kp *keypair
	for kp == nil {
		time.Sleep(time.Millisecond)
		if q := b.peer(p.key); q != nil {
			kp = q.current.Load()
		}
	}
	time.Sleep(5 * time.Millisecond) // as long as it likes to do what it must not
	if b.indices.get(kp.local) != nil {
		t.Error("messages find keys of which floors are not known yet")
	}
	if n := kp.opener.next(); n != 3 || !kp.imported.Load() || kp.confirmed.Load() {
		t.Errorf("accepts counters from %d, imported: %v, confirmed: %v", n, kp.imported.Load(), kp.confirmed.Load())
	}
	b.vault.mu.Unlock()
	if err := <-done; err != nil || b.indices.get(kp.local) != kp {
		t.Error("not found at all", err)
	}
}
