package node

import (
	"net/netip"

	"gatemesh/cluster"
	"gatemesh/vpn"
)

// places is where our devices are: an address has one device, a device one address. Its owner serialises the calls.
type places struct {
	at map[netip.AddrPort]cluster.Key
	of map[cluster.Key]place
}

type place struct {
	at    netip.AddrPort
	taken bool // over, and there are no keys of our own making yet
}

func newPlaces() *places {
	return &places{at: map[netip.AddrPort]cluster.Key{}, of: map[cluster.Key]place{}}
}

// device returns who is at an address, and whether it was taken over and has no keys of our own making yet.
func (l *places) device(at netip.AddrPort) (k cluster.Key, taken, ok bool) {
	k, ok = l.at[at]
	return k, l.of[k].taken, ok
}

func (l *places) put(k cluster.Key, at netip.AddrPort, taken bool) {
	l.drop(k)
	if other, ok := l.at[at]; ok {
		l.drop(other)
	}
	if at.IsValid() {
		l.at[at], l.of[k] = k, place{at, taken}
	}
}

func (l *places) drop(k cluster.Key) {
	if p, ok := l.of[k]; ok {
		delete(l.at, p.at)
		delete(l.of, k)
	}
}

// follow keeps up with the devices by what the engine tells of them.
func (l *places) follow(e vpn.Event) {
	switch e.Kind {
	case vpn.Confirmed:
		l.put(e.Device, e.Endpoint, e.Imported)
	case vpn.Roamed:
		l.put(e.Device, e.Endpoint, l.of[e.Device].taken)
	case vpn.Gone:
		l.drop(e.Device)
	}
}
