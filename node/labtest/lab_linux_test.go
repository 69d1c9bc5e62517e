package labtest

import (
	"crypto/ecdh"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"net/netip"
	"syscall"
	"testing"
	"time"
)

// TestLabItself puts a stock wireguard-go in the gateway's place, with both
// stock clients, and holds everything that the lab measures against what it
// did itself.
func TestLabItself(t *testing.T) {
	if testing.Short() {
		t.Skip("uses the machine")
	}
	lab := New(t)
	host := lab.Host("host")
	node, gateway, clients := stockGateway(t, lab)
	capture := node.Capture(WireGuardPort)

	testSilence(t, lab, clients, capture)
	testHandshake(t, clients, host, capture)
	testStream(t, clients[0], host, gateway)
	testEcho(t, clients[0], host)
	testFreeze(t, lab, clients[0], host, gateway)
	testLoss(t, lab, clients[0], host)
	testReconfigure(t, clients[0], host, capture)
	testKill(t, lab, clients[0], host, gateway)
	if n := capture.Missed(); n > 0 {
		t.Logf("capture missed %d frames", n)
	}
}

// stockGateway makes a node that forwards and masquerades with wireguard-go as
// gateway, and a client of each build.
func stockGateway(t *testing.T, lab *Lab) (node *Node, gateway *Stocked, clients []*Client) {
	t.Helper()
	node = lab.Node("gateway", Internet|LAN, 1)
	private, public := newKey(t)
	conf := Config{PrivateKey: private, ListenPort: WireGuardPort, Addresses: []netip.Prefix{netip.MustParsePrefix("100.64.0.1/10")}}
	for i, build := range []Stock{Module, Debian} {
		if _, err := build.Path(); errors.Is(err, ErrNoStock) {
			t.Logf("without the %s client: %v", build, err)
			continue
		}
		secret, theirs := newKey(t)
		inner := netip.PrefixFrom(netip.AddrFrom4([4]byte{100, 64, 1, byte(i + 1)}), 32)
		conf.Peers = append(conf.Peers, Peer{PublicKey: theirs, AllowedIPs: []netip.Prefix{inner}})
		clients = append(clients, lab.ClientOf(build, string(build), Config{
			PrivateKey: secret,
			Addresses:  []netip.Prefix{inner},
			Peers: []Peer{{
				PublicKey:  public,
				AllowedIPs: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")},
				Endpoint:   netip.AddrPortFrom(node.Addr, WireGuardPort).String(),
			}},
		}))
	}
	gateway = node.Stock(Module, conf)
	gateway.Up()
	rules := `table ip nat { chain out { type nat hook postrouting priority 100; oifname "eth1" masquerade; }; }`
	_, err := node.Try(rules, "nft", "-f", "-")
	if err := errors.Join(err, node.Sysctl("net/ipv4/ip_forward", "1")); err != nil {
		t.Fatal(err)
	}
	return node, gateway, clients
}

func newKey(t *testing.T) (private, public string) {
	t.Helper()
	key, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return base64.StdEncoding.EncodeToString(key.Bytes()), base64.StdEncoding.EncodeToString(key.PublicKey().Bytes())
}

func testSilence(t *testing.T, lab *Lab, clients []*Client, capture *Capture) {
	quiet := clients[0].Config
	eager := quiet.Toward(netip.MustParseAddrPort(quiet.Peers[0].Endpoint))
	eager.Peers[0].Keepalive = 1
	clients[0].Configure(eager)
	lab.Observe(100 * time.Millisecond)
	if sum := capture.Total(); sum != (Counts{}) {
		t.Errorf("a client that is down sent %v", sum)
	}
	clients[0].Configure(quiet)
	for _, c := range clients {
		c.Up()
	}
	lab.Observe(300 * time.Millisecond)
	if sum := capture.Total(); sum != (Counts{}) {
		t.Errorf("clients without a keepalive sent %v before they were asked to", sum)
	}
}

func testHandshake(t *testing.T, clients []*Client, host *Host, capture *Capture) {
	for i, c := range clients {
		first, err := c.PingOnce(host.LAN, 5*time.Second)
		if err != nil {
			t.Fatalf("client %d: %v", i, err)
		}
		t.Logf("%s: first ping %v", c.Name, first)
		in, out := capture.Flow(c.Addr, false), capture.Flow(c.Addr, true)
		if want := (Counts{Initiation: 1, Data: in[Data]}); in != want || in[Data] == 0 {
			t.Errorf("%s sent %v, want one initiation and data", c.Name, in)
		}
		if want := (Counts{Response: 1, Data: out[Data]}); out != want || out[Data] == 0 {
			t.Errorf("%s was sent %v, want one response and data", c.Name, out)
		}
		peer := c.Peer()
		if peer.LastHandshake.IsZero() || time.Since(peer.LastHandshake) > time.Minute {
			t.Errorf("%s: last handshake %v", c.Name, peer.LastHandshake)
		}
		if peer.Endpoint.String() != c.Config.Peers[0].Endpoint || peer.Rx == 0 || peer.Tx == 0 {
			t.Errorf("%s: peer %+v", c.Name, peer)
		}
	}
}

