package vpntest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.zx2c4.com/wireguard/device"
)

// Flood is an attacker on real sockets: it sends initiations that no gateway will answer to any WireGuard endpoint, at
// a rate that does not depend on what comes back.
type Flood struct {
	Target        netip.AddrPort // the gateway
	Gateway       [32]byte       // its public key
	Rate          int            // initiations per second
	Sources       []netip.Addr   // addresses of this host to send from in turn, e.g. of 127.0.0.0/8; empty: what the system takes
	Ports         int            // sockets per source; 0: 1
	Keys          [][32]byte     // public keys of enrolled devices to name; empty: keys that nobody has enrolled
	AnswerCookies bool           // send mac2 after a cookie reply, as a real device does
}

// FloodStats is what a Flood did.
type FloodStats struct {
	Sent      uint64        // initiations that left
	Failed    uint64        // that the system refused to send
	Proved    uint64        // of those that left, with mac2
	Cookies   uint64        // cookie replies that came back and opened
	Responses uint64        // of a gateway that was deceived
	Took      time.Duration // from the first to the last
}

const (
	floodTick    = 2 * time.Millisecond // initiations are sent in bursts this far apart
	floodHistory = 256                  // initiations of one socket whose cookie replies can be opened
)

// Run sends until ctx is done, which is no error. Its goroutines have ended when it returns.
func (f Flood) Run(ctx context.Context) (stats FloodStats, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var c floodCounters
	sockets, err := f.open(&c)
	defer func() {
		for _, s := range sockets {
			s.conn.Close()
		}
	}()
	if err != nil {
		return stats, err
	}
	var group errgroup.Group
	for _, s := range sockets {
		group.Go(s.listen)
	}
	begin := time.Now()
	f.send(ctx, sockets)
	took := time.Since(begin)
	for _, s := range sockets {
		s.conn.SetReadDeadline(time.Now())
	}
	err = group.Wait()
	return FloodStats{
		Sent: c.sent.Load(), Failed: c.failed.Load(), Proved: c.proved.Load(),
		Cookies: c.cookies.Load(), Responses: c.responses.Load(), Took: took,
	}, err
}

// send is the open loop. What a late tick has missed is sent by the next one, up to a tenth of a second of it.
func (f Flood) send(ctx context.Context, sockets []*floodSocket) {
	ticker := time.NewTicker(floodTick)
	defer ticker.Stop()
	forger := NewForger(f.Gateway, f.Keys)
	begin, n := time.Now(), 0
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		due := int(time.Since(begin).Seconds() * float64(f.Rate))
		for n = max(n, due-f.Rate/10); n < due; n++ {
			sockets[n%len(sockets)].send(forger, f.AnswerCookies)
		}
	}
}

func (f Flood) open(c *floodCounters) (sockets []*floodSocket, err error) {
	sources := f.Sources
	if len(sources) == 0 {
		sources = []netip.Addr{{}}
	}
	opener := NewForger(f.Gateway, nil)
	for range max(f.Ports, 1) {
		for _, from := range sources {
			local := net.UDPAddrFromAddrPort(netip.AddrPortFrom(from, 0))
			if !from.IsValid() {
				local = nil
			}
			conn, err := net.DialUDP("udp", local, net.UDPAddrFromAddrPort(f.Target))
			if err != nil {
				return sockets, fmt.Errorf("open a source of the flood: %w", err)
			}
			sockets = append(sockets, &floodSocket{conn: conn, forger: opener, counters: c})
		}
	}
	return sockets, nil
}

type floodCounters struct{ sent, failed, proved, cookies, responses atomic.Uint64 }

// floodSocket is one source.
type floodSocket struct {
	conn     *net.UDPConn
	forger   *Forger // opens cookies; nothing of it changes
	counters *floodCounters

	mu     sync.Mutex // guards the fields below
	recent [floodHistory][]byte
	n      int
	cookie [16]byte
}

func (s *floodSocket) send(forger *Forger, prove bool) {
	var cookie [16]byte
	s.mu.Lock()
	if prove {
		cookie = s.cookie
	}
	m := forger.Next(cookie)
	s.recent[s.n%floodHistory] = m
	s.n++
	s.mu.Unlock()
	if _, err := s.conn.Write(m); err != nil {
		s.counters.failed.Add(1)
		return
	}
	s.counters.sent.Add(1)
	if cookie != [16]byte{} {
		s.counters.proved.Add(1)
	}
}

// listen counts what comes back and keeps cookies. It ends with the socket or its deadline.
func (s *floodSocket) listen() error {
	b := make([]byte, 256)
	for {
		n, err := s.conn.Read(b)
		if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, net.ErrClosed) {
			return nil
		}
		switch {
		case err != nil: // e.g. an ICMP error
			time.Sleep(time.Millisecond)
		case n == device.MessageResponseSize && b[0] == device.MessageResponseType:
			s.counters.responses.Add(1)
		case n == device.MessageCookieReplySize && b[0] == device.MessageCookieReplyType:
			s.keep(b[:n])
		}
	}
}

func (s *floodSocket) keep(reply []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range s.recent {
		if m == nil || binary.LittleEndian.Uint32(m[4:]) != binary.LittleEndian.Uint32(reply[4:]) {
			continue
		}
		if cookie, ok := s.forger.Cookie(reply, m); ok {
			s.cookie = cookie
			s.counters.cookies.Add(1)
		}
	}
}
