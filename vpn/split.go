package vpn

// splitter makes the packets that a packet read from a TUN stands for, as the kernel would (tcp_gso_segment,
// __udp_gso_segment, inet_gso_segment), with all checksums. It keeps the packet that it was given.
type splitter struct {
	packet   []byte
	protocol byte // 0: it is one packet
	ip       int  // length of the IP header with its extensions
	headers  int  // of all headers
	gso      int  // payload of each packet but the last
	done     int  // payload so far; -1: all
	id       uint16
	seq      uint32
	pseudo   uint64 // sum of the pseudo header without the length
}

// begin takes what was read: a vnet header and a packet, which it may change.
func (s *splitter) begin(b []byte) error {
	*s = splitter{done: -1}
	if len(b) < vnetSize+ipv4Header {
		return errVnet
	}
	h := parseVnet(b)
	p := b[vnetSize:]
	field := int(h.checksumStart) + int(h.checksumOff)
	if h.gsoType == gsoNone {
		if h.flags&vnetNeedsChecksum != 0 {
			if int(h.checksumStart) < ipv4Header || field+2 > len(p) {
				return errVnet
			}
			finishChecksum(p[h.checksumStart:], int(h.checksumOff))
		}
		s.packet, s.done = p, 0
		return nil
	}
	return s.super(h, p)
}

// finishChecksum replaces the sum of the pseudo header at b[field:] by the checksum of b.
func finishChecksum(b []byte, field int) {
	c := ^fold(sum(b, 0))
	if c == 0 && field == udpChecksum {
		c = 1<<16 - 1 // RFC 768: 0 is no checksum
	}
	le.PutUint16(b[field:], c)
}

func (s *splitter) super(h vnetHeader, p []byte) error {
	version := p[0] >> 4
	t := h.gsoType &^ gsoECN
	ip, want := int(h.checksumStart), 0
	addresses := p[12:20]
	switch {
	case version == 4 && (t == gsoTCP4 || t == gsoUDP) && ip == int(p[0]&15)*4 && ip >= ipv4Header:
	case version == 6 && (t == gsoTCP6 || t == gsoUDP) && ip >= ipv6Header && len(p) >= ip:
		addresses = p[8:40]
	default:
		return errVnet
	}
	if t == gsoUDP {
		s.protocol, s.headers, want = protocolUDP, ip+udpHeader, udpChecksum
	} else {
		if len(p) < ip+tcpHeader {
			return errVnet
		}
		// The kernel's length of headers is that of the first packet where it forwards.
		s.protocol, s.headers, want = protocolTCP, ip+int(p[ip+12]>>4)*4, tcpChecksum
		s.seq = be.Uint32(p[ip+4:])
		if s.headers < ip+tcpHeader {
			return errVnet
		}
	}
	if int(h.checksumOff) != want || h.gsoSize == 0 || len(p) <= s.headers || len(p) > 1<<16-1 {
		return errVnet
	}
	s.packet, s.ip, s.gso, s.done = p, ip, int(h.gsoSize), 0
	s.id = be.Uint16(p[4:])
	s.pseudo = pseudoSum(addresses, s.protocol, 0)
	return nil
}

// size is the length of the next packet; 0: there is none.
func (s *splitter) size() int {
	switch {
	case s.done < 0:
		return 0
	case s.protocol == 0:
		return len(s.packet)
	}
	return s.headers + min(s.gso, len(s.packet)-s.headers-s.done)
}

// next writes the next packet to b, which is size long.
func (s *splitter) next(b []byte) {
	if s.protocol == 0 {
		copy(b, s.packet)
		s.done = -1
		return
	}
	payload := s.packet[s.headers+s.done:][:len(b)-s.headers]
	copy(b, s.packet[:s.headers])
	copy(b[s.headers:], payload)
	last := s.headers+s.done+len(payload) == len(s.packet)
	if b[0]>>4 == 4 {
		be.PutUint16(b[2:], uint16(len(b)))
		be.PutUint16(b[4:], s.id)
		le.PutUint16(b[10:], 0)
		le.PutUint16(b[10:], ^fold(sum(b[:s.ip], 0)))
	} else {
		be.PutUint16(b[4:], uint16(len(b)-ipv6Header))
	}
	t := b[s.ip:]
	field := udpChecksum
	if s.protocol == protocolTCP {
		field = tcpChecksum
		be.PutUint32(t[4:], s.seq+uint32(s.done))
		if !last {
			t[13] &^= tcpFIN | tcpPSH
		}
		if s.done > 0 {
			t[13] &^= tcpCWR
		}
	} else {
		be.PutUint16(t[4:], uint16(len(t)))
	}
	// The length of the pseudo header in the place of the checksum makes finishChecksum do the rest.
	le.PutUint16(t[field:], fold(s.pseudo+uint64(be16(len(t)))))
	finishChecksum(t, field)
	s.id++
	s.done += len(payload)
	if last {
		s.done = -1
	}
}

// be16 is n as sum reads it.
func be16(n int) uint16 { return uint16(n)<<8 | uint16(n)>>8 }
