package vpn

import (
	"net/netip"
	"time"
)

const (
	protocolICMP   = 1
	protocolICMPv6 = 58

	unreachablePerSecond = 100  // errors that the transmitting goroutine sends at most
	mostQuoted4          = 576  // bytes of a whole ICMP error (RFC 1812 §4.3.2.3)
	mostQuoted6          = 1280 // bytes of a whole ICMPv6 error (RFC 4443 §2.4)
)

// unreachables tells senders behind the TUN that a device has no session here, at a bounded rate. It belongs to one
// transmitting goroutine.
type unreachables struct {
	errors [][]byte      // to be written, from offset headerSize
	second time.Duration // when the counted second began
	told   int           // in it
}

// add notes that packet, an IP packet, could not be delivered. It copies.
func (u *unreachables) add(packet []byte, now time.Duration) {
	if now-u.second >= time.Second {
		u.second, u.told = now, 0
	}
	if u.told >= unreachablePerSecond {
		return
	}
	if b := unreachable(packet); b != nil {
		u.told++
		u.errors = append(u.errors, b)
	}
}

// tell writes what was added to the TUN.
func (t *transmitter) tell() {
	u, g := &t.unreachables, t.g
	if len(u.errors) == 0 {
		return
	}
	g.count.unreachable.Add(uint64(len(u.errors)))
	if _, err := g.tun().Write(u.errors, headerSize); err != nil {
		g.count.writeErrors.Add(1)
		g.cfg.Log.Debug("write to TUN", "error", err)
	}
	clear(u.errors)
	u.errors = u.errors[:0]
}

// unreachable makes the error "host unreachable" (RFC 792) or "address unreachable" (RFC 4443 §3.1) about an IP packet,
// from offset headerSize of a new slice; nil: there is to be none about this one (RFC 1122 §3.2.2, RFC 4443 §2.4). It
// comes from the address that is not reached: from one of the host's own the kernel would not take it.
func unreachable(packet []byte) []byte {
	packet, src, dst, ok := parseIP(packet)
	if !ok || !answerable(src) || !answerable(dst) {
		return nil
	}
	if src.Is4() {
		return unreachable4(packet)
	}
	return unreachable6(packet)
}

// answerable reports whether an address is one host's, to which and about which errors are told.
func answerable(a netip.Addr) bool {
	return !a.IsUnspecified() && !a.IsMulticast() && !a.IsLoopback() && a != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

func unreachable4(packet []byte) []byte {
	header := int(packet[0]&15) * 4
	laterFragment := be.Uint16(packet[6:])&0x1fff != 0
	if header < ipv4Header || header >= len(packet) || laterFragment || packet[9] == protocolICMP && isError4(packet[header]) {
		return nil
	}
	const quote = ipv4Header + 8 // offset of what is quoted
	quoted := packet[:min(len(packet), mostQuoted4-quote)]
	b := make([]byte, headerSize+quote+len(quoted))
	ip := b[headerSize:]
	ip[0], ip[1] = 0x45, 0xc0 // internetwork control (RFC 1812 §4.3.2.5)
	be.PutUint16(ip[2:], uint16(len(ip)))
	ip[8], ip[9] = 64, protocolICMP
	copy(ip[12:], packet[16:20])
	copy(ip[16:], packet[12:16])
	le.PutUint16(ip[10:], ^fold(sum(ip[:ipv4Header], 0)))
	icmp := ip[ipv4Header:]
	icmp[0], icmp[1] = 3, 1
	copy(icmp[8:], quoted)
	le.PutUint16(icmp[2:], ^fold(sum(icmp, 0)))
	return b
}

// isError4 reports whether an ICMP message of that type is an error, or none that is known: destination unreachable,
// source quench, redirect, time exceeded, parameter problem.
func isError4(kind byte) bool {
	switch kind {
	case 3, 4, 5, 11, 12:
		return true
	}
	return kind > 18
}

func unreachable6(packet []byte) []byte {
	if !answerable6(packet) {
		return nil
	}
	const quote = ipv6Header + 8
	quoted := packet[:min(len(packet), mostQuoted6-quote)]
	b := make([]byte, headerSize+quote+len(quoted))
	ip := b[headerSize:]
	ip[0] = 0x60
	be.PutUint16(ip[4:], uint16(len(ip)-ipv6Header))
	ip[6], ip[7] = protocolICMPv6, 64
	copy(ip[8:], packet[24:40])
	copy(ip[24:], packet[8:24])
	icmp := ip[ipv6Header:]
	icmp[0], icmp[1] = 1, 3
	copy(icmp[8:], quoted)
	le.PutUint16(icmp[2:], ^fold(sum(icmp, pseudoSum(ip[8:40], protocolICMPv6, len(icmp)))))
	return b
}

// answerable6 looks behind the extension headers of an IPv6 packet: no error is told about errors, redirects, later
// fragments and what cannot be followed to its end.
func answerable6(packet []byte) bool {
	next, at := packet[6], ipv6Header
	for {
		if at+8 > len(packet) {
			return len(packet) > at && next != protocolICMPv6 && !isExtension(next)
		}
		switch next {
		case protocolICMPv6:
			return packet[at] >= 128 && packet[at] != 137
		case 44: // fragment
			if be.Uint16(packet[at+2:])&^7 != 0 {
				return false
			}
			next, at = packet[at], at+8
		case 51: // authentication
			next, at = packet[at], at+(int(packet[at+1])+2)*4
		case 0, 43, 60: // hop-by-hop, routing, destination options
			next, at = packet[at], at+(int(packet[at+1])+1)*8
		default:
			return true
		}
	}
}

func isExtension(next byte) bool {
	return next == 0 || next == 43 || next == 44 || next == 51 || next == 60
}
