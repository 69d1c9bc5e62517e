package mesh

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pion/logging"
	"github.com/pion/mdns/v2"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

const (
	lanService    = "_gatemesh._tcp"
	lanKey        = "h"                    // of the TXT record that holds a hint
	lanQuery      = 500 * time.Millisecond // how often who looks for others asks
	lanInterfaces = 5 * time.Second        // how often interfaces are looked at
)

// LANSystem is multicast DNS (RFC 6762) service discovery (RFC 6763) on all
// interfaces of this host, beside whatever else does it here. The service is
// _gatemesh._tcp; the hint is in its TXT record.
var LANSystem LAN = lanSystem{}

type lanSystem struct{}

// Open implements [LAN].
func (lanSystem) Open(name string, port uint16, log *slog.Logger) (LANConn, error) {
	ctx, cancel := context.WithCancel(context.Background())
	c := &lanConn{
		name: name, port: port, log: log, cancel: cancel,
		seen: make(chan lanHint, 64), ended: make(chan struct{}),
	}
	if err := c.open(); err != nil {
		cancel()
		return nil, err
	}
	go c.follow(ctx)
	return c, nil
}

type lanHint struct {
	hint []byte
	from netip.AddrPort
}

// lanConn is a responder and a browser. pion reads the interfaces once, so
// that both are made anew when these change.
type lanConn struct {
	name   string
	port   uint16
	log    *slog.Logger
	seen   chan lanHint
	cancel context.CancelFunc
	ended  chan struct{}

	mu       sync.Mutex // guards the fields below
	closed   bool
	browsing bool // what is asked for is wanted
	hint     []byte
	mdns     *mdns.Conn // nil: no interface is fit
	having   []string   // interfaces and addresses when it was made
}

// open makes the responder and browser for the interfaces that there are. c.mu
// is held, or nobody else has c yet. Without any interface that is fit it
// does nothing.
func (c *lanConn) open() error {
	c.having = interfaces()
	conn, err := c.dial(false)
	if err != nil {
		// A host without a network still finds its own processes.
		if conn, err = c.dial(true); err != nil {
			return err
		}
	}
	conn.OnServiceDiscovered(c.discovered)
	if c.browsing {
		if err := browse(conn); err != nil {
			return errors.Join(err, conn.Close())
		}
	}
	c.mdns = conn
	return nil
}

// browse makes conn ask for hints, once per query interval, until it is
// closed.
func browse(conn *mdns.Conn) error {
	if err := conn.Browse(context.Background(), lanService); err != nil {
		return fmt.Errorf("browse: %w", err)
	}
	return nil
}

// listen begins to browse, unless that is done.
func (c *lanConn) listen() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.browsing || c.closed {
		return nil
	}
	c.browsing = true
	if c.mdns == nil {
		return nil
	}
	return browse(c.mdns)
}

// dial opens the sockets, IPv4, IPv6 or both, whichever there is.
func (c *lanConn) dial(loopback bool) (*mdns.Conn, error) {
	var p4 *ipv4.PacketConn
	var p6 *ipv6.PacketConn
	u4, err4 := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(224, 0, 0, 0), Port: 5353})
	if err4 == nil {
		p4 = ipv4.NewPacketConn(u4)
	}
	u6, err6 := net.ListenUDP("udp6", &net.UDPAddr{IP: net.ParseIP("ff02::"), Port: 5353})
	if err6 == nil {
		p6 = ipv6.NewPacketConn(u6)
	}
	if p4 == nil && p6 == nil {
		return nil, errors.Join(err4, err6)
	}
	conn, err := mdns.NewServer(
		p4, p6,
		mdns.WithLoggerFactory(lanLogs{c.log}),
		mdns.WithIncludeLoopback(loopback),
		mdns.WithLocalNames(c.name+".local"),
		mdns.WithQueryInterval(lanQuery),
		mdns.WithResponseTTL(10),
		mdns.WithCacheRefresh(false),
		mdns.WithService(c.service()),
	)
	if err != nil {
		if u4 != nil {
			u4.Close()
		}
		if u6 != nil {
			u6.Close()
		}
		return nil, fmt.Errorf("start multicast DNS: %w", err)
	}
	return conn, nil
}

