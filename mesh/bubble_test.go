package mesh_test

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"gatemesh/mesh"
	"gatemesh/mesh/meshtest"
)

// gateway is one mesh in a bubble, and what it was told.
type gateway struct {
	t     *testing.T
	net   *meshtest.Network
	host  netip.Addr
	key   ed25519.PrivateKey
	cfg   mesh.Config
	mesh  *mesh.Mesh
	state *history
	stop  context.CancelFunc
	ended chan error

	mu     sync.Mutex // guards the fields below
	events []timed
	beats  int
}

type timed struct {
	at time.Time
	mesh.Event
}

func key(seed string) ed25519.PrivateKey {
	s := sha256.Sum256([]byte(seed))
	return ed25519.NewKeyFromSeed(s[:])
}

// testLog is silent unless MESH_LOG is set.
func testLog(name string) *slog.Logger {
	if os.Getenv("MESH_LOG") == "" {
		return slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})).With("me", name)
}

// build makes the gateway called name on host i of n. change may adjust its
// Config.
func build(t *testing.T, n *meshtest.Network, name string, i int, change ...func(*mesh.Config)) *gateway {
	t.Helper()
	g := &gateway{t: t, net: n, host: meshtest.Addr(i), key: key(name), state: newHistory(name), ended: make(chan error, 1)}
	g.cfg = mesh.Config{
		Key: g.key, Name: name, Version: "test", Cluster: [16]byte{1}, GossipKey: [32]byte{2},
		Secrets: keys([32]byte{3}),
		Network: n.Host(g.host),
		States:  map[string]mesh.State{"config": g.state},
		Events: func(e mesh.Event) {
			g.mu.Lock()
			defer g.mu.Unlock()
			if e.Kind == mesh.Beat {
				g.beats++
			} else {
				g.events = append(g.events, timed{time.Now(), e})
			}
		},
		Log: testLog(name),
	}
	for _, f := range change {
		f(&g.cfg)
	}
	var err error
	if g.mesh, err = mesh.New(g.cfg); err != nil {
		t.Fatal(err)
	}
	return g
}

// launch runs the gateway.
func (g *gateway) launch() {
	var ctx context.Context
	ctx, g.stop = context.WithCancel(g.t.Context())
	go func() { g.ended <- g.mesh.Run(ctx) }()
	g.t.Cleanup(func() { // of a test that failed
		g.stop()
		_ = g.mesh.Close()
		time.Sleep(10 * time.Second) // serf's goroutines end at their next turn
	})
}

// start is build and launch.
func start(t *testing.T, n *meshtest.Network, name string, i int, change ...func(*mesh.Config)) *gateway {
	t.Helper()
	g := build(t, n, name, i, change...)
	g.launch()
	return g
}

// keys are the cluster keys that newcomers may prove.
func keys(some ...[32]byte) func(string, []byte) ([][32]byte, error) {
	return func(string, []byte) ([][32]byte, error) { return some, nil }
}

func addrs(list ...*gateway) []netip.AddrPort {
	var a []netip.AddrPort
	for _, g := range list {
		a = append(a, g.addr())
	}
	return a
}

// startCluster runs n gateways of which all but the first are told the first.
func startCluster(t *testing.T, net *meshtest.Network, n int, change ...func(*mesh.Config)) []*gateway {
	t.Helper()
	var list []*gateway
	for i := 1; i <= n; i++ {
		g := start(t, net, fmt.Sprint("g", i), i, change...)
		if i > 1 {
			g.mesh.Connect(addrs(list[0]))
		}
		list = append(list, g)
	}
	return list
}

func (g *gateway) addr() netip.AddrPort { return g.mesh.Addr() }
func (g *gateway) id() mesh.ID          { return gatewayID(g.key) }

func gatewayID(key ed25519.PrivateKey) mesh.ID { return mesh.IDOf(key.Public().(ed25519.PublicKey)) }

// close stops the gateway as a process that is asked to.
func (g *gateway) close() {
	g.t.Helper()
	if err := g.mesh.Close(); err != nil {
		g.t.Errorf("close: %v", err)
	}
	if err := <-g.ended; err != nil {
		g.t.Errorf("run: %v", err)
	}
	if err := g.mesh.Close(); err != nil {
		g.t.Errorf("second close: %v", err)
	}
}

// kill ends the gateway as kill -9 does.
func (g *gateway) kill() {
	g.net.Kill(g.host)
	g.stop()
	<-g.ended
	_ = g.mesh.Close()
}

func closeAll(list ...*gateway) {
	var wg sync.WaitGroup
	for _, g := range list {
		wg.Go(g.close)
	}
	wg.Wait()
}

// sees returns what g knows of other.
func (g *gateway) sees(other *gateway) mesh.Member {
	for _, m := range g.mesh.Members() {
		if m.ID == other.id() {
			return m
		}
	}
	return mesh.Member{}
}

// count returns how many events of the kind about other came since.
func (g *gateway) count(kind mesh.EventKind, other *gateway, since time.Time) int {
	return len(g.told(kind, other, since))
}

func (g *gateway) told(kind mesh.EventKind, other *gateway, since time.Time) []timed {
	g.mu.Lock()
	defer g.mu.Unlock()
	var list []timed
	for _, e := range g.events {
		if e.Kind == kind && (other == nil || e.Member.ID == other.id()) && !e.at.Before(since) {
			list = append(list, e)
		}
	}
	return list
}

// within waits at most d of the bubble's time for f, and returns how long it
// took.
func within(t *testing.T, d time.Duration, what string, f func() bool) time.Duration {
	t.Helper()
	began := time.Now()
	for !f() {
		if time.Since(began) > d {
			t.Fatalf("not within %v: %s", d, what)
		}
		time.Sleep(time.Millisecond)
	}
	return time.Since(began)
}

// meshed says whether all see all others linked, alive and synced.
func meshed(list ...*gateway) bool {
	for _, g := range list {
		for _, o := range list {
			if g == o {
				continue
			}
			if m := g.sees(o); m.Status != mesh.Alive || !m.Linked || !m.Synced {
				return false
			}
		}
	}
	return true
}

func hosts(list ...*gateway) []netip.Addr {
	var a []netip.Addr
	for _, g := range list {
		a = append(a, g.host)
	}
	return slices.Clip(a)
}

func bubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, f)
}

func TestThreeFindEachOther(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := startCluster(t, meshtest.NewNetwork(1), 3)
		t.Log("meshed after", within(t, 3*time.Second, "meshed", func() bool { return meshed(g...) }))
		g[1].state.add([]byte("x"))
		d := within(t, time.Second, "pushed", func() bool { return g[0].state.total() == 1 && g[2].state.total() == 1 })
		t.Log("pushed after", d)
		if d > 10*time.Millisecond {
			t.Errorf("a push took %v", d)
		}
		closeAll(g...)
	})
}
