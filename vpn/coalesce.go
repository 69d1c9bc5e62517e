package vpn

// coalescer makes super-packets of a batch of packets, without copying any: what it makes are headers and pieces. A
// packet joins only where the kernel, splitting the super-packet, makes it again bit by bit, but for two things:
//
//   - The identification of IPv4 packets with DF that are all numbered alike comes out ascending. Nobody may look at it
//     (RFC 6864 §4.1).
//   - The checksums of TCP and UDP are made anew, not verified, as in the Linux kernel's WireGuard: the packet is
//     authentic, and what a device's own network broke before is not seen.
//
// Packets of one flow stay in order.
type coalescer struct {
	udp    bool // the TUN takes super-packets of UDP
	supers []super
	n      int // supers in use
	latest [flowSlots]uint16
}

const (
	flowSlots   = 64
	maxSegments = 64 // of a super-packet, and of a datagram of many
)

// super is a super-packet in the making, or a packet that stays alone.
type super struct {
	pieces   [][]byte // the first one with all headers
	protocol byte     // 0: nothing may join
	ip       int      // length of the IP header
	headers  int      // of all headers
	gso      int      // payload of each packet but the last
	size     int      // of all of it
	seq      uint32   // that comes next
	id       uint16   // of the last packet
	fixedID  bool     // all packets have the same one
	push     bool     // the last packet has PSH
}

// add takes a packet, which stays where it is until reset.
func (c *coalescer) add(p []byte) {
	var in super
	if !in.describe(p) || in.protocol == protocolUDP && !c.udp {
		// Nothing that follows in its flow may overtake it.
		if in.ip > 0 {
			c.latest[flowSlot(p, in.ip)] = 0
		} else {
			clear(c.latest[:])
		}
		c.put(&super{}, p)
		return
	}
	latest := &c.latest[flowSlot(p, in.ip)]
	if i := int(*latest); i > 0 && c.supers[i-1].join(&in, p) {
		return
	}
	c.put(&in, p)
	*latest = uint16(c.n)
}

// put begins a super-packet.
func (c *coalescer) put(in *super, p []byte) {
	if c.n == len(c.supers) {
		c.supers = append(c.supers, super{})
	}
	s := &c.supers[c.n]
	in.pieces = append(s.pieces[:0], p)
	*s = *in
	c.n++
}

// reset forgets the packets.
func (c *coalescer) reset() {
	for i := range c.supers[:c.n] {
		clear(c.supers[i].pieces)
	}
	c.n = 0
	clear(c.latest[:])
}

// flowSlot is where the latest super-packet of p's flow is noted; flows that share one only merge less.
func flowSlot(p []byte, ip int) uint64 {
	h := le.Uint64(p[ip-8:]) ^ uint64(le.Uint32(p[ip:]))<<16
	if ip == ipv6Header {
		h ^= le.Uint64(p[16:])
	}
	return h * 0x9e3779b97f4a7c15 >> (64 - 6)
}

// describe reports whether p may be part of a super-packet, and describes it as one. If not, ip is set where ports may
// follow the IP header at once.
func (s *super) describe(p []byte) bool {
	switch {
	case len(p) < ipv4Header+udpHeader:
		return false
	case p[0] == 0x45 && p[6]&0x3f == 0 && p[7] == 0: // no options, no fragment
		s.ip, s.protocol, s.id = ipv4Header, p[9], be.Uint16(p[4:])
		// No reserved bit, and a right checksum: a wrong one would be mended.
		if int(be.Uint16(p[2:])) != len(p) || p[6]&^0x40 != 0 || fold(sum(p[:ipv4Header], 0)) != 1<<16-1 {
			return false
		}
	case p[0]>>4 == 6 && len(p) >= ipv6Header+udpHeader && (p[6] == protocolTCP || p[6] == protocolUDP) && int(be.Uint16(p[4:])) == len(p)-ipv6Header:
		s.ip, s.protocol = ipv6Header, p[6]
	default:
		return false
	}
	switch s.protocol {
	case protocolTCP:
		if len(p) < s.ip+tcpHeader {
			return false
		}
		t := p[s.ip:]
		flags := t[13]
		s.headers = s.ip + int(t[12]>>4)*4
		s.push = flags&tcpPSH != 0
		s.seq = be.Uint32(t[4:])
		if s.headers < s.ip+tcpHeader || flags&^(tcpPSH|tcpECE) != tcpACK {
			return false
		}
	case protocolUDP:
		s.headers = s.ip + udpHeader
		if len(p) < s.headers || int(be.Uint16(p[s.ip+4:])) != len(p)-s.ip || be.Uint16(p[s.ip+udpChecksum:]) == 0 {
			return false
		}
	default:
		return false
	}
	s.gso = len(p) - s.headers
	s.size = len(p)
	s.seq += uint32(s.gso)
	return s.gso > 0
}