func testStream(t *testing.T, c *Client, host *Host, gateway *Stocked) {
	for _, flags := range [][]string{nil, {"-R"}, {"-b", "50M"}} {
		before := gateway.Process.Usage()
		s, err := c.Stream(host, time.Second, flags...)
		if err != nil {
			t.Fatal(err)
		}
		after := gateway.Process.Usage()
		if s.Bytes == 0 || after.CPU <= before.CPU || after.RSS == 0 {
			t.Errorf("stream %+v used %v to %v", s, before, after)
		}
		perGB := (after.CPU - before.CPU).Seconds() / (float64(s.Bytes) / 1e9)
		t.Logf("stream %v: %.0f Mb/s, %.2f s/GB, %d MB", flags, s.Bits/1e6, perGB, after.RSS>>20)
	}
}

func testEcho(t *testing.T, c *Client, host *Host) {
	took, err := c.Ask(netip.AddrPortFrom(host.LAN, EchoPort), 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("echo through the tunnel: %v", took)
	if _, err := host.Dial(netip.AddrPortFrom(c.Addr, EchoPort), 200*time.Millisecond); !errors.Is(err, syscall.ENETUNREACH) {
		t.Errorf("the host has a route to the internet: %v", err)
	}
}

// testFreeze stops the gateway for a while that it knows itself.
func testFreeze(t *testing.T, lab *Lab, c *Client, host *Host, gateway *Stocked) {
	const frozen = 400 * time.Millisecond
	ping := c.Ping(host.LAN, 20*time.Millisecond)
	lab.Eventually(5*time.Second, "answers", func() bool { return len(ping.Log().Replies) > 5 })
	from := time.Now()
	gateway.Process.Signal(syscall.SIGSTOP)
	lab.Observe(frozen)
	gateway.Process.Signal(syscall.SIGCONT)
	until := time.Now()
	lab.Eventually(5*time.Second, "answers again", func() bool {
		_, ok := ping.Log().FirstAfter(until)
		return ok
	})
	log := ping.Stop()
	gap, back := log.Gap(from, until)
	if !back || gap < frozen-20*time.Millisecond || gap > frozen+5*time.Second {
		t.Errorf("frozen for %v, gap %v, back %v", until.Sub(from), gap, back)
	}
	// The kernel keeps what arrives for a frozen process: late is not lost.
	if lost := log.LostSince(from); lost > 0 {
		t.Errorf("%d pings lost to a freeze", lost)
	}
}

func testLoss(t *testing.T, lab *Lab, c *Client, host *Host) {
	run := func(to, from int) PingLog {
		c.Loss(to, from)
		ping := c.Ping(host.LAN, 10*time.Millisecond)
		lab.Observe(600 * time.Millisecond)
		return ping.Stop()
	}
	if log := run(50, 0); len(log.Lost) == 0 || len(log.Replies) == 0 {
		t.Errorf("half lost: %d answers, %d lost", len(log.Replies), len(log.Lost))
	}
	if log := run(100, 0); len(log.Replies) > 0 {
		t.Errorf("all lost to the node: %d answers", len(log.Replies))
	}
	if log := run(0, 100); len(log.Replies) > 0 {
		t.Errorf("all lost from the node: %d answers", len(log.Replies))
	}
	if log := run(0, 0); len(log.Lost) > 0 || len(log.Replies) == 0 || log.Errors > 0 {
		t.Errorf("no loss: %d answers, %d lost, %d errors", len(log.Replies), len(log.Lost), log.Errors)
	}
}

func testKill(t *testing.T, lab *Lab, c *Client, host *Host, gateway *Stocked) {
	ping := c.Ping(host.LAN, 20*time.Millisecond)
	lab.Eventually(5*time.Second, "answers", func() bool { return len(ping.Log().Replies) > 5 })
	at := gateway.Process.Kill()
	lab.Observe(time.Second)
	log := ping.Stop()
	if gap, back := log.Gap(at.Add(200*time.Millisecond), time.Now()); back || gap < 800*time.Millisecond {
		t.Errorf("gap %v, back %v", gap, back)
	}
	if lost := log.LostSince(at); lost < 5 {
		t.Errorf("%d pings lost in the second after the kill", lost)
	}
	if u := gateway.Process.Usage(); u != (Usage{}) {
		t.Errorf("a dead process uses %v", u)
	}
}

// testReconfigure makes the client a new one twice: an unknown device, which
// gets no answer, and itself again, which shakes hands again.
func testReconfigure(t *testing.T, c *Client, host *Host, capture *Capture) {
	known := c.Config
	stranger := known
	stranger.PrivateKey, _ = newKey(t)
	c.Configure(stranger)
	before := capture.Flow(c.Addr, false)
	if took, err := c.PingOnce(host.LAN, 200*time.Millisecond); err == nil {
		t.Errorf("a stranger was answered after %v", took)
	}
	if !c.Peer().LastHandshake.IsZero() {
		t.Error("a stranger shook hands")
	}
	c.Configure(known)
	if _, err := c.PingOnce(host.LAN, 5*time.Second); err != nil {
		t.Error(err)
	}
	if n := capture.Flow(c.Addr, false)[Initiation] - before[Initiation]; n != 2 {
		t.Errorf("%d initiations, want 2", n)
	}
}
