package vpn

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// shape is what a packet is made of.
type shape struct {
	six           bool
	protocol      byte
	flow          byte // addresses and ports
	tos, ttl      byte
	fragment      uint16 // flags and offset
	id            uint16
	options       int  // words of IPv4 options, or an extension header if not 0
	tcpOptions    byte // one word of that byte, if not 0
	seq, ack      uint32
	flags         byte
	window        uint16
	urgent        uint16
	payload       int
	noChecksum    bool // UDP over IPv4
	wrongIP       bool // checksum of the IPv4 header
	flowLabel     byte
	addressOffset byte // of the destination
}

// build makes the packet, with right checksums but for those that shall be none or wrong.
func (s shape) build() []byte {
	var ip, transport []byte
	payload := make([]byte, s.payload)
	for i := range payload {
		payload[i] = byte(s.seq) + byte(i*7) + s.flow
	}
	field := udpChecksum
	switch s.protocol {
	case protocolTCP:
		field = tcpChecksum
		transport = make([]byte, tcpHeader, tcpHeader+4+len(payload))
		be.PutUint16(transport, 1000+uint16(s.flow))
		be.PutUint16(transport[2:], 443)
		be.PutUint32(transport[4:], s.seq)
		be.PutUint32(transport[8:], s.ack)
		transport[12], transport[13] = 5<<4, s.flags
		be.PutUint16(transport[14:], s.window)
		be.PutUint16(transport[18:], s.urgent)
		if s.tcpOptions != 0 {
			transport[12] = 6 << 4
			transport = append(transport, 1, 1, 1, s.tcpOptions)
		}
	default:
		transport = make([]byte, udpHeader)
		be.PutUint16(transport, 1000+uint16(s.flow))
		be.PutUint16(transport[2:], 443)
		be.PutUint16(transport[4:], uint16(udpHeader+len(payload)))
	}
	transport = append(transport, payload...)
	var addresses []byte
	if s.six {
		ip = make([]byte, ipv6Header)
		be.PutUint32(ip, 6<<28|uint32(s.tos)<<20|uint32(s.flowLabel))
		ip[6], ip[7] = s.protocol, s.ttl
		copy(ip[8:], []byte{0xfd, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9})
		copy(ip[24:], []byte{0xfd, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, s.addressOffset})
		addresses = ip[8:40]
		if s.options != 0 { // destination options, padded
			ip[6] = 60
			ip = append(ip, s.protocol, 0, 1, 4, 0, 0, 0, 0)
		}
		be.PutUint16(ip[4:], uint16(len(ip)-ipv6Header+len(transport)))
	} else {
		ip = make([]byte, ipv4Header)
		for range s.options {
			ip = append(ip, 1, 1, 1, 1)
		}
		ip[0], ip[1], ip[8], ip[9] = 4<<4|byte(len(ip)/4), s.tos, s.ttl, s.protocol
		be.PutUint16(ip[2:], uint16(len(ip)+len(transport)))
		be.PutUint16(ip[4:], s.id)
		be.PutUint16(ip[6:], s.fragment)
		copy(ip[12:], []byte{10, 1, 0, 9, 10, 2, 0, s.addressOffset})
		addresses = ip[12:20]
	}
	le.PutUint16(transport[field:], fold(pseudoSum(addresses, s.protocol, len(transport))))
	finishChecksum(transport, field)
	if s.noChecksum && s.protocol == protocolUDP {
		be.PutUint16(transport[field:], 0)
	}
	if !s.six {
		le.PutUint16(ip[10:], ^fold(sum(ip, 0)))
		if s.wrongIP {
			ip[10] ^= 1
		}
	}
	return append(ip, transport...)
}