// join appends a packet with its description to s, if it may follow there.
func (s *super) join(in *super, p []byte) bool {
	first := s.pieces[0]
	n := len(s.pieces)
	if in.protocol != s.protocol || in.headers != s.headers || in.ip != s.ip || // another shape
		s.push || s.headers+n*s.gso != s.size || // s has its last packet
		in.gso > s.gso || s.size+in.gso > 1<<16-1 || n == maxSegments ||
		!sameNetwork(first, p, s.ip) {
		return false
	}
	fixed := false
	if s.ip == ipv4Header && in.id != s.id+1 {
		fixed = in.id == s.id && p[6]&0x40 != 0 && (n == 1 || s.fixedID)
		if !fixed {
			return false
		}
	}
	if n > 1 && fixed != s.fixedID {
		return false
	}
	if s.protocol == protocolTCP {
		a, b := first[s.ip:s.headers], p[s.ip:s.headers]
		if in.seq-uint32(in.gso) != s.seq || string(a[8:13]) != string(b[8:13]) || (a[13]^b[13])&^tcpPSH != 0 ||
			string(a[14:16]) != string(b[14:16]) || string(a[18:]) != string(b[18:]) {
			return false
		}
	}
	s.pieces = append(s.pieces, p[s.headers:])
	s.size += in.gso
	s.seq, s.id, s.fixedID, s.push = in.seq, in.id, fixed, in.push
	return true
}

// sameNetwork compares addresses, ports and all of the IP header that a super-packet has only once.
func sameNetwork(a, b []byte, ip int) bool {
	if ip == ipv4Header {
		return a[1] == b[1] && a[6] == b[6] && string(a[8:10]) == string(b[8:10]) && string(a[12:24]) == string(b[12:24])
	}
	return string(a[:4]) == string(b[:4]) && string(a[6:44]) == string(b[6:44])
}

// finish makes the headers of a super-packet, for its first piece and to stand before it.
func (s *super) finish() (h vnetHeader) {
	if len(s.pieces) == 1 {
		return h
	}
	p := s.pieces[0]
	h = vnetHeader{
		flags: vnetNeedsChecksum, gsoType: gsoUDP, headers: uint16(s.headers),
		gsoSize: uint16(s.gso), checksumStart: uint16(s.ip), checksumOff: udpChecksum,
	}
	addresses := p[12:20]
	if s.ip == ipv4Header {
		be.PutUint16(p[2:], uint16(s.size))
		le.PutUint16(p[10:], 0)
		le.PutUint16(p[10:], ^fold(sum(p[:ipv4Header], 0)))
	} else {
		addresses = p[8:40]
		be.PutUint16(p[4:], uint16(s.size-ipv6Header))
	}
	t := p[s.ip:]
	if s.protocol == protocolTCP {
		h.checksumOff, h.gsoType = tcpChecksum, gsoTCP6
		if s.ip == ipv4Header {
			h.gsoType = gsoTCP4
		}
		if s.push {
			t[13] |= tcpPSH
		}
	} else {
		be.PutUint16(t[4:], uint16(s.size-s.ip))
	}
	le.PutUint16(t[h.checksumOff:], fold(pseudoSum(addresses, s.protocol, s.size-s.ip)))
	return h
}
