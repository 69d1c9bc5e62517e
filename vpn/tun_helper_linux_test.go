package vpn

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// The tests of OpenTUN run it in processes of their own, each in a network namespace
// made for it, for goroutines do not stay in a namespace:
//
//	test ─ stdin, stdout: a JSON order, a JSON answer ─► helper in "gw": OpenTUN, a device's stack at the TUN
//	                                                  ─► helper in "lan": a server that tells what it sees

const helperVariable = "GATEMESH_TUN_HELPER"

type tunOrder struct {
	Do     string // open, close, close locked, dial, serve, advertise, overlap
	ID     string // of the TUN
	Config TUNConfig
	Device []netip.Addr   // open: addresses of the device
	Stock  bool           // open: the device is a stock one behind a Gateway, else it is at the TUN itself
	To     netip.AddrPort // dial
	Prefix netip.Prefix   // overlap
}

type tunAnswer struct {
	Text         string   // interface's name, server's address or words
	MSS          int32    // dial: what the SYN-ACK offered the device
	Routes       []string // overlap
	Error        string
	NoPermission bool
	Unsupported  bool
}

// TestTUNHelper is no test but the helper's main function.
func TestTUNHelper(t *testing.T) {
	if os.Getenv(helperVariable) == "" {
		t.Skip("runs only inside other tests")
	}
	h := tunHelper{t: t, tuns: make(map[string]*helperTUN)}
	orders, answers := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	for {
		var o tunOrder
		if err := orders.Decode(&o); err != nil {
			return // the test has closed stdin
		}
		a, err := h.obey(o)
		if err != nil {
			a.Error = err.Error()
			a.NoPermission = errors.Is(err, ErrNoPermission)
			a.Unsupported = errors.Is(err, ErrUnsupported)
		}
		if err := answers.Encode(a); err != nil {
			return
		}
	}
}

type tunHelper struct {
	t    *testing.T
	tuns map[string]*helperTUN
}

type helperTUN struct {
	*TUN
	device *testDevice  // nil if stock
	stock  *stockDevice // nil if not
	mss    atomic.Int32
}

func (h *tunHelper) obey(o tunOrder) (a tunAnswer, err error) {
	switch o.Do {
	case "open":
		o.Config.Log = slog.New(slog.NewTextHandler(os.Stderr, nil))
		x := new(helperTUN)
		if x.TUN, err = OpenTUN(o.Config); err != nil {
			return a, err
		}
		if o.Stock {
			x.stock = newStockDevice(h.t, x.TUN, o.Device...)
		} else { // which offers more than the tunnel bears
			x.device = newTestDevice(h.t, x.TUN, 1500, x.capture, o.Device...)
		}
		h.tuns[o.ID] = x
		a.Text, err = x.Name()
		return a, err
	case "close":
		x := h.tuns[o.ID]
		if x.stock != nil {
			return a, x.stock.stop()
		}
		err := x.Close()
		x.device.stop()
		if again := x.Close(); !errors.Is(again, err) {
			err = errors.Join(err, fmt.Errorf("second Close: %w", again))
		}
		return a, err
	case "close locked": // as if another gateway were frozen that has the lock
		ns, err := lockNamespace(time.Second)
		if err != nil {
			return a, err
		}
		defer ns.unlock()
		x := h.tuns[o.ID]
		x.patience = 0
		err = x.Close()
		x.device.stop()
		return a, err
	case "dial":
		x := h.tuns[o.ID]
		c, err := x.dial(o.To)
		if err != nil {
			return a, err
		}
		defer c.Close()
		if o.To.Port() == echoPort {
			return a, echo(c)
		}
		text, err := io.ReadAll(c)
		return tunAnswer{Text: string(text), MSS: x.mss.Load()}, err
	case "serve":
		for port, serve := range map[int]func(net.Conn){wordsPort: serveWords, echoPort: serveEcho} {
			l, err := net.Listen("tcp", fmt.Sprint(":", port))
			if err != nil {
				return a, err
			}
			go serveAll(l, serve)
		}
		return a, nil
	case "advertise":
		return a, advertiseRouter("l0")
	case "overlap":
		a.Routes, err = OverlappingRoutes(o.Prefix)
		return a, err
	}
	return a, fmt.Errorf("unknown order %q", o.Do)
}

