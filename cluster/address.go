package cluster

import (
	"crypto/sha256"
	"encoding/binary"
	"net/netip"
)

// Sizes of an address pool.
const (
	MaxPoolBits = 29 // the smallest pool: 5 devices
	MinPoolBits = 8
)

// ValidatePool returns a *PoolError unless the prefix can be the IPv4 pool of a
// cluster: IPv4, without host bits, /8 to /29, and made for hosts.
func ValidatePool(pool netip.Prefix) error {
	reason := ""
	switch a := pool.Addr(); {
	case !pool.IsValid():
		reason = "is not a prefix"
	case !a.Is4():
		reason = "is not IPv4"
	case pool.Masked() != pool:
		reason = "has host bits, want " + pool.Masked().String()
	case pool.Bits() > MaxPoolBits:
		reason = "is too small, want /29 or larger"
	case pool.Bits() < MinPoolBits:
		reason = "is too large, want /8 or smaller"
	case a.IsMulticast(), a.IsLoopback(), a.IsLinkLocalUnicast(), a.As4()[0] == 0, a.As4()[0] >= 240:
		reason = "is not for hosts"
	}
	if reason == "" {
		return nil
	}
	return &PoolError{Pool: pool.String(), Reason: reason}
}

// GatewayAddresses returns the addresses that every gateway has inside the
// tunnel: the first of each prefix.
func GatewayAddresses(pool, ula netip.Prefix) [2]netip.Addr {
	return [2]netip.Addr{pool.Masked().Addr().Next(), ula.Masked().Addr().Next()}
}

// Allocate returns an IPv4 address for a device: from the place that its key
// hashes to, the first one that is not taken. The network address, the gateways'
// own (.1) and the broadcast address are never given. It returns ErrPoolFull or a
// *PoolError.
func Allocate(pool netip.Prefix, key Key, taken func(netip.Addr) bool) (netip.Addr, error) {
	if err := ValidatePool(pool); err != nil {
		return netip.Addr{}, err
	}
	const first = 2 // 0 is the network, 1 the gateways
	usable := uint64(1)<<(32-pool.Bits()) - first - 1
	base := uint64(binary.BigEndian.Uint32(pool.Addr().AsSlice()))
	start := hashKey("gatemesh device IPv4 v1", key)[0] % usable
	for i := range usable {
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], uint32(base+first+(start+i)%usable)) //nolint:gosec // within the pool
		if a := netip.AddrFrom4(b); !taken(a) {
			return a, nil
		}
	}
	return netip.Addr{}, ErrPoolFull
}

// Address6 returns the IPv6 address of a device: the /64 and a hash of the key,
// never the gateways' own.
func Address6(ula netip.Prefix, key Key) netip.Addr {
	b := ula.Addr().As16()
	host := hashKey("gatemesh device IPv6 v1", key)[0]
	if host < 2 {
		host += 2 // 0 is the network, 1 the gateways
	}
	binary.BigEndian.PutUint64(b[8:], host)
	return netip.AddrFrom16(b)
}

// hashKey returns four words that depend on a label and parts.
func hashKey(label string, parts ...[32]byte) [4]uint64 {
	h := sha256.New()
	h.Write([]byte(label))
	for _, p := range parts {
		h.Write(p[:])
	}
	sum := h.Sum(nil)
	var w [4]uint64
	for i := range w {
		w[i] = binary.BigEndian.Uint64(sum[8*i:])
	}
	return w
}
