package node_test

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"gatemesh/node/labtest"
)

// meshFloodEnv holds the flood, as JSON, for the process that makes it.
const meshFloodEnv = "GATEMESH_LAB_MESH_FLOOD"

// meshFlood is what a stranger does to the port of the mesh.
type meshFlood struct {
	Target  netip.AddrPort
	Sources []netip.Addr
	Kinds   []string // of meshKinds; a connection takes the next
	Conns   int      // tried at most
	Workers int      // connections at a time
	Rate    int      // datagrams in a second, of kind "udp"
}

// meshFloodStats is what came of it.
type meshFloodStats struct {
	Tried, Refused, Datagrams int64
	Took                      time.Duration
}

// meshKinds are what strangers do on a connection, until it is closed.
var meshKinds = map[string]func(c net.Conn){
	"silent": func(c net.Conn) { _, _ = io.Copy(io.Discard, c) },
	"garbage": func(c net.Conn) {
		_, _ = c.Write(noise(4096))
		_, _ = io.Copy(io.Discard, c)
	},
	"slow": func(c net.Conn) { // a record of TLS, a byte each second
		for _, b := range append([]byte{0x16, 3, 1, 0x40, 0}, noise(600)...) {
			if _, err := c.Write([]byte{b}); err != nil {
				return
			}
			time.Sleep(time.Second)
		}
	},
	"hello": func(c net.Conn) { // a handshake message that never ends
		if _, err := c.Write([]byte{0x16, 3, 1, 0x40, 0, 1, 0xff, 0xff, 0xff}); err != nil {
			return
		}
		for {
			if _, err := c.Write(append(noise(0x4000-4), 0x16, 3, 3, 0x40, 0)); err != nil {
				return
			}
		}
	},
	"tls": func(c net.Conn) { // a handshake as clients make it
		_ = tls.Client(c, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"gatemesh-link/1"}}).Handshake()
		_, _ = io.Copy(io.Discard, c)
	},
	"gossip": func(c net.Conn) { // memberlist's label, and a state without end
		head := append([]byte{244, 11}, "gm-00000000"...)
		if _, err := c.Write(append(head, 10, 0, 0xff, 0xff, 0xff)); err != nil {
			return
		}
		for {
			if _, err := c.Write(noise(64 << 10)); err != nil {
				return
			}
		}
	},
}

func noise(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rand.Uint32())
	}
	return b
}

// run floods until ctx ends.
func (f meshFlood) run(ctx context.Context) (s meshFloodStats) {
	begin := time.Now()
	var next, refused atomic.Int64
	var all sync.WaitGroup
	for range f.Workers {
		all.Go(func() {
			for ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= f.Conns {
					return
				}
				d := net.Dialer{Timeout: time.Second, LocalAddr: &net.TCPAddr{IP: f.Sources[i%len(f.Sources)].AsSlice()}}
				c, err := d.DialContext(ctx, "tcp", f.Target.String())
				if err != nil {
					refused.Add(1)
					continue
				}
				stop := context.AfterFunc(ctx, func() { c.Close() })
				meshKinds[f.Kinds[i%len(f.Kinds)]](c)
				stop()
				c.Close()
			}
		})
	}
	all.Go(func() { s.Datagrams = f.spray(ctx) })
	all.Wait()
	s.Tried, s.Refused, s.Took = min(next.Load(), int64(f.Conns)), refused.Load(), time.Since(begin)
	return s
}

// spray sends datagrams that may look like gossip, until ctx ends.
func (f meshFlood) spray(ctx context.Context) (sent int64) {
	if f.Rate == 0 {
		return 0
	}
	conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: f.Sources[0].AsSlice()})
	if err != nil {
		return 0
	}
	defer conn.Close()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		for range f.Rate / 100 {
			if _, err := conn.WriteToUDPAddrPort(noise(rand.N(1400)), f.Target); err == nil {
				sent++
			}
		}
		select {
		case <-ctx.Done():
			return sent
		case <-tick.C:
		}
	}
}

// TestLabMeshFloodProcess is no test, but the attacker of TestLabMeshFlood in a
// process of its own.
func TestLabMeshFloodProcess(t *testing.T) {
	text := os.Getenv(meshFloodEnv)
	if text == "" {
		t.Skip("is run by TestLabMeshFlood")
	}
	var f meshFlood
	if err := json.Unmarshal([]byte(text), &f); err != nil {
		t.Fatal(err)
	}
	ctx, stop := signal.NotifyContext(t.Context(), syscall.SIGTERM)
	defer stop()
	s := f.run(ctx)
	<-ctx.Done()
	if err := json.NewEncoder(os.Stderr).Encode(s); err != nil {
		t.Fatal(err)
	}
}

