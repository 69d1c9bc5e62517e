package labtest

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// A Recording keeps packets that pass an interface of a node, as somebody on
// the wire would.
type Recording struct {
	file *os.File
	done chan struct{} // closed when the reader has ended

	mu      sync.Mutex // guards packets
	packets [][]byte
}

const (
	maxRecorded = 1 << 20 // packets; later ones are not kept
	maxFrame    = 65536
)

// Record keeps the IPv4 packets that keep says true to, from now to the end of
// the test. keep is called by one goroutine, with a packet that is not its own
// and has a whole IPv4 header.
func (n *Node) Record(network int, keep func(packet []byte) bool) *Recording {
	n.lab.tb.Helper()
	iface := internetName
	if network == LAN {
		iface = lanName
	}
	r := &Recording{file: n.packetSocket(iface), done: make(chan struct{})}
	go r.run(keep)
	n.lab.tb.Cleanup(func() {
		r.file.Close()
		<-r.done
	})
	return r
}

func (r *Recording) run(keep func([]byte) bool) {
	defer close(r.done)
	frame := make([]byte, maxFrame)
	for {
		n, err := r.file.Read(frame)
		if errors.Is(err, os.ErrClosed) {
			return
		}
		if err != nil || n < 20 || frame[0]>>4 != 4 || n < int(frame[0]&15)*4 || !keep(frame[:n]) {
			continue // an error is that of a link that is down, and passes
		}
		r.mu.Lock()
		if len(r.packets) < maxRecorded {
			r.packets = append(r.packets, slices.Clone(frame[:n]))
		}
		r.mu.Unlock()
	}
}

// Packets returns what has been kept so far. They are not to be changed.
func (r *Recording) Packets() [][]byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.packets)
}

// RecordMessages keeps the WireGuard messages of a type that come in at the
// node's port from the internet.
func (n *Node) RecordMessages(port uint16, kind int) *Recording {
	n.lab.tb.Helper()
	return n.Record(Internet, func(packet []byte) bool {
		flow, k, ok := classify(packet, n.Addr, port)
		return ok && k == kind && !flow.Out
	})
}

// Payload is what a UDP datagram carries; of anything else it is nil.
func Payload(packet []byte) []byte {
	header := int(packet[0]&15) * 4
	if packet[9] != unix.IPPROTO_UDP || len(packet) < header+8 {
		return nil
	}
	return packet[header+8:]
}

// RecordEchoes keeps the ICMP echo requests to the host.
func (h *Host) RecordEchoes() *Recording {
	h.lab.tb.Helper()
	return h.Record(LAN, func(packet []byte) bool {
		_, _, ok := Echo(packet)
		return ok && netip.AddrFrom4([4]byte(packet[16:])) == h.LAN
	})
}

// Echo takes an echo request of a [Pinger] apart: who sent it as the packet
// says, and what was asked, which no translation of addresses changes.
func Echo(packet []byte) (from netip.Addr, question [8]byte, ok bool) {
	const request = 8
	if len(packet) < echoSize || packet[0] != 0x45 || packet[9] != unix.IPPROTO_ICMP || packet[20] != request {
		return from, question, false
	}
	return netip.AddrFrom4([4]byte(packet[12:])), [8]byte(packet[echoPayload:]), true
}

// An Attacker is a node with a UDP socket that sends what it likes.
type Attacker struct {
	*Node
	conn *net.UDPConn
	done chan struct{} // closed when the reader has ended

	mu       sync.Mutex // guards received
	received Counts     // by message type
}

// Attacker makes a node on the internet with the n-th address, and a socket on
// it.
func (l *Lab) Attacker(name string, n int) *Attacker {
	l.tb.Helper()
	a := &Attacker{Node: l.Node(name, Internet, n), done: make(chan struct{})}
	err := a.inside(func() (err error) {
		a.conn, err = net.ListenUDP("udp4", nil)
		return err
	})
	if err != nil {
		l.tb.Fatalf("%s: %v", name, err)
	}
	go a.run()
	l.tb.Cleanup(func() {
		a.conn.Close()
		<-a.done
	})
	return a
}

func (a *Attacker) run() {
	defer close(a.done)
	message := make([]byte, maxFrame)
	for {
		n, err := a.conn.Read(message)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil || n < 4 {
			continue // an ICMP error
		}
		if kind := binary.LittleEndian.Uint32(message); kind <= Data {
			a.mu.Lock()
			a.received[kind]++
			a.mu.Unlock()
		}
	}
}

// Send sends messages to one address, some 20,000 in a second, so that none is
// lost in a queue.
func (a *Attacker) Send(to netip.AddrPort, messages [][]byte) {
	for i, m := range messages {
		_, _ = a.conn.WriteToUDPAddrPort(m, to) // an ICMP error of an earlier one
		if i%20 == 19 {
			a.lab.Observe(time.Millisecond)
		}
	}
}

// Received counts what was sent to the attacker, by message type.
func (a *Attacker) Received() Counts {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.received
}
