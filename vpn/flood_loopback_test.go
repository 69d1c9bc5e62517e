package vpn_test

import (
	"bufio"
	"context"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gatemesh/vpn"
	"gatemesh/vpn/vpntest"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
)

var (
	floodFor     = flag.Duration("flood", 0, "flood gateways on loopback for that long each; 0: not at all")
	floodPerSec  = flag.Int("flood.rate", 10_000, "initiations per second")
	floodDevices = flag.Int("flood.devices", 200, "connected devices, and as many new ones")
	floodCPU     = flag.String("flood.cpu", "", "processors of the gateway, as for taskset; empty: any")
)

// role is what a process of TestFloodOnLoopback does. It is told on its standard input, as JSON, and ends with that.
type role struct {
	Kind    string // gatemesh, wireguard-go, flood
	Private vpn.Key
	Public  vpn.Key
	Devices []vpn.Key // number i has address loopInner(i)
	Flood   vpntest.Flood
	For     time.Duration
}

func loopInner(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}) }

// TestFloodOnLoopback floods a gateway of ours, then a plain wireguard-go, each in a process of its own, and reports how
// many new devices get their first reply within ten seconds and how many pings of connected ones are lost. All processes
// share the machine, so what it says is the ratio of the two:
//
//	go test ./vpn -run TestFloodOnLoopback -flood 15s -v
func TestFloodOnLoopback(t *testing.T) {
	if *floodFor == 0 {
		t.Skip("needs -flood 15s")
	}
	for _, c := range []struct {
		name    string
		known   bool
		prove   bool
		sources int
	}{
		{"unknown keys, one address", false, false, 1},
		{"unknown keys, one address, cookies answered", false, true, 1},
		{"unknown keys, 1000 addresses", false, false, 1000},
		{"unknown keys, 1000 addresses, cookies answered", false, true, 1000},
		{"known keys, one address, cookies answered", true, true, 1},
		{"known keys, 1000 addresses, cookies answered", true, true, 1000},
	} {
		for _, kind := range []string{"gatemesh", "wireguard-go"} {
			t.Run(c.name+"/"+kind, func(t *testing.T) {
				f := vpntest.Flood{Rate: *floodPerSec, AnswerCookies: c.prove}
				for i := range c.sources {
					f.Sources = append(f.Sources, netip.AddrFrom4([4]byte{127, 1, byte(i >> 8), byte(1 + i)}))
				}
				floodOnLoopback(t, kind, f, c.known)
			})
		}
	}
}

func floodOnLoopback(t *testing.T, kind string, f vpntest.Flood, known bool) {
	r := role{Kind: kind}
	r.Private, r.Public = vpntest.NewKey()
	var privates []vpn.Key
	for range 2 * *floodDevices {
		private, public := vpntest.NewKey()
		privates, r.Devices = append(privates, private), append(r.Devices, public)
	}
	gateway := play(t, r)
	f.Target, f.Gateway = netip.MustParseAddrPort(gateway.line()), r.Public
	if known {
		f.Keys = r.Devices
	}
	clients := make([]*vpntest.Client, 0, len(privates))
	for i, private := range privates {
		clients = append(clients, vpntest.NewClient(t, vpntest.ClientConfig{
			Bind:       &loopBind{host: netip.AddrFrom4([4]byte{127, 2, byte(i >> 8), byte(1 + i)})},
			PrivateKey: private, PeerKey: r.Public, Endpoint: f.Target, Addresses: []netip.Addr{loopInner(i)},
		}))
	}
	old, young := clients[:*floodDevices], clients[*floodDevices:]
	for i, c := range old {
		if !c.Ping(inner4, 15*time.Second) {
			t.Fatalf("device %d does not connect before the flood", i)
		}
	}

	attacker := play(t, role{Kind: "flood", Flood: f, For: *floodFor})
	attacker.line() // it has begun
	time.Sleep(time.Second)
	var sent, lost, served atomic.Int64
	var wg sync.WaitGroup
	end := time.Now().Add(*floodFor - 2*time.Second)
	for i, c := range old {
		wg.Go(func() {
			time.Sleep(time.Duration(i) * time.Millisecond)
			for time.Now().Before(end) {
				sent.Add(1)
				if !c.Ping(inner4, time.Second) {
					lost.Add(1)
				}
				time.Sleep(200 * time.Millisecond)
			}
		})
	}
	for i, c := range young {
		wg.Go(func() {
			time.Sleep(time.Duration(i) * 10 * time.Millisecond)
			if c.Ping(inner4, 10*time.Second) {
				served.Add(1)
			}
		})
	}
	wg.Wait()
	flood, stats := attacker.end(), gateway.end()
	t.Logf("%s: %d of %d new devices served within 10 s (%.1f %%), %d of %d pings of connected ones lost (%.2f %%)",
		kind, served.Load(), len(young), 100*float64(served.Load())/float64(len(young)), lost.Load(), sent.Load(), 100*float64(lost.Load())/float64(sent.Load()))
	t.Logf("  attacker %s; gateway %s", flood, stats)
}

// process is one that plays a role.
type process struct {
	t     *testing.T
	cmd   *exec.Cmd
	stdin io.WriteCloser
	lines *bufio.Scanner
}

