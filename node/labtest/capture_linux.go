package labtest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// Types of WireGuard messages (whitepaper, section 5.4).
const (
	Initiation = 1
	Response   = 2
	Cookie     = 3
	Data       = 4
)

// Counts are frames by message type; index 0 is not used. A frame may carry
// several datagrams of type 4 where the sender's kernel left the cutting to a
// network card.
type Counts [Data + 1]int

// A Flow is one direction between the node under capture and a peer.
type Flow struct {
	Peer netip.Addr
	Out  bool // from the node to the peer
}

// A Capture counts the WireGuard messages on the wire of a node.
type Capture struct {
	node *Node
	port uint16
	file *os.File

	mu    sync.Mutex // guards flows
	flows map[Flow]Counts

	done chan struct{} // closed when the reader has ended
}

// Capture counts, from now to the end of the test, what passes the node's
// interface to the internet from or to one of its UDP ports.
func (n *Node) Capture(port uint16) *Capture {
	n.lab.tb.Helper()
	c := &Capture{node: n, port: port, flows: make(map[Flow]Counts), done: make(chan struct{})}
	c.file = n.packetSocket(internetName)
	go c.run()
	n.lab.tb.Cleanup(func() {
		c.file.Close()
		<-c.done
	})
	return c
}

const captureBuffer = 16 << 20

// packetSocket opens a socket that reads all that passes an interface, from
// the network header on.
func (n *Node) packetSocket(iface string) (file *os.File) {
	n.lab.tb.Helper()
	err := n.inside(func() (err error) {
		file, err = n.openPacketSocket(iface)
		return err
	})
	if err != nil {
		n.lab.tb.Fatalf("capture at %s: %v", n.Name, err)
	}
	return file
}

// openPacketSocket opens it in the namespace it is called in.
func (n *Node) openPacketSocket(iface string) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open packet socket: %w", err)
	}
	link, err := n.nl.LinkByName(iface)
	if err == nil {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, captureBuffer)
	}
	if err == nil {
		all := binary.NativeEndian.Uint16([]byte{0, unix.ETH_P_ALL}) // both directions
		err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: link.Attrs().Index})
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("bind packet socket: %w", err)
	}
	return os.NewFile(uintptr(fd), "capture"), nil
}

func (c *Capture) run() {
	defer close(c.done)
	frame := make([]byte, 256) // the rest of a frame is cut off by the kernel
	for {
		n, err := c.file.Read(frame)
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, unix.ENETDOWN): // an empty packet; the link, which may come back
			continue
		case errors.Is(err, os.ErrClosed):
			return
		case err != nil:
			c.node.lab.tb.Errorf("capture at %s: %v", c.node.Name, err)
			return
		}
		flow, kind, ok := classify(frame[:n], c.node.Addr, c.port)
		if !ok {
			continue
		}
		c.mu.Lock()
		counts := c.flows[flow]
		counts[kind]++
		c.flows[flow] = counts
		c.mu.Unlock()
	}
}

// classify finds the WireGuard message in the beginning of an IPv4 packet from
// or to one UDP port of a node. Fragments and options are admitted; the kernel
// has checked nothing.
func classify(packet []byte, node netip.Addr, port uint16) (flow Flow, kind int, ok bool) {
	if len(packet) < 20 || packet[0]>>4 != 4 || packet[9] != unix.IPPROTO_UDP {
		return Flow{}, 0, false
	}
	const offset = 0x1fff
	header := int(packet[0]&15) * 4
	if header < 20 || len(packet) < header+8+4 || binary.BigEndian.Uint16(packet[6:])&offset != 0 {
		return Flow{}, 0, false
	}
	src, dst := netip.AddrFrom4([4]byte(packet[12:])), netip.AddrFrom4([4]byte(packet[16:]))
	udp := packet[header:]
	message := udp[8:]
	switch {
	case src == node && binary.BigEndian.Uint16(udp) == port:
		flow = Flow{dst, true}
	case dst == node && binary.BigEndian.Uint16(udp[2:]) == port:
		flow = Flow{src, false}
	default:
		return Flow{}, 0, false
	}
	kind = int(message[0])
	if kind < Initiation || kind > Data || message[1]|message[2]|message[3] != 0 {
		return Flow{}, 0, false
	}
	return flow, kind, true
}

// Flow returns the counts of one direction between the node and a peer.
func (c *Capture) Flow(peer netip.Addr, out bool) Counts {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.flows[Flow{peer, out}]
}

// Total returns the sum of all flows.
func (c *Capture) Total() (sum Counts) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, counts := range c.flows {
		for kind, n := range counts {
			sum[kind] += n
		}
	}
	return sum
}

// Missed returns how many frames came too fast to be counted since it was
// last called. Counts are exact as long as it returns zero.
func (c *Capture) Missed() (n uint32) {
	c.node.lab.tb.Helper()
	raw, err := c.file.SyscallConn()
	if err == nil {
		err = errors.Join(raw.Control(func(fd uintptr) {
			var stats *unix.TpacketStats
			if stats, err = unix.GetsockoptTpacketStats(int(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS); err == nil {
				n = stats.Drops
			}
		}), err)
	}
	if err != nil {
		c.node.lab.tb.Fatalf("read capture statistics: %v", err)
	}
	return n
}