func (c *lanConn) service() mdns.ServiceInstance {
	return mdns.ServiceInstance{
		Instance: c.name, Service: lanService, Domain: "local",
		Host: c.name + ".local.", Port: c.port, Text: lanText(c.hint),
	}
}

func lanText(hint []byte) []mdns.TXTEntry {
	return []mdns.TXTEntry{mdns.NewTXTString(lanKey, base64.RawStdEncoding.EncodeToString(hint))}
}

// parseLANText finds the hint in a TXT record.
func parseLANText(text []mdns.TXTEntry) ([]byte, bool) {
	for _, t := range text {
		if strings.EqualFold(t.Key, lanKey) {
			b, err := base64.RawStdEncoding.Strict().DecodeString(string(t.Value))
			return b, err == nil && len(b) > 0 && len(b) <= 64
		}
	}
	return nil, false
}

// discovered is called by the goroutines of mdns.
func (c *lanConn) discovered(e mdns.ServiceEvent) {
	b, ok := parseLANText(e.Instance.Text)
	if !ok || !e.Addr.IsValid() {
		return
	}
	from := netip.AddrPortFrom(e.Addr.Unmap(), e.Instance.Port)
	select {
	case c.seen <- lanHint{b, from}:
	default:
	}
}

// Announce implements [LANConn].
func (c *lanConn) Announce(hint []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return net.ErrClosed
	}
	c.hint = slices.Clone(hint)
	if c.mdns == nil {
		return nil
	}
	return c.mdns.UpdateTXT(c.name, lanService, lanText(hint))
}

// Receive implements [LANConn].
func (c *lanConn) Receive(ctx context.Context) ([]byte, netip.AddrPort, error) {
	if err := c.listen(); err != nil {
		return nil, netip.AddrPort{}, err
	}
	select {
	case h := <-c.seen:
		return h.hint, h.from, nil
	case <-c.ended:
		return nil, netip.AddrPort{}, net.ErrClosed
	case <-ctx.Done():
		return nil, netip.AddrPort{}, ctx.Err()
	}
}

// Close implements [LANConn].
func (c *lanConn) Close() error {
	c.mu.Lock()
	c.closed = true
	conn := c.mdns
	c.mdns = nil
	c.mu.Unlock()
	c.cancel()
	<-c.ended
	if conn == nil {
		return nil
	}
	return conn.Close()
}

// follow makes everything anew when the interfaces change, until ctx ends.
func (c *lanConn) follow(ctx context.Context) {
	defer close(c.ended)
	for sleep(ctx, lanInterfaces) == nil {
		c.mu.Lock()
		if c.closed || slices.Equal(interfaces(), c.having) {
			c.mu.Unlock()
			continue
		}
		old := c.mdns
		c.mdns = nil
		err := c.open()
		c.mu.Unlock()
		if old != nil {
			_ = old.Close() // its interfaces may be gone
		}
		if err != nil {
			c.log.Debug("multicast DNS", "err", err)
		}
	}
}

// interfaces describes those that are up.
func interfaces() []string {
	list, err := net.Interfaces()
	if err != nil {
		return nil
	}
	var s []string
	for _, i := range list {
		if i.Flags&net.FlagUp == 0 {
			continue
		}
		addrs, err := i.Addrs()
		if err != nil {
			continue
		}
		for _, a := range addrs {
			s = append(s, i.Name+" "+a.String())
		}
	}
	return s
}

// lanLogs passes the log of mdns on, at level Debug.
type lanLogs struct{ log *slog.Logger }

// NewLogger implements [logging.LoggerFactory].
func (l lanLogs) NewLogger(string) logging.LeveledLogger { return lanLog(l) }

type lanLog struct{ log *slog.Logger }

func (lanLog) Trace(string)          {}
func (lanLog) Tracef(string, ...any) {}
func (lanLog) Debug(string)          {}
func (lanLog) Debugf(string, ...any) {}
func (lanLog) Info(string)           {}
func (lanLog) Infof(string, ...any)  {}

func (l lanLog) Warn(s string)             { l.log.Debug("multicast DNS", "said", s) }
func (l lanLog) Warnf(s string, a ...any)  { l.Warn(fmt.Sprintf(s, a...)) }
func (l lanLog) Error(s string)            { l.log.Debug("multicast DNS", "said", s) }
func (l lanLog) Errorf(s string, a ...any) { l.Error(fmt.Sprintf(s, a...)) }
