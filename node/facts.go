package node

import (
	"crypto/rand"
	"fmt"
	"net/netip"

	"gatemesh/cluster"
)

// facts are the settings without which a gateway cannot start: what makes its
// cluster this cluster. They are drawn at the beginning, replicated like any
// setting, and handed out after admission only. The keys that may be replaced
// are none, see keyring.go.
type facts struct {
	cluster   [16]byte
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
func newFacts(pool netip.Prefix) facts {
	f := facts{pool: pool.Masked()}
	rand.Read(f.cluster[:])   //nolint:errcheck // crypto/rand.Read never fails
	rand.Read(f.wireguard[:]) //nolint:errcheck // crypto/rand.Read never fails
	// RFC 4193, section 3.2.2: fd, 40 random bits, a 16-bit subnet (0).
	ula := [16]byte{0: 0xfd}
	copy(ula[1:6], f.cluster[:5])
	f.ula = netip.PrefixFrom(netip.AddrFrom16(ula), 64)
	return f
}

// settings are those of a new cluster with its first keys, of which one is drawn.
func (f *facts) settings(key ClusterKey) map[string][]byte {
	gossip := make([]byte, 32)
	rand.Read(gossip) //nolint:errcheck // crypto/rand.Read never fails
	return map[string][]byte{
		setCluster:   f.cluster[:],
		setKey:       key[:],
		setGossip:    gossip,
		setWireGuard: f.wireguard[:],
		setPool:      []byte(f.pool.String()),
		setULA:       []byte(f.ula.String()),
	}
}

// isOf refuses what another cluster gives to a newcomer. Empty is taken for ours.
func (f *facts) isOf(welcome []byte) error {
	if len(welcome) > 0 && string(welcome) != string(f.cluster[:]) {
		return fmt.Errorf("who answers is of cluster %s, which has the same key", clusterOf(welcome))
	}
	return nil
}

// loadFacts reads the facts of the cluster that self is a member of; ok is
// false when it is a member of none, be it because a join was cut short. One
// whose admission is suspended is a member that waits.
func loadFacts(store *cluster.Store, self cluster.Node) (f facts, ok bool, err error) {
	a, _, err := store.Admitted(self)
	if err != nil || a.Key == nil {
		return f, false, err
	}
	r, err := store.Ring()
	if err != nil || len(r.Of(cluster.GossipKey)) == 0 || len(r.Of(cluster.JoinKey)) == 0 && !r.Turned() {
		return f, false, err
	}
	ok = true
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
	fixed(setWireGuard, f.wireguard[:])
	prefix(setPool, &f.pool)
	prefix(setULA, &f.ula)
	return f, ok && err == nil, err
}
