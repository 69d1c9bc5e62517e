package node_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"gatemesh/mesh"
	"gatemesh/node"
	"gatemesh/node/api"
	"gatemesh/node/nodetest"
)

// Two sides of a split evict a gateway of the other side each. Once they meet they make keys that neither of the
// evicted ones knows.
func TestEvictOnBothSides(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := nodetest.New(t, 31)
		a, b, c := three(t, w)
		d := w.Gateway(4, "d")
		d.Start()
		w.WaitReady(6*time.Second, a, b, c, d)
		ctx := context.Background()
		w.Net.Cut(addrs(a.Addr, b.Addr), addrs(c.Addr, d.Addr))
		w.Wait("the split is seen", 5*time.Second, func() bool {
			return a.Ready(2) && b.Ready(2) && c.Ready(2) && d.Ready(2)
		})
		for name, at := range map[string]*nodetest.Gateway{"b": c, "d": a} {
			if _, err := at.EvictGateway(ctx, name); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(15 * time.Second)
		old := []node.ClusterKey{clusterKey(t, a), clusterKey(t, b), clusterKey(t, c), clusterKey(t, d)}
		w.Net.Heal(addrs(a.Addr, b.Addr), addrs(c.Addr, d.Addr))
		for _, g := range []*nodetest.Gateway{b, d} {
			if err := g.Ended(30 * time.Second); err == nil || !strings.Contains(err.Error(), "evicted") {
				t.Errorf("%s ended with %v", g.Name, err)
			}
		}
		w.WaitReady(10*time.Second, a, c)
		w.Wait("new keys", 20*time.Second, func() bool { return oneKey(t, a, c) })
		if k := clusterKey(t, c); slices.Contains(old, k) || clusterKey(t, a) != k {
			t.Error("a key that was known to an evicted gateway")
		}
		x := w.Gateway(5, "x")
		x.Start(func(cfg *node.Config) { cfg.Key, cfg.Join = &old[3], a.Addr.String() })
		if err := x.Ended(10 * time.Second); err == nil || !strings.Contains(err.Error(), "another key") {
			t.Errorf("joined with a key that an evicted gateway knows: %v", err)
		}
		x.Start(func(cfg *node.Config) { k := clusterKey(t, c); cfg.Key, cfg.Join = &k, a.Addr.String() })
		w.WaitReady(10*time.Second, a, c, x)
	})
}

// An evicted gateway evicts another in return, and one that does not know better heeds it, until it hears of the first
// eviction from a third.
func TestRevengeAcrossSplit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := nodetest.New(t, 35)
		a, b, c := three(t, w)
		d := w.Gateway(4, "d")
		d.Start()
		w.WaitReady(6*time.Second, a, b, c, d)
		ctx := context.Background()
		w.Net.Cut(addrs(a.Addr, d.Addr), addrs(b.Addr, c.Addr))
		w.Wait("the split is seen", 5*time.Second, func() bool {
			return a.Ready(2) && b.Ready(2) && c.Ready(2) && d.Ready(2)
		})
		if _, err := a.EvictGateway(ctx, "c"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if _, err := c.EvictGateway(ctx, "a"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(15 * time.Second)
		w.Net.Heal(addrs(a.Addr, d.Addr), addrs(b.Addr, c.Addr))
		if err := c.Ended(30 * time.Second); err == nil || !strings.Contains(err.Error(), "evicted") {
			t.Errorf("c ended with %v", err)
		}
		w.WaitReady(30*time.Second, a, b, d)
		w.Wait("new keys", 20*time.Second, func() bool { return oneKey(t, a, b, d) })
		for _, g := range []*nodetest.Gateway{a, b, d} {
			if all, err := g.ListEvictions(ctx); err != nil || len(all) != 1 || all[0].Name != "c" {
				t.Errorf("evictions at %s: %+v, %v", g.Name, all, err)
			}
		}
	})
}

// A password that the evicted gateway may know lets nobody join; that is said at the eviction.
func TestPasswordsAfterEviction(t *testing.T) {
	node.CheapPasswords(t)
	synctest.Test(t, func(t *testing.T) {
		w := nodetest.New(t, 32)
		a, b, c := three(t, w)
		ctx := context.Background()
		if _, err := a.AddUser(ctx, api.NewUser{Name: "anna", Password: "korrekt pferd"}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		e, err := a.EvictGateway(ctx, "c")
		if err != nil || !slices.Equal(e.Passwords, []string{"anna"}) {
			t.Errorf("%+v, %v", e, err)
		}
		if err := c.Ended(10 * time.Second); err == nil {
			t.Error("it was evicted")
		}
		x := w.Gateway(4, "x")
		knock(x, b, &person{user: "anna", password: "korrekt pferd"})
		err = x.Ended(time.Minute)
		var hint *node.HintError
		if !errors.As(err, &hint) || !strings.Contains(err.Error(), "before the last eviction was known") ||
			!strings.Contains(hint.Hint, "gatemesh user password anna") {
			t.Errorf("joined with the old password: %v", err)
		}
		if err := b.SetPassword(ctx, "anna", api.Password{Password: "pferd korrekt"}); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Second)
		knock(x, a, &person{user: "anna", password: "pferd korrekt"})
		w.WaitReady(15*time.Second, a, b, x)
		if all, err := a.ListEvictions(ctx); err != nil || len(all) != 1 || len(all[0].Passwords) != 0 {
			t.Errorf("%+v, %v", all, err)
		}
	})
}