// drawShapes draws packets of a few flows that mostly, but not always, follow each other as those of a stream do.
func drawShapes(t *rapid.T) (all []shape) {
	var flows []shape
	for i := range rapid.IntRange(1, 3).Draw(t, "flows") {
		flows = append(flows, shape{
			six: rapid.Bool().Draw(t, "six"), protocol: rapid.SampledFrom([]byte{protocolTCP, protocolUDP}).Draw(t, "protocol"),
			flow: byte(i), ttl: 64, fragment: 0x4000, flags: tcpACK, window: 500, payload: rapid.IntRange(1, 900).Draw(t, "payload"),
			seq: rapid.SampledFrom([]uint32{1, 1<<32 - 1000}).Draw(t, "seq"), id: rapid.SampledFrom([]uint16{7, 1<<16 - 2}).Draw(t, "id"),
		})
	}
	ids := rapid.SampledFrom([]uint16{1, 1, 0, 2}).Draw(t, "id step")
	changes := []func(*shape){
		func(s *shape) { s.flags ^= 1 << rapid.IntRange(0, 7).Draw(t, "flag") },
		func(s *shape) { s.flags |= tcpPSH },
		func(s *shape) { s.ack++ }, func(s *shape) { s.seq++ }, func(s *shape) { s.window++ }, func(s *shape) { s.urgent++ },
		func(s *shape) { s.tos ^= 2 }, func(s *shape) { s.ttl-- }, func(s *shape) { s.id += 3 },
		func(s *shape) {
			s.fragment = rapid.SampledFrom([]uint16{0, 0x2000, 0x8000, 0xc000, 5}).Draw(t, "fragment")
		},
		func(s *shape) { s.options ^= 1 }, func(s *shape) { s.tcpOptions ^= 5 },
		func(s *shape) { s.payload = rapid.IntRange(0, 1000).Draw(t, "other payload") },
		func(s *shape) { s.noChecksum = true }, func(s *shape) { s.wrongIP = true },
		func(s *shape) { s.flowLabel++ }, func(s *shape) { s.addressOffset++ },
		func(s *shape) { s.protocol ^= protocolTCP ^ protocolUDP },
	}
	for range rapid.IntRange(1, 100).Draw(t, "packets") {
		f := &flows[rapid.IntRange(0, len(flows)-1).Draw(t, "flow")]
		s := *f
		if rapid.IntRange(0, 7).Draw(t, "odd") == 0 {
			change := rapid.SampledFrom(changes).Draw(t, "change")
			change(&s)
			if rapid.Bool().Draw(t, "lasting") {
				change(f)
			}
		}
		all = append(all, s)
		f.seq += uint32(s.payload)
		f.id += ids
	}
	return all
}

// What is coalesced, the splitter takes apart again: every packet, bit by bit, and each flow in its order.
func coalescedPacketsComeBack(t *rapid.T) {
	shapes := drawShapes(t)
	var packets [][]byte
	sent, got := make(map[string][]string), make(map[string][]string)
	for _, s := range shapes {
		p := s.build()
		packets = append(packets, append(make([]byte, headerSize), p...))
		sent[flowOf(p)] = append(sent[flowOf(p)], string(p))
	}
	for _, super := range merged(packets) {
		split, err := splitAll(super)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range split {
			f := flowOf(p)
			got[f] = append(got[f], string(p))
		}
	}
	for f, want := range sent {
		if len(got[f]) != len(want) {
			t.Fatalf("flow %x: %d packets of %d", f, len(got[f]), len(want))
		}
		for i := range want {
			if !samePacket([]byte(want[i]), []byte(got[f][i])) {
				t.Fatalf("flow %x, packet %d:\n%x became\n%x", f, i, want[i], got[f][i])
			}
		}
	}
}

// flowOf is what packets have in common that stay in order: protocol, addresses and ports.
func flowOf(p []byte) string {
	ip, protocol := int(p[0]&15)*4, p[9]
	addresses := p[12:20]
	if p[0]>>4 == 6 {
		ip, protocol, addresses = ipv6Header, p[6], p[8:40]
		if protocol == 60 {
			ip, protocol = ip+8, p[ip]
		}
	}
	return fmt.Sprintf("%d %x %x", protocol, addresses, p[ip:ip+4])
}

// samePacket allows for the numbering of packets that may not be fragmented (RFC 6864).
func samePacket(a, b []byte) bool {
	if len(a) == len(b) && a[0] == 0x45 && a[6]&0x40 != 0 && b[6]&0x40 != 0 && fold(sum(b[:20], 0)) == 1<<16-1 {
		a, b = slices.Clone(a), slices.Clone(b)
		if fold(sum(a[:20], 0)) == 1<<16-1 {
			copy(a[10:], []byte{0, 0})
			copy(b[10:], []byte{0, 0})
		}
		copy(a[4:], b[4:6])
	}
	return bytes.Equal(a, b)
}

func TestCoalescedPacketsComeBack(t *testing.T) { rapid.Check(t, coalescedPacketsComeBack) }

func FuzzCoalesce(f *testing.F) { f.Fuzz(rapid.MakeFuzz(coalescedPacketsComeBack)) }

// A stream is merged into as few packets as can be: else the property above would be kept by doing nothing.
func TestStreamsAreMerged(t *testing.T) {
	for _, six := range []bool{false, true} {
		for _, protocol := range []byte{protocolTCP, protocolUDP} {
			for _, step := range []uint16{0, 1} {
				var packets [][]byte
				s := shape{six: six, protocol: protocol, ttl: 64, fragment: 0x4000, flags: tcpACK, payload: 1000}
				for range 70 {
					packets = append(packets, append(make([]byte, headerSize), s.build()...))
					s.seq += uint32(s.payload)
					s.id += step
				}
				supers := merged(packets)
				if len(supers) != 2 { // 64 at most in one
					t.Errorf("IPv6 %v, protocol %d, numbered by %d: %d super-packets", six, protocol, step, len(supers))
				}
				if h := parseVnet(supers[0]); h.gsoSize != 1000 || h.flags != vnetNeedsChecksum {
					t.Errorf("%+v", h)
				}
			}
		}
	}
}

