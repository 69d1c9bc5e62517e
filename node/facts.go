package node

import (
	"crypto/rand"
	"fmt"
	"net/netip"

	"gatemesh/cluster"
)

// facts are the settings without which a gateway cannot start: what makes its
// cluster this cluster. They are drawn at the beginning, replicated like any
// setting, and handed out after admission only.
type facts struct {
	cluster   [16]byte
	key       ClusterKey
	gossip    [32]byte
	wireguard [32]byte // the private key that all gateways answer devices with
	pool      netip.Prefix
	ula       netip.Prefix
}

// Names of the settings.
const (
	setCluster   = "cluster"
	setKey       = "key"
	setGossip    = "gossip"
	setWireGuard = "wireguard"
	setPool      = "pool"
	setULA       = "ula"
)

// newFacts draws the facts of a new cluster. Nothing is derived from the
// cluster key.
func newFacts(key ClusterKey, pool netip.Prefix) facts {
	f := facts{key: key, pool: pool.Masked()}
	rand.Read(f.cluster[:])   //nolint:errcheck // crypto/rand.Read never fails
	rand.Read(f.gossip[:])    //nolint:errcheck // crypto/rand.Read never fails
	rand.Read(f.wireguard[:]) //nolint:errcheck // crypto/rand.Read never fails
	// RFC 4193, section 3.2.2: fd, 40 random bits, a 16-bit subnet (0).
	ula := [16]byte{0: 0xfd}
	copy(ula[1:6], f.cluster[:5])
	f.ula = netip.PrefixFrom(netip.AddrFrom16(ula), 64)
	return f
}

func (f *facts) settings() map[string][]byte {
	return map[string][]byte{
		setCluster:   f.cluster[:],
		setKey:       f.key[:],
		setGossip:    f.gossip[:],
		setWireGuard: f.wireguard[:],
		setPool:      []byte(f.pool.String()),
		setULA:       []byte(f.ula.String()),
	}
}

// loadFacts reads the facts of the cluster that self is a member of; ok is
// false when it is a member of none, be it because a join was cut short.
func loadFacts(store *cluster.Store, self cluster.Node) (f facts, ok bool, err error) {
	if _, ok, err = store.Admitted(self); err != nil || !ok {
		return f, false, err
	}
	fixed := func(name string, into []byte) {
		if err != nil || !ok {
			return
		}
		var b []byte
		if b, ok, err = store.Setting(name); err == nil && ok && copy(into, b) != len(into) {
			err = fmt.Errorf("setting %q has %d bytes", name, len(b))
		}
	}
	prefix := func(name string, into *netip.Prefix) {
		if err != nil || !ok {
			return
		}
		var b []byte
		if b, ok, err = store.Setting(name); err == nil && ok {
			if *into, err = netip.ParsePrefix(string(b)); err != nil {
				err = fmt.Errorf("setting %q: %w", name, err)
			}
		}
	}
	fixed(setCluster, f.cluster[:])
	fixed(setKey, f.key[:])
	fixed(setGossip, f.gossip[:])
	fixed(setWireGuard, f.wireguard[:])
	prefix(setPool, &f.pool)
	prefix(setULA, &f.ula)
	return f, ok && err == nil, err
}
