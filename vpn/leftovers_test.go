package vpn

import (
	"testing"
	"testing/synctest"
	"time"

	"gatemesh/vpn/vpntest"
)

// TestFloorsOfADeadHeirEnd exports to a gateway that never asks for floors again.
func TestFloorsOfADeadHeirEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, p, far := exporter(t)
		mustExport(t, a, b, p.key)
		a.receiveOne(sealed(t, far, ""), deviceAddr)
		due := a.vault.sweep(a.now())
		if len(a.vault.unflushed) != 1 {
			t.Fatal("no floor to be told")
		}
		a.Drop(p.key)
		for due != 0 {
			time.Sleep(due - a.now())
			due = a.vault.sweep(a.now())
		}
		if len(a.vault.unflushed) != 0 || len(a.vault.known) != 0 {
			t.Error("kept for ever")
		}
	})
}

// TestRemovedDeviceLeavesNoSecret removes devices of which only what was derived is kept.
func TestRemovedDeviceLeavesNoSecret(t *testing.T) {
	for _, named := range []bool{true, false} {
		_, public := vpntest.NewKey()
		g := idle(t, Device{Key: public})
		forger := vpntest.NewForger(g.identity.public, [][32]byte{public})
		d := newDatagram(forger.Next([16]byte{}), &vpntest.Endpoint{AddrPort: deviceAddr}, false)
		g.handle(d)
		kept := g.remotes.young[public]
		if kept == nil || kept.secret == [32]byte{} {
			t.Fatal("nothing is kept")
		}
		there := g.cfg.Lookup
		g.cfg.Lookup = func(Key) (Device, bool) { return Device{}, false }
		if named {
			g.Refresh(public)
		} else {
			g.Refresh()
		}
		if len(g.remotes.young) != 0 || kept.secret != [32]byte{} {
			t.Error("the secret of a removed device is kept")
		}
		// It is removed while a worker goes by what the store said before.
		g.cfg.Lookup = func(k Key) (Device, bool) {
			if g.cfg.Lookup = func(Key) (Device, bool) { return Device{}, false }; named {
				g.Refresh(k)
			} else {
				g.Refresh()
			}
			return there(k)
		}
		g.handle(d)
		if len(g.remotes.young) != 0 {
			t.Error("kept by a worker that was late")
		}
	}
}

func TestClosingErasesSecrets(t *testing.T) {
	var r remotes
	var all []*derived
	for i := range uint32(3 * maxRemotes) {
		var k Key
		le.PutUint32(k[:], i)
		r.put(&peer{remote: &remote{key: k}, secret: [32]byte{1}})
		all = append(all, r.young[k])
	}
	wiped := func() (n int) {
		for _, d := range all {
			if d.secret == [32]byte{} {
				n++
			}
		}
		return n
	}
	if n := wiped(); n != maxRemotes {
		t.Errorf("%d of those that made room were overwritten", n)
	}
	if r.erase(); wiped() != len(all) {
		t.Errorf("%d were overwritten", wiped())
	}
}
