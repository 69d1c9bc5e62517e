package nodetest

import (
	"context"
	"encoding/base64"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"gatemesh/mesh/meshtest"
	"gatemesh/node"
	"gatemesh/node/api"
	"gatemesh/vpn/vpntest"
)

// Inner is the address of every gateway inside the tunnel.
var Inner = netip.MustParseAddr("100.64.0.1")

// DevicePort is the UDP port of every gateway.
const DevicePort = 51820

// World is the gateways, the devices and what lies between them.
type World struct {
	Net      *meshtest.Network
	Internet *vpntest.Internet
	Key      node.ClusterKey // of every gateway's --key
	tb       testing.TB

	logs  sync.Mutex // guards lines
	lines []string
}

// New returns an empty world. It must be made inside the bubble that it is
// used in; seed is that of loss and jitter.
func New(tb testing.TB, seed uint64) *World {
	tb.Helper()
	w := &World{Net: meshtest.NewNetwork(seed), Internet: vpntest.NewInternet(seed), tb: tb}
	w.Key[0] = 1
	// Without any the stock client starts its retransmission timer after the
	// response, and shakes hands once more 5 s later.
	w.Internet.SetFaults(vpntest.Faults{Latency: time.Millisecond})
	// Registered first, so it is the last: the clock of a bubble stands still
	// when its test has ended, and memberlist has probes under way till then.
	tb.Cleanup(func() { time.Sleep(5 * time.Second) })
	return w
}

// Gateway is one gateway and its data directory, which outlives its processes.
type Gateway struct {
	*node.Node // of the last start
	Addr       netip.Addr
	Name       string
	w          *World
	dir        string
	skew       time.Duration
	cancel     context.CancelFunc
	done       chan struct{}
	err        error // of Run, valid when done is closed
}

// Gateway returns gateway number i, from 1, not started.
func (w *World) Gateway(i int, name string) *Gateway {
	return &Gateway{Addr: meshtest.Addr(i), Name: name, w: w, dir: w.tb.TempDir()}
}

// Dir returns its data directory.
func (g *Gateway) Dir() string { return g.dir }

// Skew sets the gateway's wall clock apart from the next start on.
func (g *Gateway) Skew(d time.Duration) { g.skew = d }