func play(t *testing.T, r role) *process {
	t.Helper()
	args := []string{os.Args[0], "-test.run=^TestFloodProcess$"}
	if *floodCPU != "" && r.Kind != "flood" {
		args = append([]string{"taskset", "-c", *floodCPU}, args...)
	}
	p := &process{t: t, cmd: exec.Command(args[0], args[1:]...)}
	p.cmd.Env = append(os.Environ(), "VPN_FLOOD_PROCESS=1")
	p.cmd.Stderr = os.Stderr
	stdin, err := p.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.stdin, p.lines = stdin, bufio.NewScanner(stdout)
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stdin.Close(); p.cmd.Wait() })
	if err := json.NewEncoder(stdin).Encode(r); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *process) line() string {
	p.t.Helper()
	if !p.lines.Scan() {
		p.t.Fatalf("no line from a process: %v", p.lines.Err())
	}
	return p.lines.Text()
}

// end returns its last words and the processor time that it took.
func (p *process) end() string {
	p.t.Helper()
	p.stdin.Close()
	line := p.line()
	p.lines.Scan() // "PASS", or the end
	p.cmd.Wait()
	return fmt.Sprintf("%s, CPU %.1f s", line, (p.cmd.ProcessState.UserTime() + p.cmd.ProcessState.SystemTime()).Seconds())
}

// TestFloodProcess is a process of TestFloodOnLoopback.
func TestFloodProcess(t *testing.T) {
	if os.Getenv("VPN_FLOOD_PROCESS") == "" {
		t.Skip("is run by TestFloodOnLoopback")
	}
	var r role
	input := json.NewDecoder(os.Stdin)
	if err := input.Decode(&r); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		io.Copy(io.Discard, input.Buffered())
		io.Copy(io.Discard, os.Stdin)
	}()
	switch r.Kind {
	case "gatemesh":
		r.gatemesh(t, ended)
	case "wireguard-go":
		r.wireguard(t, ended)
	case "flood":
		ctx, cancel := context.WithTimeout(t.Context(), r.For)
		defer cancel()
		fmt.Println("begun")
		stats, err := r.Flood.Run(ctx)
		if err != nil {
			t.Fatal(err)
		}
		<-ended
		fmt.Printf("%+v\n", stats)
	}
}

func (r *role) gatemesh(t *testing.T, ended chan struct{}) {
	devices := make(map[vpn.Key]vpn.Device)
	for i, k := range r.Devices {
		devices[k] = vpn.Device{Key: k, Addresses: []netip.Prefix{netip.PrefixFrom(loopInner(i), 32)}}
	}
	g, err := vpn.New(vpn.Config{
		PrivateKey: r.Private, TUN: vpntest.NewEchoTUN(0, inner4),
		Lookup: func(k vpn.Key) (vpn.Device, bool) { d, ok := devices[k]; return d, ok },
	})
	if err != nil {
		t.Fatal(err)
	}
	g.Allow(time.Now().Add(time.Hour))
	done := run(func() error { return g.Run(context.Background()) })
	fmt.Printf("127.0.0.1:%d\n", g.Port())
	<-ended
	fmt.Println(flooded(g.Stats()))
	g.Close()
	<-done
}

func (r *role) wireguard(t *testing.T, ended chan struct{}) {
	d := device.NewDevice(vpntest.NewEchoTUN(0, inner4), conn.NewStdNetBind(), device.NewLogger(device.LogLevelSilent, ""))
	text := fmt.Sprintf("private_key=%x\nlisten_port=0\n", r.Private)
	for i, k := range r.Devices {
		text += fmt.Sprintf("public_key=%s\nallowed_ip=%v/32\n", hex.EncodeToString(k[:]), loopInner(i))
	}
	if err := d.IpcSet(text); err != nil {
		t.Fatal(err)
	}
	if err := d.Up(); err != nil {
		t.Fatal(err)
	}
	state, err := d.IpcGet()
	if err != nil {
		t.Fatal(err)
	}
	var port int
	for lines := bufio.NewScanner(strings.NewReader(state)); lines.Scan(); {
		fmt.Sscanf(lines.Text(), "listen_port=%d", &port)
	}
	fmt.Printf("127.0.0.1:%d\n", port)
	<-ended
	fmt.Println("-")
	d.Close()
}

// loopBind is a conn.Bind on one address of the loopback network, one datagram at a time, so that a process can have
// hundreds.
type loopBind struct {
	host netip.Addr

	mu     sync.Mutex // guards the field below
	socket *net.UDPConn
}

func (b *loopBind) Open(port uint16) ([]conn.ReceiveFunc, uint16, error) {
	s, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(b.host, port)))
	if err != nil {
		return nil, 0, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.socket = s
	receive := func(bufs [][]byte, sizes []int, eps []conn.Endpoint) (int, error) {
		n, from, err := s.ReadFromUDPAddrPort(bufs[0])
		if err != nil {
			return 0, err
		}
		sizes[0], eps[0] = n, &vpntest.Endpoint{AddrPort: from}
		return 1, nil
	}
	return []conn.ReceiveFunc{receive}, uint16(s.LocalAddr().(*net.UDPAddr).Port), nil
}

func (b *loopBind) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.socket == nil {
		return nil
	}
	return b.socket.Close()
}

func (b *loopBind) Send(bufs [][]byte, ep conn.Endpoint) error {
	b.mu.Lock()
	s := b.socket
	b.mu.Unlock()
	for _, m := range bufs {
		if _, err := s.WriteToUDPAddrPort(m, ep.(*vpntest.Endpoint).AddrPort); err != nil {
			return err
		}
	}
	return nil
}

func (b *loopBind) ParseEndpoint(s string) (conn.Endpoint, error) {
	a, err := netip.ParseAddrPort(s)
	return &vpntest.Endpoint{AddrPort: a}, err
}
func (b *loopBind) BatchSize() int       { return 1 }
func (b *loopBind) SetMark(uint32) error { return nil }
