package vpn

import (
	"bytes"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"gatemesh/vpn/vpntest"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

var (
	sender4, sender6 = netip.MustParseAddr("10.255.0.2"), netip.MustParseAddr("fd00::2")
	absent4, absent6 = netip.MustParseAddr("10.0.0.9"), netip.MustParseAddr("fd00::9")
)

// checkUnreachable fails unless e is the error about packet by the rules, as gVisor reads it.
func checkUnreachable(tb testing.TB, e, packet []byte) {
	tb.Helper()
	packet, src, dst, _ := parseIP(packet)
	e = e[headerSize:]
	whole, from, to, ok := parseIP(e)
	if !ok || len(whole) != len(e) || from != dst || to != src {
		tb.Fatalf("from %v to %v: %x", from, to, e)
	}
	if src.Is4() {
		ip := header.IPv4(e)
		icmp := header.ICMPv4(ip.Payload())
		if !ip.IsChecksumValid() || header.ICMPv4Checksum(icmp, 0) != icmp.Checksum() || ip.TransportProtocol() != header.ICMPv4ProtocolNumber ||
			icmp.Type() != header.ICMPv4DstUnreachable || icmp.Code() != header.ICMPv4HostUnreachable ||
			!bytes.Equal(icmp.Payload(), packet[:min(len(packet), 548)]) {
			tb.Errorf("%x", e)
		}
		return
	}
	ip := header.IPv6(e)
	icmp := header.ICMPv6(ip.Payload())
	pseudo := header.PseudoHeaderChecksum(header.ICMPv6ProtocolNumber, ip.SourceAddress(), ip.DestinationAddress(), uint16(len(icmp)))
	if checksum.Checksum(icmp, pseudo) != 0xffff || ip.TransportProtocol() != tcpip.TransportProtocolNumber(header.ICMPv6ProtocolNumber) ||
		icmp.Type() != header.ICMPv6DstUnreachable || icmp.Code() != header.ICMPv6AddressUnreachable ||
		!bytes.Equal(icmp.Payload(), packet[:min(len(packet), 1232)]) {
		tb.Errorf("%x", e)
	}
}

func TestUnreachable(t *testing.T) {
	udp := func(src, dst string, n int) []byte {
		return vpntest.Packet(netip.MustParseAddr(src), netip.MustParseAddr(dst), 17, make([]byte, n))
	}
	icmp := func(kind byte) []byte {
		return vpntest.Packet(sender4, absent4, protocolICMP, []byte{kind, 0, 0, 0, 0, 0, 0, 0})
	}
	icmp6 := func(kind byte, before ...byte) []byte {
		next := byte(protocolICMPv6)
		if len(before) > 0 {
			next = before[0]
		}
		return vpntest.Packet(sender6, absent6, next, append(before[min(1, len(before)):], kind, 0, 0, 0, 0, 0, 0, 0))
	}
	with := func(b []byte, at int, v byte) []byte {
		b[at] = v
		return b
	}
	hop := []byte{0, protocolICMPv6, 0, 0, 0, 0, 0, 0, 0}               // a hop-by-hop header of 8 bytes
	frag := []byte{44, 17, 0, 0, 8, 0, 0, 0, 0}                         // a later fragment
	first := []byte{44, protocolICMPv6, 0, 0, 1, 0, 0, 0, 0}            // a first fragment
	auth := []byte{51, protocolICMPv6, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0} // 12 bytes
	for name, test := range map[string]struct {
		packet []byte
		told   bool
	}{
		"UDP":                    {udp("10.255.0.2", "10.0.0.9", 30), true},
		"long":                   {udp("10.255.0.2", "10.0.0.9", 1400), true},
		"odd length":             {udp("10.255.0.2", "10.0.0.9", 31), true},
		"trailing bytes":         {append(udp("10.255.0.2", "10.0.0.9", 8), 1, 2, 3), true},
		"echo request":           {icmp(8), true},
		"destination broadcast":  {udp("10.255.0.2", "255.255.255.255", 8), false},
		"destination multicast":  {udp("10.255.0.2", "224.0.0.251", 8), false},
		"source multicast":       {udp("224.0.0.251", "10.0.0.9", 8), false},
		"source unspecified":     {udp("0.0.0.0", "10.0.0.9", 8), false},
		"source loopback":        {udp("127.0.0.1", "10.0.0.9", 8), false},
		"about unreachable":      {icmp(3), false},
		"about time exceeded":    {icmp(11), false},
		"about unknown":          {icmp(77), false},
		"first fragment":         {with(udp("10.255.0.2", "10.0.0.9", 30), 6, 0x20), true},
		"later fragment":         {with(udp("10.255.0.2", "10.0.0.9", 30), 7, 1), false},
		"header beyond the end":  {with(udp("10.255.0.2", "10.0.0.9", 8), 0, 0x4f), false},
		"header too short":       {with(udp("10.255.0.2", "10.0.0.9", 8), 0, 0x44), false},
		"nothing but a header":   {udp("10.255.0.2", "10.0.0.9", 0), false},
		"UDP6":                   {udp("fd00::2", "fd00::9", 30), true},
		"long6":                  {udp("fd00::2", "fd00::9", 1380), true},
		"odd length6":            {udp("fd00::2", "fd00::9", 31), true},
		"echo request6":          {icmp6(128), true},
		"about unreachable6":     {icmp6(1), false},
		"about redirect6":        {icmp6(137), false},
		"echo behind options6":   {icmp6(128, hop...), true},
		"error behind options6":  {icmp6(3, hop...), false},
		"error behind auth6":     {icmp6(3, auth...), false},
		"echo behind auth6":      {icmp6(128, auth...), true},
		"error in fragment6":     {icmp6(3, first...), false},
		"echo in fragment6":      {icmp6(128, first...), true},
		"later fragment6":        {icmp6(0, frag...), false},
		"options without end6":   {icmp6(0, 60, 60, 200), false},
		"destination multicast6": {udp("fd00::2", "ff02::2", 8), false},
		"source unspecified6":    {udp("::", "fd00::9", 8), false},
		"no packet":              {[]byte{1, 2, 3}, false},
	} {
		e := unreachable(test.packet)
		if (e != nil) != test.told {
			t.Errorf("%s: %x", name, e)
		}
		if e != nil {
			checkUnreachable(t, e, test.packet)
			if unreachable(e[headerSize:]) != nil {
				t.Errorf("%s: an error about an error", name)
			}
		}
	}
}

// The sender behind the TUN is told, not more often than so many times a second, and the device's packets pass.
func TestSenderIsToldOfAbsentDevice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := idle(t)
		present := netip.MustParseAddr("10.0.0.8")
		live(t, g, present)
		out := &recorder{Bind: g.cfg.Bind}
		g.cfg.Bind = out
		dev := g.tun().(*vpntest.TUN)
		tr := &transmitter{g: g}
		buffers, sizes := makeBuffers(4), make([]int, 4)
		lost := vpntest.Packet(sender4, absent4, 17, make([]byte, 20))
		lost6 := vpntest.Packet(sender6, absent6, 17, make([]byte, 20))
		batch := func() {
			for i, p := range [][]byte{lost, vpntest.Packet(sender4, present, 17, make([]byte, 20)), lost6, lost} {
				sizes[i] = copy(buffers[i][headerSize:], p)
			}
			tr.batch(buffers, sizes, g.now())
		}
		batch()
		for i, want := range [][]byte{lost, lost6, lost} {
			select {
			case e := <-dev.Packets():
				checkUnreachable(t, append(make([]byte, headerSize), e...), want)
			default:
				t.Fatalf("%d errors", i)
			}
		}
		for range 1000 {
			batch()
		}
		if s := g.Stats(); s.Unreachable != unreachablePerSecond || s.NoSession != 3*1001 || len(out.sent) != 1001 {
			t.Errorf("%+v", s)
		}
		time.Sleep(time.Second)
		batch()
		if s := g.Stats(); s.Unreachable != unreachablePerSecond+3 {
			t.Errorf("%d errors", s.Unreachable)
		}
	})
}

func FuzzUnreachable(f *testing.F) {
	f.Add(vpntest.Packet(sender4, absent4, 17, make([]byte, 1400)))
	f.Add(vpntest.Packet(sender6, absent6, 44, []byte{58, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0}))
	f.Add(vpntest.Packet(sender6, absent6, 0, []byte{51, 255, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0}))
	f.Add(vpntest.EchoRequest(sender4, absent4, 1, 1, nil))
	f.Fuzz(func(t *testing.T, packet []byte) {
		if e := unreachable(packet); e != nil {
			checkUnreachable(t, e, packet)
		}
	})
}