// Start starts the gateway and returns at once. Change may alter its
// configuration before.
func (g *Gateway) Start(change ...func(*node.Config)) {
	g.w.tb.Helper()
	key := g.w.Key
	g.w.Internet.Down(g.Addr, false)
	cfg := node.Config{
		Data: g.dir, Name: g.Name, Key: &key, Version: "test",
		Network: g.w.Net.Host(g.Addr), LAN: g.w.Net.LAN(g.Addr),
		Bind: g.w.Internet.Bind(g.Addr), TUN: vpntest.NewEchoTUN(0),
		Dataplane: node.DataplaneUserspace, Control: newSilent(),
		Now: func() time.Time { return time.Now().Add(g.skew) },
		Log: slog.New(slog.NewTextHandler(testWriter{g.w, g.Name}, nil)),
	}
	for _, f := range change {
		f(&cfg)
	}
	n, err := node.New(cfg)
	if err != nil {
		g.w.tb.Fatalf("%s: %v", g.Name, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	g.Node, g.cancel, g.done = n, cancel, make(chan struct{})
	go func() {
		defer close(g.done)
		g.err = errors.Join(n.Run(ctx), n.Close())
	}()
	g.w.tb.Cleanup(g.Stop)
}

// Stop ends the gateway as a signal would, and waits for it. It may be called
// when it does not run.
func (g *Gateway) Stop() {
	if err := g.end(); err != nil {
		g.w.tb.Errorf("%s: %v", g.Name, err)
	}
}

func (g *Gateway) end() error {
	if g.cancel == nil {
		return nil
	}
	g.cancel()
	<-g.done
	g.cancel = nil
	return g.err
}

// Ended waits until the gateway has ended by itself and returns why.
func (g *Gateway) Ended(limit time.Duration) error {
	g.w.tb.Helper()
	select {
	case <-g.done:
	case <-time.After(limit):
		g.w.tb.Fatalf("%s: still runs after %v", g.Name, limit)
	}
	g.cancel()
	g.cancel = nil
	return g.err
}

// Reborn waits until the gateway gives up its cluster, and starts it as what it has become.
func (g *Gateway) Reborn() {
	g.w.tb.Helper()
	if err := g.Ended(2 * time.Hour); !errors.Is(err, node.ErrReset) {
		g.w.tb.Fatalf("%s does not begin anew: %v", g.Name, err)
	}
	g.Start(func(c *node.Config) { *c = c.Reset() })
}

// Kill ends the gateway as kill -9 would: nothing that it says in its end gets
// out.
func (g *Gateway) Kill() {
	g.w.Internet.Down(g.Addr, true)
	g.w.Net.Kill(g.Addr)
	g.end() // its sockets were closed under it: what it says of that is not of interest
}

// Vanish takes the gateway's host off every network while the process lives.
func (g *Gateway) Vanish() {
	g.w.Internet.Down(g.Addr, true)
	g.w.Net.Vanish(g.Addr)
}

// Return undoes Vanish.
func (g *Gateway) Return() {
	g.w.Internet.Down(g.Addr, false)
	g.w.Net.Return(g.Addr)
}

// Ready says whether the gateway takes devices and sees n gateways alive.
func (g *Gateway) Ready(n int) bool {
	s, err := g.Status(context.Background())
	return err == nil && s.Ready && s.Gateways == n
}

// Wait lets time pass until ok, and fails the test after limit. It returns how
// long it took.
func (w *World) Wait(what string, limit time.Duration, ok func() bool) time.Duration {
	w.tb.Helper()
	begin := time.Now()
	for {
		synctest.Wait()
		if ok() {
			return time.Since(begin)
		}
		if time.Since(begin) > limit {
			w.tb.Fatalf("not within %v: %s", limit, what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// settle is the time in which links that both sides dialed become one. What is
// under way on the other one is lost.
const settle = 2 * time.Second

// WaitReady waits until each gateway is ready and sees all of them, and
// returns how long that took. The links have settled by then.
func (w *World) WaitReady(limit time.Duration, gateways ...*Gateway) time.Duration {
	w.tb.Helper()
	took := w.Wait("one cluster of all gateways", limit, func() bool {
		for _, g := range gateways {
			if !g.Ready(len(gateways)) {
				return false
			}
		}
		return true
	})
	time.Sleep(settle)
	return took
}

// Device is a stock client.
type Device struct {
	*vpntest.Client
	Name, ID string
	Addr     netip.Addr // on the Internet
	Inner    netip.Addr
}

// Enrol adds a device at gateway at.
func (w *World) Enrol(at *Gateway, name string) (private [32]byte, e api.Enrolment) {
	w.tb.Helper()
	private, public := vpntest.NewKey()
	e, err := at.AddDevice(context.Background(), api.NewDevice{Name: name, PublicKey: base64.StdEncoding.EncodeToString(public[:])})
	if err != nil {
		w.tb.Fatalf("add %s at %s: %v", name, at.Name, err)
	}
	return private, e
}

// spread is the time that a change is given to reach every gateway.
const spread = 100 * time.Millisecond

// Device enrols device number i, from 1, at one gateway, lets the others know,
// and starts its client, which knocks at another.
func (w *World) Device(i int, name string, enrol, knock *Gateway) *Device {
	w.tb.Helper()
	private, e := w.Enrol(enrol, name)
	time.Sleep(spread)
	return w.Connect(i, private, e, knock)
}

// Connect starts the client of device number i, which knocks at once.
func (w *World) Connect(i int, private [32]byte, e api.Enrolment, knock *Gateway) *Device {
	w.tb.Helper()
	d := &Device{Name: e.Device.Name, ID: e.Device.ID, Addr: netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)})}
	server, err := base64.StdEncoding.DecodeString(e.PublicKey)
	if err != nil {
		w.tb.Fatal(err)
	}
	var inner []netip.Addr
	for _, s := range e.Device.Addresses {
		inner = append(inner, netip.MustParseAddr(s))
	}
	d.Inner = inner[0]
	d.Client = vpntest.NewClient(w.tb, vpntest.ClientConfig{
		Bind: w.Internet.Bind(d.Addr), PrivateKey: private, PeerKey: [32]byte(server),
		Endpoint: netip.AddrPortFrom(knock.Addr, DevicePort), Addresses: inner, Keepalive: e.Keepalive,
	})
	return d
}

// At returns which of the gateways the device's client talks to, or nil.
func (d *Device) At(tb testing.TB, gateways ...*Gateway) *Gateway {
	tb.Helper()
	addr := d.Peer(tb).Endpoint.Addr()
	for _, g := range gateways {
		if g.Addr == addr {
			return g
		}
	}
	return nil
}

// silent is a control socket that nobody uses: tests call the node's methods.
type silent struct {
	once   sync.Once
	closed chan struct{}
}

func newSilent() *silent { return &silent{closed: make(chan struct{})} }

func (s *silent) Accept() (net.Conn, error) {
	<-s.closed
	return nil, net.ErrClosed
}

func (s *silent) Close() error {
	s.once.Do(func() { close(s.closed) })
	return nil
}

func (s *silent) Addr() net.Addr { return &net.UnixAddr{Name: "test", Net: "unix"} }

// testWriter puts a gateway's log into the test's.
type testWriter struct {
	w    *World
	name string
}

// Logged returns how many lines of the gateways' logs hold text.
func (w *World) Logged(text string) (n int) {
	w.logs.Lock()
	defer w.logs.Unlock()
	for _, line := range w.lines {
		if strings.Contains(line, text) {
			n++
		}
	}
	return n
}

func (t testWriter) Write(b []byte) (int, error) {
	t.w.tb.Logf("%s: %s", t.name, b)
	t.w.logs.Lock()
	defer t.w.logs.Unlock()
	t.w.lines = append(t.w.lines, string(b))
	return len(b), nil
}

// Failure waits until the gateway ends by itself, for limit at most, and returns why. It fails the test if it does not.
func (g *Gateway) Failure(limit time.Duration) error {
	g.w.tb.Helper()
	select {
	case <-g.done:
		g.cancel()
		g.cancel = nil
		if g.err == nil {
			g.w.tb.Fatalf("%s ended without an error", g.Name)
		}
		return g.err
	case <-time.After(limit):
		g.w.tb.Fatalf("%s did not end within %v", g.Name, limit)
		return nil
	}
}