// TestLabMeshFlood makes ten thousand connections of each kind to the mesh port
// of one gateway of three, from one address and from many, and datagrams, and
// restarts another gateway meanwhile. Gateways, attacker and devices share the
// machine.
func TestLabMeshFlood(t *testing.T) {
	lab := newLab(t)
	gws := threeGateways(t, lab)
	c := newCrowd(lab, gws[0], 9)
	c.up(t, time.Second, pingEvery)
	attacker := attackerOf(lab, gws[0].Node)
	var table labtest.Table
	table.Row("strangers", "sources", "connections", "in", "refused", "datagrams", "gateway CPU s/s", "RSS before MB",
		"max MB", "files max",
		"peers given up", "a member that restarts is back after", "devices' pings", "lost", "attacker CPU s/s")
	floods := [][]string{{"silent"}, {"tls"}, {"silent", "garbage", "slow", "hello", "tls", "gossip"}}
	if labtest.Full() {
		floods = [][]string{
			{"silent"},
			{"garbage"},
			{"slow"},
			{"hello"},
			{"tls"},
			{"gossip"},
			{"silent", "garbage", "slow", "hello", "tls", "gossip"},
		}
	}
	for _, kinds := range floods {
		for _, from := range size([]int{250}, []int{1, 250}) {
			meshFlooded(t, lab, &table, gws, c, attacker, kinds, from)
		}
	}
	c.waitAnswers(time.Now())
	c.stop()
	t.Log(&table)
}

func meshFlooded(t *testing.T, lab *labtest.Lab, table *labtest.Table, gws []*labtest.Gateway, c *crowd,
	attacker *labtest.Node, kinds []string, from int,
) {
	t.Helper()
	target := gws[0]
	f := meshFlood{
		Target: netip.AddrPortFrom(target.Addr, 7946), Kinds: kinds, Conns: 10000,
		Workers: size(1000, 10000), Rate: size(5000, 20000),
	}
	addr := sources.Addr()
	for range from {
		addr = addr.Next()
		f.Sources = append(f.Sources, addr)
	}
	text, err := json.Marshal(f)
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	before := target.Process.Usage()
	begin := time.Now()
	name := fmt.Sprintf("mesh-%s-%d", strings.Join(kinds, "-"), from)
	p := attacker.Start(name, []string{meshFloodEnv + "=" + string(text)},
		"nice", "-n", "10", program, "-test.run=^TestLabMeshFloodProcess$")
	worst, files := before.RSS, 0
	watch := func(d time.Duration) {
		for end := time.Now().Add(d); time.Now().Before(end); {
			lab.Observe(20 * time.Millisecond)
			worst, files = max(worst, target.Process.Usage().RSS), max(files, target.Process.Files())
		}
	}
	watch(size(1500*time.Millisecond, 5*time.Second))
	gws[2].Kill()
	restarted := time.Now()
	gws[2].Start()
	gws[2].WaitReady()
	back := lab.Eventually(recoverLimit, "the member is back", func() bool { watch(0); return target.Status().Gateways == 3 })
	back = max(back, time.Since(restarted))
	watch(size(time.Second, 10*time.Second))
	cpu := (target.Process.Usage().CPU - before.CPU).Seconds() / time.Since(begin).Seconds()
	attackers := p.Usage().CPU.Seconds() / time.Since(begin).Seconds()
	p.Stop()
	_, rest, _ := strings.Cut(p.Log(), "{")
	line, _, _ := strings.Cut(rest, "\n")
	var s meshFloodStats
	if err := json.Unmarshal([]byte("{"+line), &s); err != nil {
		t.Errorf("what the flood says: %v in %q", err, p.Log())
	}
	deaths, killed := 0, gatewayIDs(gws)[2]
	for _, g := range gws[:2] {
		for id, times := range gone(g.Process.Log()) {
			if id != killed && times[len(times)-1].After(begin) {
				deaths++
			}
		}
	}
	lost, answered := 0, 0
	for _, l := range c.logs() {
		lost += l.LostSince(begin)
		for _, r := range l.Replies {
			if r.At.After(begin) {
				answered++
			}
		}
	}
	table.Row(strings.Join(kinds, ","), from, s.Tried, s.Took, s.Refused, s.Datagrams, cpu, before.RSS>>20, worst>>20,
		files, deaths, back, answered+lost, lost, attackers)
	lab.Bar(deaths == 0, "no member is given up under a flood of %v from %d addresses: %d", kinds, from, deaths)
	lab.Bar(worst <= before.RSS+64<<20, "memory grows by ≤ 64 MB under it: %d MB", (worst-before.RSS)>>20)
	lab.Bar(back <= 10*time.Second, "a member that restarts is back within 10 s: %v", back)
	lab.Observe(size(500*time.Millisecond, 6*time.Second)) // what was held is closed
	waitOneCluster(lab, gws)
}

// gatewayIDs returns the ids of the gateways, in their order.
func gatewayIDs(gws []*labtest.Gateway) []string {
	ids := make([]string, len(gws))
	for _, m := range gws[0].Gateways() {
		for i, g := range gws {
			if g.Name == m.Name {
				ids[i] = m.ID
			}
		}
	}
	return ids
}