// Without support of the kernel, packets of UDP stay alone.
func TestUDPIsNotMergedForOldKernels(t *testing.T) {
	var c coalescer
	p := shape{protocol: protocolUDP, payload: 9}.build()
	c.add(p)
	c.add(p)
	if c.n != 2 {
		t.Error("merged")
	}
}

func TestSum(t *testing.T) {
	plain := func(b []byte) uint16 { // RFC 1071 §4.1
		var acc uint32
		for i := range b {
			acc += uint32(b[i]) << (8 * (1 - i%2))
		}
		for acc>>16 != 0 {
			acc = acc>>16 + acc&0xffff
		}
		return uint16(acc)
	}
	r := rand.New(rand.NewPCG(1, 2))
	for n := range 300 {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(r.Uint32()) | byte(-(n % 3 / 2)) // a third of them all ones: carries
		}
		var got [2]byte
		le.PutUint16(got[:], fold(sum(b, 0)))
		if want := plain(b); be.Uint16(got[:]) != want {
			t.Errorf("%d bytes: %04x, want %04x", n, got, want)
		}
	}
}

// FuzzSplit feeds the splitter with anything that could stand for a packet of the TUN.
func FuzzSplit(f *testing.F) {
	for _, six := range []bool{false, true} {
		for _, protocol := range []byte{protocolTCP, protocolUDP} {
			s := shape{six: six, protocol: protocol, ttl: 64, flags: tcpACK, payload: 100}
			a := append(make([]byte, headerSize), s.build()...)
			s.seq, s.id = 100, 1
			f.Add(merged([][]byte{a, append(make([]byte, headerSize), s.build()...)})[0])
		}
	}
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		packets, err := splitAll(b)
		if err != nil {
			return
		}
		if len(packets) == 0 {
			t.Fatal("no packet and no error")
		}
		h := parseVnet(b)
		if h.gsoType == gsoNone {
			if len(packets) != 1 || len(packets[0]) != len(b)-vnetSize {
				t.Fatalf("%d packets of one", len(packets))
			}
			return
		}
		headers, payload := 0, 0
		for i, p := range packets {
			if i == 0 {
				headers = len(p) - min(int(h.gsoSize), len(p))
				if len(packets) == 1 {
					headers = len(p) - (len(p) - int(h.checksumStart)) // at least
				}
			}
			payload += len(p)
			if len(p) > len(b)-vnetSize || i < len(packets)-1 && len(p) != len(packets[0]) {
				t.Fatalf("packet %d of %d has %d bytes", i, len(packets), len(p))
			}
			if _, _, _, ok := parseIP(p); !ok && p[0]>>4 == 4 {
				t.Fatalf("%x is no packet", p)
			}
		}
		if len(packets) > 1 && payload != len(b)-vnetSize+(len(packets)-1)*headers {
			t.Fatalf("%d bytes of payload and headers of %d", payload, len(b))
		}
	})
}

func BenchmarkSum(b *testing.B) {
	for _, n := range []int{20, 1400} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			p := make([]byte, n)
			b.SetBytes(int64(n))
			for b.Loop() {
				sum(p, 0)
			}
		})
	}
}

// BenchmarkSplit and BenchmarkCoalesce are what 45 segments of 1380 bytes cost beside crypto and system calls.
func BenchmarkSplit(b *testing.B) {
	super := merged(stream(45))[0]
	out := make([]byte, 1500)
	in := make([]byte, len(super))
	b.SetBytes(int64(len(super)))
	b.ReportAllocs()
	var s splitter
	for b.Loop() {
		copy(in[:100], super)
		if s.begin(in) != nil {
			b.Fatal("refused")
		}
		for n := s.size(); n > 0; n = s.size() {
			s.next(out[:n])
		}
	}
}

func BenchmarkCoalesce(b *testing.B) {
	packets := stream(45)
	w := superWriter{to: func(*[vnetSize]byte, [][]byte) error { return nil }}
	first := slices.Clone(packets[0][:100])
	b.SetBytes(45 * 1420)
	b.ReportAllocs()
	for b.Loop() {
		copy(packets[0], first)
		w.write(packets)
	}
}

func stream(n int) (packets [][]byte) {
	s := shape{protocol: protocolTCP, ttl: 64, fragment: 0x4000, flags: tcpACK, payload: 1380}
	for range n {
		packets = append(packets, append(make([]byte, headerSize), s.build()...))
		s.seq += uint32(s.payload)
		s.id++
	}
	return packets
}
