package vpn

import "net/netip"

const (
	ipv4Header = 20
	ipv6Header = 40
)

// parseIP returns the IP packet at the beginning of b, without what follows it, and its source and destination.
// ok is false when b holds none, or one with IPv4-mapped addresses, which would be taken for IPv4 ones.
func parseIP(b []byte) (packet []byte, src, dst netip.Addr, ok bool) {
	if len(b) < ipv4Header {
		return nil, src, dst, false
	}
	switch b[0] >> 4 {
	case 4:
		n := int(be.Uint16(b[2:]))
		if n < ipv4Header || n > len(b) {
			return nil, src, dst, false
		}
		return b[:n], netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20])), true
	case 6:
		if len(b) < ipv6Header {
			return nil, src, dst, false
		}
		n := ipv6Header + int(be.Uint16(b[4:]))
		if n > len(b) {
			return nil, src, dst, false
		}
		src, dst = netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
		return b[:n], src, dst, !src.Is4In6() && !dst.Is4In6()
	}
	return nil, src, dst, false
}
