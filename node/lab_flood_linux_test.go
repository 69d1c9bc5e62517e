package node_test

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"gatemesh/node/labtest"
	"gatemesh/vpn/vpntest"
)

// floodEnv holds the flood, as JSON, for the process that makes it.
const floodEnv = "GATEMESH_LAB_FLOOD"

// TestLabFloodProcess is no test, but the attacker of TestLabFlood in a process
// of its own.
func TestLabFloodProcess(t *testing.T) {
	text := os.Getenv(floodEnv)
	if text == "" {
		t.Skip("is run by TestLabFlood")
	}
	var f vpntest.Flood
	if err := json.Unmarshal([]byte(text), &f); err != nil {
		t.Fatal(err)
	}
	ctx, stop := signal.NotifyContext(t.Context(), syscall.SIGTERM)
	defer stop()
	stats, err := f.Run(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.NewEncoder(os.Stderr).Encode(stats); err != nil {
		t.Fatal(err)
	}
}

// TestLabFlood floods a gateway with initiations that have a valid mac1, while
// stock devices are connected and as many others want to be. The long form
// does the same to a plain wireguard-go. Gateway, attacker and devices share
// the machine; the attacker is nice to the others.
func TestLabFlood(t *testing.T) {
	var table labtest.Table
	table.Row("gateway", "keys named", "sources", "initiations/s", "cookies", "responses", "new devices", "served in 10 s", "p50", "p99",
		"connected devices", "their pings", "lost", "gateway CPU s/s", "attacker's", "our", "failed authentication", "frames dropped by the machine")
	t.Run("gatemesh", func(t *testing.T) { floodGatemesh(t, &table) })
	if labtest.Full() {
		t.Run("wireguard-go", func(t *testing.T) { floodStock(t, &table) })
	}
	t.Log(&table)
}

// arena is a gateway of either kind with devices, and an attacker.
type arena struct {
	lab      *labtest.Lab
	kind     string
	gateway  netip.AddrPort
	process  *labtest.Process
	attacker *labtest.Node
	here     *crowd // connected
	fresh    []*labtest.Device
	failed   func() uint64 // packets that failed authentication
}

// sources are addresses of the attacker beside its own.
var sources = netip.MustParsePrefix("10.66.0.0/16")

func floodGatemesh(t *testing.T, table *labtest.Table) {
	lab := newLab(t)
	g := lab.Gateway("gw1")
	g.Start("--name", g.Name, "--public", g.Public().String())
	g.WaitReady()
	a := &arena{lab: lab, kind: "gatemesh", gateway: g.Public(), process: g.Process, attacker: attackerOf(lab, g.Node)}
	a.failed = func() uint64 { return forgedAt(g) }
	n := size(10, 200)
	a.populate(n, func(i int) labtest.Config { return g.AddDevice(fmt.Sprintf("device%d", i)) })
	a.floods(t, table)
}

func floodStock(t *testing.T, table *labtest.Table) {
	lab := newLab(t)
	node := lab.Node("plain", labtest.Internet|labtest.LAN, 1)
	private, public := labtest.NewKey()
	conf := labtest.Config{PrivateKey: private, ListenPort: labtest.WireGuardPort, Addresses: []netip.Prefix{netip.PrefixFrom(inner, 32)}}
	n := size(10, 200)
	var devices []labtest.Config
	addr := inner
	for range 2 * n {
		addr = addr.Next()
		own, pub := labtest.NewKey()
		conf.Peers = append(conf.Peers, labtest.Peer{PublicKey: pub, AllowedIPs: []netip.Prefix{netip.PrefixFrom(addr, 32)}})
		devices = append(devices, labtest.Config{PrivateKey: own, Addresses: []netip.Prefix{netip.PrefixFrom(addr, 32)}, Peers: []labtest.Peer{{
			PublicKey: public, AllowedIPs: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")},
			Endpoint: netip.AddrPortFrom(node.Addr, labtest.WireGuardPort).String(), Keepalive: 25,
		}}})
	}
	s := node.Stock(labtest.Module, conf)
	s.Up()
	a := &arena{
		lab: lab, kind: "wireguard-go", gateway: netip.AddrPortFrom(node.Addr, labtest.WireGuardPort), process: s.Process,
		attacker: attackerOf(lab, node), failed: func() uint64 { return 0 },
	}
	a.populate(n, func(i int) labtest.Config { return devices[i] })
	a.floods(t, table)
}

// attackerOf makes a node that has all the sources, to which the gateway knows
// the way.
func attackerOf(lab *labtest.Lab, gateway *labtest.Node) *labtest.Node {
	n := lab.Node("attacker", labtest.Internet, 45)
	n.Run("ip", "route", "add", "local", sources.String(), "dev", "lo")
	gateway.Run("ip", "route", "add", sources.String(), "via", n.Addr.String())
	return n
}

// populate makes n connected devices and n new ones, one of each on a node.
func (a *arena) populate(n int, conf func(i int) labtest.Config) {
	a.here = &crowd{lab: a.lab, target: inner}
	for i := range n {
		d := a.lab.Device(fmt.Sprintf("device%d", i), conf(2*i))
		a.here.devices = append(a.here.devices, d)
		a.fresh = append(a.fresh, d.Node.Device(conf(2*i+1)))
	}
}

func (a *arena) floods(t *testing.T, table *labtest.Table) {
	a.here.up(t, size(time.Second, 4*time.Second), 200*time.Millisecond)
	a.run(t, table, "", 0)
	for _, keys := range []string{"unknown", "known"} {
		for _, from := range size([]int{250}, []int{1, 250}) {
			a.run(t, table, keys, from)
		}
	}
	a.here.stop()
}

// run floods from so many sources, 0 for not at all, and brings the new devices
// up in the midst of it.
func (a *arena) run(t *testing.T, table *labtest.Table, keys string, from int) {
	t.Helper()
	begin := time.Now()
	failed, dropped := a.failed(), labtest.Dropped()
	stop := a.flood(t, keys, from)
	a.lab.Observe(size(time.Second, 3*time.Second)) // the flood is there
	before, used, cpu := time.Now(), a.process.Usage().CPU, ourCPU()
	pingers := make([]*labtest.Pinger, len(a.fresh))
	came := make([]time.Time, len(a.fresh))
	for i, d := range a.fresh {
		came[i] = time.Now()
		if err := d.Up(); err != nil {
			t.Fatal(err)
		}
		pingers[i] = d.Ping(inner, 500*time.Millisecond)
		a.lab.Observe(time.Second / time.Duration(len(a.fresh)))
	}
	const limit = 10 * time.Second
	var took labtest.Durations
	served := make([]bool, len(a.fresh))
	for len(took) < len(a.fresh) && time.Since(came[len(came)-1]) < limit {
		a.lab.Observe(5 * time.Millisecond)
		for i, p := range pingers {
			if !served[i] && p.Answered(came[i]) > 0 {
				at, _ := p.Log().FirstAfter(came[i])
				if d := at.Sub(came[i]); d <= limit {
					took = append(took, d)
				}
				served[i] = true
			}
		}
	}
	if labtest.Full() {
		a.lab.Observe(time.Until(before.Add(limit))) // as much of the flood for each
	}
	wall := time.Since(before).Seconds()
	gateway, our := (a.process.Usage().CPU-used).Seconds()/wall, (ourCPU()-cpu).Seconds()/wall
	stats, attackers := stop()
	a.lab.Observe(300 * time.Millisecond)
	answered, lost := 0, 0
	for _, log := range a.here.logs() {
		lost += log.LostSince(begin)
		for _, r := range log.Replies {
			if r.At.After(begin) {
				answered++
			}
		}
	}
	for i, p := range pingers {
		go p.Stop()
		a.fresh[i].Down()
	}
	table.Row(a.kind, keys, from, int(float64(stats.Sent)/max(.001, stats.Took.Seconds())), stats.Cookies, stats.Responses, len(a.fresh), len(took),
		took.P(.5), took.P(.99), len(a.here.devices), answered+lost, lost, gateway, attackers, our, a.failed()-failed, labtest.Dropped()-dropped)
	if a.kind == "gatemesh" {
		a.lab.Bar(len(took) == len(a.fresh), "new devices served within 10 s under a flood of %s keys from %d addresses: %d of %d", keys, from, len(took), len(a.fresh))
		a.lab.Bar(lost == 0, "0 pings of connected devices lost under it: %d of %d", lost, answered+lost)
	}
	a.lab.Observe(size(time.Second, 8*time.Second)) // the gateway comes to rest
}

// flood begins a flood; stop ends it and says what it did, and what share of a
// core it took.
func (a *arena) flood(t *testing.T, keys string, from int) (stop func() (vpntest.FloodStats, float64)) {
	t.Helper()
	if from == 0 {
		return func() (s vpntest.FloodStats, cpu float64) { return s, 0 }
	}
	f := vpntest.Flood{Target: a.gateway, Rate: size(1000, 10000), AnswerCookies: true}
	var err error
	if f.Gateway, err = a.fresh[0].Config.PublicKey(); err != nil {
		t.Fatal(err)
	}
	addr := sources.Addr()
	for range from {
		addr = addr.Next()
		f.Sources = append(f.Sources, addr)
	}
	for i := 0; keys == "known" && i < len(a.fresh); i++ {
		for _, d := range []*labtest.Device{a.fresh[i], a.here.devices[i]} {
			public, err := d.Config.Public()
			if err != nil {
				t.Fatal(err)
			}
			f.Keys = append(f.Keys, public)
		}
	}
	text, err := json.Marshal(f)
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	name := fmt.Sprintf("flood-%s-%d", keys, from)
	p := a.attacker.Start(name, []string{floodEnv + "=" + string(text), "GOMAXPROCS=1"},
		"nice", "-n", "10", program, "-test.run=^TestLabFloodProcess$")
	return func() (s vpntest.FloodStats, cpu float64) {
		cpu = p.Usage().CPU.Seconds() / time.Since(begin).Seconds()
		p.Stop()
		_, rest, _ := strings.Cut(p.Log(), "{")
		line, _, _ := strings.Cut(rest, "\n")
		if err := json.Unmarshal([]byte("{"+line), &s); err != nil {
			t.Errorf("what the flood says: %v in %q", err, p.Log())
		}
		return s, cpu
	}
}

// ourCPU is what this process, in which the devices are, has used.
func ourCPU() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