// capture notes the segment size that a SYN-ACK towards the device offers.
func (x *helperTUN) capture(toDevice bool, packet []byte) {
	if !toDevice {
		return
	}
	var segment header.TCP
	if ip := header.IPv4(packet); packet[0]>>4 == 4 && ip.Protocol() == uint8(header.TCPProtocolNumber) {
		segment = ip.Payload()
	} else if ip := header.IPv6(packet); packet[0]>>4 == 6 && ip.NextHeader() == uint8(header.TCPProtocolNumber) {
		segment = ip.Payload()
	}
	if len(segment) >= header.TCPMinimumSize && segment.Flags().Contains(header.TCPFlagSyn|header.TCPFlagAck) {
		x.mss.Store(int32(header.ParseSynOptions(segment.Options(), true).MSS))
	}
}

func (x *helperTUN) dial(to netip.AddrPort) (*gonet.TCPConn, error) {
	if x.stock != nil {
		return x.stock.dial(to)
	}
	return x.device.dial(to)
}

// echo checks that everything sent comes back.
func echo(c net.Conn) error {
	data := randomBytes(2 << 20)
	sent := make(chan error, 1)
	go func() {
		_, err := c.Write(data)
		sent <- errors.Join(err, closeWrite(c))
	}()
	got, err := io.ReadAll(c)
	if err == nil && !bytes.Equal(got, data) {
		err = fmt.Errorf("%d bytes came back otherwise than the %d sent", len(got), len(data))
	}
	return errors.Join(err, <-sent)
}

const (
	wordsPort = 7
	echoPort  = 8
)

func serveAll(l net.Listener, serve func(net.Conn)) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go serve(c)
	}
}

func serveEcho(c net.Conn) {
	defer c.Close()
	_, _ = io.Copy(c, c) // the device finds out
}

// serveWords tells a connection its source and the segment size it may send.
func serveWords(c net.Conn) {
	defer c.Close()
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		return
	}
	mss := 0
	_ = raw.Control(func(fd uintptr) { mss, _ = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_MAXSEG) })
	remote := c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()
	fmt.Fprintf(c, "from %s segments %d", remote, mss)
}

// advertiseRouter sends one router advertisement (RFC 4861 section 4.2), without prefixes.
func advertiseRouter(name string) error {
	link, err := net.InterfaceByName(name)
	if err != nil {
		return err
	}
	c, err := icmp.ListenPacket("ip6:ipv6-icmp", "fe80::2%"+name)
	if err != nil {
		return err
	}
	defer c.Close()
	m := icmp.Message{Type: ipv6.ICMPTypeRouterAdvertisement, Body: &icmp.RawBody{Data: []byte{
		64, 0, 0x07, 0x08, // hop limit, flags, router lifetime 1800 s
		0, 0, 0, 0,
		0, 0, 0, 0,
	}}}
	b, err := m.Marshal(nil) // the kernel fills in the checksum
	if err != nil {
		return err
	}
	_, err = c.IPv6PacketConn().WriteTo(b, &ipv6.ControlMessage{HopLimit: 255, IfIndex: link.Index}, &net.IPAddr{IP: net.IPv6linklocalallnodes, Zone: name})
	return err
}

// tunProcess is a running TestTUNHelper.
type tunProcess struct {
	t       *testing.T
	cmd     *exec.Cmd
	in      io.WriteCloser
	out     *json.Decoder
	stderr  *safeBuffer
	stopped bool
}

type safeBuffer struct {
	mu sync.Mutex // guards the fields below
	b  strings.Builder
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// startHelper runs a helper in namespace ns, by way of prefix if there is one.
func startHelper(t *testing.T, ns string, prefix ...string) *tunProcess {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	args := append([]string{"netns", "exec", ns}, prefix...)
	args = append(args, self, "-test.run=^TestTUNHelper$", "-test.timeout=120s")
	h := &tunProcess{t: t, cmd: exec.Command("ip", args...), stderr: new(safeBuffer)}
	h.cmd.Env = append(os.Environ(), helperVariable+"=1")
	h.cmd.Stderr = h.stderr
	if h.in, err = h.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := h.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	h.out = json.NewDecoder(bufio.NewReader(out))
	if err := h.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.kill)
	return h
}

// kill is kill -9, as the cleanup and as a test's own deed.
func (h *tunProcess) kill() {
	if !h.stopped {
		h.stopped = true
		_ = h.cmd.Process.Kill() // ended already: as well
		_ = h.cmd.Wait()         // killed: no news
	}
}

