package node

import (
	"net/netip"

	"gatemesh/cluster"
	"gatemesh/vpn"
)

// taken is where the devices are that were taken over and have no keys of our own making yet: an address has one
// device, a device one address. Its owner serialises the calls.
type taken struct {
	at map[netip.AddrPort]cluster.Key
	of map[cluster.Key]netip.AddrPort
}

func newTaken() *taken {
	return &taken{at: map[netip.AddrPort]cluster.Key{}, of: map[cluster.Key]netip.AddrPort{}}
}

func (t *taken) put(k cluster.Key, at netip.AddrPort) {
	t.drop(k)
	if other, ok := t.at[at]; ok {
		t.drop(other)
	}
	if at.IsValid() {
		t.at[at], t.of[k] = k, at
	}
}

func (t *taken) drop(k cluster.Key) {
	if at, ok := t.of[k]; ok {
		delete(t.at, at)
		delete(t.of, k)
	}
}

// follow keeps up with the devices by what the engine tells of them.
func (t *taken) follow(e vpn.Event) {
	_, ours := t.of[e.Device]
	switch {
	case !ours:
	case e.Kind == vpn.Roamed || e.Kind == vpn.Confirmed && e.Imported:
		t.put(e.Device, e.Endpoint)
	case e.Kind == vpn.Confirmed || e.Kind == vpn.Gone:
		t.drop(e.Device)
	}
}
