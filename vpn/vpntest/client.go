package vpntest

import (
	"bufio"
	"crypto/ecdh"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
)

// ClientConfig is what a Client is made of.
type ClientConfig struct {
	Bind         conn.Bind
	Port         uint16 // 0: any
	PrivateKey   [32]byte
	PeerKey      [32]byte       // public key of the gateways
	PresharedKey [32]byte       // zero: none
	Endpoint     netip.AddrPort // invalid: none, the client only answers
	Addresses    []netip.Addr   // inner; the client answers echo requests to them
	AllowedIPs   []netip.Prefix // nil: 0.0.0.0/0 and ::/0
	Keepalive    int            // seconds; 0: off
	MTU          int            // 0: 1420
	Log          *device.Logger // nil: silent
}

// Client is the module's own device, the stock client that the gateway is measured by.
type Client struct {
	Device *device.Device
	TUN    *TUN
	cfg    ClientConfig

	mu       sync.Mutex // guards the fields below
	seq      uint16
	waiting  map[uint16]chan struct{}
	received int
}

// NewKey returns a new X25519 key pair.
func NewKey() (private, public [32]byte) {
	k, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		panic(err)
	}
	return [32]byte(k.Bytes()), [32]byte(k.PublicKey().Bytes())
}

// NewClient starts a client, which ends with the test or with Close; in a bubble Close must be called inside it.
func NewClient(tb testing.TB, cfg ClientConfig) *Client {
	tb.Helper()
	if cfg.Log == nil {
		cfg.Log = &device.Logger{Verbosef: device.DiscardLogf, Errorf: device.DiscardLogf}
	}
	if cfg.AllowedIPs == nil {
		cfg.AllowedIPs = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}
	}
	c := &Client{TUN: NewTUN(cfg.MTU), cfg: cfg, waiting: make(map[uint16]chan struct{})}
	c.TUN.Handle(c.handle)
	c.Device = device.NewDevice(c.TUN, cfg.Bind, cfg.Log)
	tb.Cleanup(c.Close)
	if err := c.Device.IpcSet(cfg.text()); err != nil {
		tb.Fatalf("configure client: %v", err)
	}
	keepFinalizersOut(c.Device.LookupPeer(cfg.PeerKey))
	if err := c.Device.Up(); err != nil {
		tb.Fatalf("start client: %v", err)
	}
	return c
}

func (cfg *ClientConfig) text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "private_key=%x\nlisten_port=%d\nreplace_peers=true\npublic_key=%x\n", cfg.PrivateKey, cfg.Port, cfg.PeerKey)
	if cfg.PresharedKey != [32]byte{} {
		fmt.Fprintf(&b, "preshared_key=%x\n", cfg.PresharedKey)
	}
	if cfg.Endpoint.IsValid() {
		fmt.Fprintf(&b, "endpoint=%v\n", cfg.Endpoint)
	}
	for _, p := range cfg.AllowedIPs {
		fmt.Fprintf(&b, "allowed_ip=%v\n", p)
	}
	fmt.Fprintf(&b, "persistent_keepalive_interval=%d\n", cfg.Keepalive)
	return b.String()
}

// Close ends the client. It may be called twice.
func (c *Client) Close() { c.Device.Close() }

// handle takes packets out of the tunnel.
func (c *Client) handle(packet []byte) {
	if reply := EchoReply(packet, c.cfg.Addresses...); reply != nil {
		c.TUN.Inject(reply)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.received++
	_, _, protocol, icmp, ok := Parse(packet)
	if kind, known := echo[protocol]; !ok || !known || len(icmp) < 8 || icmp[0] != kind.reply {
		return
	}
	seq := binary.BigEndian.Uint16(icmp[6:])
	if done := c.waiting[seq]; done != nil {
		delete(c.waiting, seq)
		close(done)
	}
}

// Received counts packets out of the tunnel that are no echo requests for the client.
func (c *Client) Received() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.received
}

// Ping sends an echo request of 56 bytes to an inner address and reports whether the reply came within the timeout.
func (c *Client) Ping(dst netip.Addr, timeout time.Duration) bool {
	_, ok := c.RoundTrip(dst, timeout)
	return ok
}

// RoundTrip is Ping with the time it took.
func (c *Client) RoundTrip(dst netip.Addr, timeout time.Duration) (time.Duration, bool) {
	src, ok := c.source(dst)
	if !ok {
		return 0, false
	}
	done := make(chan struct{})
	c.mu.Lock()
	c.seq++
	seq := c.seq
	c.waiting[seq] = done
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.waiting, seq)
	}()
	begin := time.Now()
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	if !c.TUN.Inject(EchoRequest(src, dst, 1, seq, make([]byte, 56))) {
		return 0, false
	}
	select {
	case <-done:
		return time.Since(begin), true
	case <-timer.C:
		return 0, false
	}
}

// source is the client's inner address of dst's family.
func (c *Client) source(dst netip.Addr) (netip.Addr, bool) {
	for _, a := range c.cfg.Addresses {
		if a.Is4() == dst.Is4() {
			return a, true
		}
	}
	return netip.Addr{}, false
}

// PeerState is what the client knows of the gateways.
type PeerState struct {
	Endpoint         netip.AddrPort
	Handshake        time.Time // zero: none yet
	RxBytes, TxBytes uint64
}

// Peer asks the device.
func (c *Client) Peer(tb testing.TB) (s PeerState) {
	tb.Helper()
	text, err := c.Device.IpcGet()
	if err != nil {
		tb.Fatalf("ask client: %v", err)
	}
	var seconds, nanos int64
	for lines := bufio.NewScanner(strings.NewReader(text)); lines.Scan(); {
		key, value, _ := strings.Cut(lines.Text(), "=")
		switch key {
		case "endpoint":
			s.Endpoint, err = netip.ParseAddrPort(value)
		case "last_handshake_time_sec":
			seconds, err = strconv.ParseInt(value, 10, 64)
		case "last_handshake_time_nsec":
			nanos, err = strconv.ParseInt(value, 10, 64)
		case "rx_bytes":
			s.RxBytes, err = strconv.ParseUint(value, 10, 64)
		case "tx_bytes":
			s.TxBytes, err = strconv.ParseUint(value, 10, 64)
		}
		if err != nil {
			tb.Fatalf("parse %q: %v", lines.Text(), err)
		}
	}
	if seconds != 0 || nanos != 0 {
		s.Handshake = time.Unix(seconds, nanos)
	}
	return s
}

// SetEndpoint points the client at another gateway.
func (c *Client) SetEndpoint(tb testing.TB, to netip.AddrPort) {
	tb.Helper()
	if err := c.Device.IpcSet("public_key=" + hex.EncodeToString(c.cfg.PeerKey[:]) + "\nupdate_only=true\nendpoint=" + to.String() + "\n"); err != nil {
		tb.Fatalf("configure client: %v", err)
	}
}

// Rekey makes the client initiate, unless it did within the last 5 s.
func (c *Client) Rekey(tb testing.TB) {
	tb.Helper()
	if err := c.Device.LookupPeer(c.cfg.PeerKey).SendHandshakeInitiation(false); err != nil {
		tb.Fatalf("initiate: %v", err)
	}
}