// A gateway made from a backup that knew of an eviction is a member by its own word, also to those whom it admits.
func TestRestoredAfterEviction(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := nodetest.New(t, 34)
		a, b, c := three(t, w)
		if _, err := a.EvictGateway(t.Context(), "c"); err != nil {
			t.Fatal(err)
		}
		w.Wait("new keys", 10*time.Second, func() bool { return oneKey(t, a, b) })
		key := clusterKey(t, a)
		var backup bytes.Buffer
		if err := a.Backup(t.Context(), &backup); err != nil {
			t.Fatal(err)
		}
		_ = c.Ended(10 * time.Second)
		a.Stop()
		b.Stop()
		dir := t.TempDir()
		if _, err := node.RestoreInto(t.Context(), node.Config{Data: dir, Name: "r"}, &backup); err != nil {
			t.Fatal(err)
		}
		r, x := w.Gateway(5, "r"), w.Gateway(6, "x")
		r.Start(func(cfg *node.Config) { cfg.Data, cfg.Key = dir, nil })
		w.WaitReady(20*time.Second, r)
		x.Start(func(cfg *node.Config) { cfg.Key, cfg.Join = &key, r.Addr.String() })
		w.WaitReady(10*time.Second, r, x)
		w.Wait("both use the keys", 20*time.Second, func() bool { return r.Ready(2) && x.Ready(2) })
	})
}

// shortNet is a network whose first connection breaks after some bytes, and that has no other.
type shortNet struct {
	mesh.Network
	dials, bytes int
}

func (s *shortNet) Dial(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	if s.dials++; s.dials > 1 {
		return nil, syscall.ENETUNREACH
	}
	c, err := s.Network.Dial(ctx, to)
	return &shortConn{c, s}, err
}

type shortConn struct {
	net.Conn
	net *shortNet
}

func (c *shortConn) Read(b []byte) (int, error) {
	if c.net.bytes -= len(b); c.net.bytes < 0 {
		return 0, io.ErrUnexpectedEOF
	}
	n, err := c.Conn.Read(b)
	c.net.bytes += len(b) - n
	return n, err
}

// A newcomer is cut off while it is handed the configuration. A twin with the same key adds nothing to what has come:
// it goes on with the cluster that it began with.
func TestJoinIsNotFinishedByATwin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := nodetest.New(t, 33)
		a, c, x := w.Gateway(1, "a"), w.Gateway(2, "c"), w.Gateway(3, "x")
		w.Net.Cut(addrs(a.Addr), addrs(c.Addr))
		a.Start()
		c.Start()
		w.WaitReady(6*time.Second, a)
		w.WaitReady(6*time.Second, c)
		const devices = 500
		for i := range devices {
			w.Enrol(a, fmt.Sprintf("device-%d-%s", i, strings.Repeat("x", 40)))
		}
		w.Enrol(c, "phone")
		at := func(g *nodetest.Gateway) func(*node.Config) {
			return func(cfg *node.Config) { cfg.Join = g.Addr.String() }
		}
		x.Start(at(a), func(cfg *node.Config) { cfg.Network = &shortNet{Network: cfg.Network, bytes: 300 << 10} })
		time.Sleep(5 * time.Second)
		x.Stop()
		b, err := os.ReadFile(filepath.Join(x.Dir(), "joining.json"))
		if err != nil || !strings.Contains(string(b), `"cluster":"`) {
			t.Fatalf("the note: %s, %v", b, err)
		}
		x.Start(at(c))
		var hint *node.HintError
		if err := x.Ended(10 * time.Second); !errors.As(err, &hint) || !strings.Contains(err.Error(), "not joined in full") {
			t.Errorf("went on at a twin: %v", err)
		}
		x.Start(at(a))
		w.WaitReady(10*time.Second, a, x)
		list, err := x.ListDevices(context.Background())
		if err != nil || len(list) != devices {
			t.Errorf("%d devices, %v", len(list), err)
		}
	})
}