func (h *tunProcess) do(o tunOrder) tunAnswer {
	h.t.Helper()
	if err := json.NewEncoder(h.in).Encode(o); err != nil {
		h.t.Fatalf("%s: %v\n%s", o.Do, err, h.stderr)
	}
	var a tunAnswer
	if err := h.out.Decode(&a); err != nil {
		h.t.Fatalf("%s: %v\n%s", o.Do, err, h.stderr)
	}
	return a
}

// must is do where no error is expected.
func (h *tunProcess) must(o tunOrder) tunAnswer {
	h.t.Helper()
	a := h.do(o)
	if a.Error != "" {
		h.t.Fatalf("%s %s: %s\n%s", o.Do, o.ID, a.Error, h.stderr)
	}
	return a
}

// testNet is two namespaces joined by a cable:
//
//	gw: g0 192.0.2.1/24, 2001:db8::1/64 ─── l0 192.0.2.2/24, 2001:db8::2/64: lan
type testNet struct {
	t       *testing.T
	gw, lan string
}

var testNets atomic.Int32

func newTestNet(t *testing.T) *testNet {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("NOT TESTED: needs root to make network namespaces")
	}
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip("NOT TESTED: needs nft")
	}
	id := fmt.Sprintf("vpn%d-%d", os.Getpid(), testNets.Add(1))
	n := &testNet{t: t, gw: id + "-gw", lan: id + "-lan"}
	for _, ns := range []string{n.gw, n.lan} {
		n.run("ip", "netns", "add", ns)
		t.Cleanup(func() { n.run("ip", "netns", "del", ns) })
		n.run("ip", "-n", ns, "link", "set", "lo", "up")
	}
	// Ends with the same index would come up a second later (net/core/link_watch.c).
	n.run("ip", "-n", n.gw, "link", "add", "g0", "index", "100", "type", "veth", "peer", "name", "l0", "netns", n.lan)
	for _, a := range []struct{ ns, dev, host string }{{n.gw, "g0", "1"}, {n.lan, "l0", "2"}} {
		n.run("ip", "-n", a.ns, "link", "set", a.dev, "addrgenmode", "none")
		n.run("ip", "-n", a.ns, "address", "add", "192.0.2."+a.host+"/24", "dev", a.dev)
		n.run("ip", "-n", a.ns, "address", "add", "2001:db8::"+a.host+"/64", "dev", a.dev, "nodad")
		n.run("ip", "-n", a.ns, "address", "add", "fe80::"+a.host+"/64", "dev", a.dev, "nodad")
		n.run("ip", "-n", a.ns, "link", "set", a.dev, "up")
	}
	for _, end := range []struct{ ns, dev, host string }{{n.gw, "g0", "1"}, {n.lan, "l0", "2"}} {
		n.wait(" UP ", "ip", "-n", end.ns, "-br", "link", "show", end.dev)
		for _, address := range []string{"2001:db8::", "fe80::"} { // are usable a little later
			n.wait("local "+address+end.host+" ", "ip", "-n", end.ns, "-6", "route", "show", "table", "local")
		}
	}
	return n
}

// run returns a command's output.
func (n *testNet) run(name string, args ...string) string {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		n.t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// wait runs a command until its output has text.
func (n *testNet) wait(text, name string, args ...string) {
	n.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !strings.Contains(n.run(name, args...), text); {
		if time.Now().After(deadline) {
			n.t.Fatalf("%s %s: never shows %q", name, strings.Join(args, " "), text)
		}
	}
}

// in returns the output of a command in namespace gw.
func (n *testNet) in(name string, args ...string) string {
	n.t.Helper()
	return n.run("ip", append([]string{"netns", "exec", n.gw, name}, args...)...)
}

func (n *testNet) set(key, value string) {
	n.t.Helper()
	n.in("sysctl", "-qw", strings.ReplaceAll(key, ".", "/")+"="+value)
}

// state returns everything OpenTUN may change in gw: settings, tables, interfaces.
func (n *testNet) state() string {
	n.t.Helper()
	return n.in("sh", "-ec", `cd /proc/sys/net
		grep -H . ipv4/ip_forward ipv?/conf/*/forwarding ipv?/conf/*/accept_redirects ipv6/conf/*/accept_ra
		nft list ruleset; ip -br address; ip rule; ip route; ip -6 route`)
}

func (n *testNet) forwarding() (v4, v6 string) {
	n.t.Helper()
	return n.in("cat", "/proc/sys/net/ipv4/ip_forward"), n.in("cat", "/proc/sys/net/ipv6/conf/all/forwarding")
}
