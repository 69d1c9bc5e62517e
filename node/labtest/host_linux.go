package labtest

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"
)

// EchoPort is where a host sends back what it receives by TCP.
const EchoPort = 7

// A Host is a machine on the LAN behind the gateways, with an iperf3 server and
// a TCP echo.
type Host struct {
	*Node
	streams int // so far
}

// Host makes a host. It has no route but to the LAN: gateways must masquerade.
func (l *Lab) Host(name string) *Host {
	l.tb.Helper()
	h := &Host{Node: l.Node(name, LAN, hostBase+l.hosts)}
	l.hosts++
	h.Echo(netip.AddrPortFrom(h.LAN, EchoPort))
	return h
}

// Echo sends back whatever arrives by TCP at an address of the node, until the
// test ends.
func (n *Node) Echo(addr netip.AddrPort) {
	n.lab.tb.Helper()
	ln, err := n.Listen(addr)
	if err != nil {
		n.lab.tb.Fatalf("%s: listen: %v", n.Name, err)
	}
	e := &echo{listener: ln, conns: make(map[net.Conn]bool)}
	e.wg.Go(e.accept)
	n.lab.tb.Cleanup(e.close)
}

type echo struct {
	listener net.Listener
	wg       sync.WaitGroup

	mu    sync.Mutex // guards conns
	conns map[net.Conn]bool
}

// accept runs until the listener is closed.
func (e *echo) accept() {
	for {
		conn, err := e.listener.Accept()
		if err != nil {
			return
		}
		e.mu.Lock()
		e.conns[conn] = true
		e.mu.Unlock()
		e.wg.Go(func() {
			_, _ = io.Copy(conn, conn) // ends with the connection, however
			e.mu.Lock()
			delete(e.conns, conn)
			e.mu.Unlock()
			conn.Close()
		})
	}
}

func (e *echo) close() {
	e.listener.Close()
	e.mu.Lock()
	for conn := range e.conns {
		conn.Close()
	}
	e.mu.Unlock()
	e.wg.Wait()
}

// Ask opens a TCP connection to an echo, sends a line and waits for it to come
// back, all within limit. It may be called from any goroutine.
func (n *Node) Ask(addr netip.AddrPort, limit time.Duration) (took time.Duration, err error) {
	begin := time.Now()
	conn, err := n.Dial(addr, limit)
	if err != nil {
		return 0, fmt.Errorf("ask echo: %w", err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(begin.Add(limit)); err != nil {
		return 0, fmt.Errorf("ask echo: %w", err)
	}
	question := "echo " + strconv.FormatInt(begin.UnixNano(), 36)
	if _, err := io.WriteString(conn, question); err != nil {
		return 0, fmt.Errorf("ask echo: %w", err)
	}
	answer := make([]byte, len(question))
	if _, err := io.ReadFull(conn, answer); err != nil {
		return 0, fmt.Errorf("ask echo: %w", err)
	}
	if string(answer) != question {
		return 0, fmt.Errorf("ask echo: sent %q, got %q", question, answer)
	}
	return time.Since(begin), nil
}

// Stream is the result of an iperf3 run.
type Stream struct {
	Bytes       uint64  // received
	Bits        float64 // per second, received
	Retransmits int     // TCP segments sent again
}

// Stream sends TCP from the node to a host for d (whole seconds, at least one)
// as fast as it goes, or as further flags of iperf3(1) want it: "-R" for the
// other direction, "-b", "100M" for a rate.
func (n *Node) Stream(host *Host, d time.Duration, flags ...string) (s Stream, err error) {
	n.lab.tb.Helper()
	port := host.listenForStream()
	ctx, cancel := context.WithTimeout(context.Background(), d+runLimit)
	defer cancel()
	args := []string{"iperf3", "-J", "-c", host.LAN.String(), "-p", port, "-t", strconv.Itoa(max(1, int(d.Seconds())))}
	out, err := output(n.Command(ctx, append(args, flags...)...), "")
	var report struct {
		Error string
		End   struct {
			Sent struct {
				Retransmits int
			} `json:"sum_sent"`
			Received struct {
				Bytes         uint64
				BitsPerSecond float64 `json:"bits_per_second"`
			} `json:"sum_received"`
		}
	}
	if bad := json.Unmarshal([]byte(out), &report); bad != nil && err == nil {
		err = bad
	}
	if err != nil || report.Error != "" {
		return Stream{}, fmt.Errorf("stream to %s: %w (%s)", host.Name, err, report.Error)
	}
	return Stream{report.End.Received.Bytes, report.End.Received.BitsPerSecond, report.End.Sent.Retransmits}, nil
}

// listenForStream starts a server for one stream: one that lives on refuses
// whoever comes in the moment after a stream.
func (h *Host) listenForStream() (port string) {
	h.lab.tb.Helper()
	h.streams++
	port = strconv.Itoa(5200 + h.streams)
	server := h.Start("iperf3-"+port, nil, "iperf3", "-s", "-1", "-p", port, "--forceflush")
	server.wanted = true
	h.lab.Eventually(runLimit, h.Name+": iperf3 listens", func() bool {
		return strings.Contains(server.Log(), "Server listening")
	})
	return port
}

// Pour sends to an echo, over one TCP connection, about rate bytes per second
// for d, and returns how many came back. A silence of five seconds is an error.
// It may be called from any goroutine.
func (n *Node) Pour(addr netip.AddrPort, d time.Duration, rate int) (back uint64, err error) {
	const limit, step = 5 * time.Second, 20 * time.Millisecond
	conn, err := n.Dial(addr, limit)
	if err != nil {
		return 0, fmt.Errorf("pour: %w", err)
	}
	defer conn.Close()
	piece := make([]byte, max(1, rate/int(time.Second/step)))
	tick := time.NewTicker(step)
	defer tick.Stop()
	for end := time.Now().Add(d); time.Now().Before(end); <-tick.C {
		err := conn.SetDeadline(time.Now().Add(limit))
		if err == nil {
			_, err = conn.Write(piece)
		}
		if err == nil {
			_, err = io.ReadFull(conn, piece)
		}
		if err != nil {
			return back, fmt.Errorf("pour: %w", err)
		}
		back += uint64(len(piece))
	}
	return back, nil
}

// Poke sends an ICMP echo request to each target every interval from now on,
// through the router if it is valid, until stop is called.
func (h *Host) Poke(router netip.Addr, targets []netip.Addr, interval time.Duration) (stop func()) {
	h.lab.tb.Helper()
	for _, t := range targets {
		h.Run("ip", "route", "replace", t.String(), "via", router.String())
	}
	var conn net.PacketConn
	err := h.inside(func() (err error) {
		conn, err = net.ListenPacket("ip4:icmp", h.LAN.String())
		return err
	})
	if err != nil {
		h.lab.tb.Fatalf("%s: open raw socket: %v", h.Name, err)
	}
	end := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		defer conn.Close()
		tick := time.NewTicker(interval)
		defer tick.Stop()
		for seq := uint32(0); ; seq++ {
			for _, t := range targets {
				packet := echoRequest(h.LAN, t, seq)
				_, _ = conn.WriteTo(packet[20:], &net.IPAddr{IP: t.AsSlice()}) // an ICMP error of an earlier one
			}
			select {
			case <-end:
				return
			case <-tick.C:
			}
		}
	})
	return sync.OnceFunc(func() {
		close(end)
		wg.Wait()
	})
}
