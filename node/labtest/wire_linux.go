package labtest

import (
	"encoding/binary"
	"net"
	"net/netip"
	"slices"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
)

// RecordAll keeps the IPv4 packets of TCP and UDP from or to a port that pass
// the node's interface to a network, to the end of the test.
func (n *Node) RecordAll(network int, port uint16) *Recording {
	n.lab.tb.Helper()
	return n.Record(network, func(packet []byte) bool {
		header := int(packet[0]&15) * 4
		if p := packet[9]; p != unix.IPPROTO_TCP && p != unix.IPPROTO_UDP || len(packet) < header+8 {
			return false
		}
		return binary.BigEndian.Uint16(packet[header:]) == port || binary.BigEndian.Uint16(packet[header+2:]) == port
	})
}

// Streams returns what each TCP connection to the port carried towards it, in
// the order of the connections. One whose beginning or whose middle was not
// recorded ends there.
func (r *Recording) Streams(port uint16) (all [][]byte) {
	type key struct {
		from netip.Addr
		port uint16
	}
	type stream struct {
		next uint32
		data []byte
	}
	streams := map[key]*stream{}
	var order []*stream
	for _, p := range r.Packets() {
		header := int(p[0]&15) * 4
		tcp := p[header:min(len(p), int(binary.BigEndian.Uint16(p[2:])))]
		if p[9] != unix.IPPROTO_TCP || len(tcp) < 20 || binary.BigEndian.Uint16(tcp[2:]) != port {
			continue
		}
		const syn = 2
		k := key{netip.AddrFrom4([4]byte(p[12:])), binary.BigEndian.Uint16(tcp)}
		seq, data := binary.BigEndian.Uint32(tcp[4:]), tcp[min(len(tcp), int(tcp[12]>>4)*4):]
		if tcp[13]&syn != 0 {
			streams[k] = &stream{next: seq + 1}
			order = append(order, streams[k])
			continue
		}
		if s := streams[k]; s != nil && seq == s.next {
			s.data, s.next = append(s.data, data...), seq+uint32(len(data))
		}
	}
	for _, s := range order {
		all = append(all, slices.Clone(s.data))
	}
	return all
}

// Silent listens on a TCP port of the node and says nothing to those who come,
// until the test ends.
func (n *Node) Silent(port uint16) {
	n.lab.tb.Helper()
	l, err := n.Listen(netip.AddrPortFrom(netip.IPv4Unspecified(), port))
	if err != nil {
		n.lab.tb.Fatalf("listen at %s: %v", n.Name, err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		var held []net.Conn
		for {
			c, err := l.Accept()
			if err != nil {
				break
			}
			held = append(held, c)
		}
		for _, c := range held {
			c.Close()
		}
	}()
	n.lab.tb.Cleanup(func() {
		l.Close()
		<-done
	})
}

// Multicast sends datagrams to a group on the LAN, from the group's port, which
// is to be free on the node.
func (n *Node) Multicast(group netip.AddrPort, messages [][]byte) {
	n.lab.tb.Helper()
	err := n.inside(func() error {
		conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: n.LAN.AsSlice(), Port: int(group.Port())})
		if err != nil {
			return err
		}
		defer conn.Close()
		lan, err := net.InterfaceByName(lanName)
		if err == nil {
			err = ipv4.NewPacketConn(conn).SetMulticastInterface(lan)
		}
		for _, m := range messages {
			if err == nil {
				_, err = conn.WriteToUDPAddrPort(m, group)
			}
		}
		return err
	})
	if err != nil {
		n.lab.tb.Errorf("multicast from %s: %v", n.Name, err)
	}
}
