package mesh_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"net/netip"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"gatemesh/mesh"
	"gatemesh/mesh/meshtest"
)

func TestKeyThatIsNotAdmitted(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := meshtest.NewNetwork(1)
		var vouchers atomic.Int32
		admit := func(c *mesh.Config) {
			c.Admit = func(key ed25519.PublicKey, voucher []byte) error {
				if string(voucher) == "friend" {
					vouchers.Add(1)
					return nil
				}
				return errors.New("who is this")
			}
			if c.Name != "c" {
				c.Voucher = []byte("friend")
			}
		}
		a, b := start(t, n, "a", 1, admit), start(t, n, "b", 2, admit)
		b.mesh.Connect(addrs(a))
		within(t, 3*time.Second, "meshed", func() bool { return meshed(a, b) })

		// It has the gossip key, and may even like the others.
		a.state.add([]byte("secret"))
		c := start(t, n, "c", 3, func(cfg *mesh.Config) { cfg.Voucher = nil })
		c.mesh.Connect(addrs(a, b))
		time.Sleep(time.Minute)
		for _, g := range []*gateway{a, b} {
			if g.sees(c).Linked || g.count(mesh.Up, c, time.Time{}) != 0 {
				t.Error("linked to one that is not admitted")
			}
			if c.sees(g).Linked || c.count(mesh.Synced, nil, time.Time{}) != 0 {
				t.Error("one that is not admitted has a link")
			}
		}
		if c.state.total() != 0 {
			t.Error("the state leaked")
		}
		if err := c.mesh.Send(a.id(), "note", nil); !errors.Is(err, mesh.ErrNotLinked) {
			t.Errorf("send: %v", err)
		}
		if vouchers.Load() == 0 {
			t.Error("no voucher was looked at")
		}
		closeAll(a, b, c)
	})
}

// A member that hears of an admission later than the newcomer comes to it does not let it wait.
func TestAdmittedLate(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := meshtest.NewNetwork(1)
		var heard atomic.Bool
		newcomer := gatewayID(key("c"))
		a := start(t, n, "a", 1, func(c *mesh.Config) {
			c.Admit = func(key ed25519.PublicKey, _ []byte) error {
				if mesh.IDOf(key) == newcomer && !heard.Load() {
					return errors.New("who is this")
				}
				return nil
			}
		})
		b := start(t, n, "b", 2)
		b.mesh.Connect(addrs(a))
		within(t, 3*time.Second, "meshed", func() bool { return meshed(a, b) })
		c := start(t, n, "c", 3)
		c.mesh.Connect(addrs(a, b))
		for range 20 {
			time.Sleep(time.Second)
			if meshed(a, c) {
				t.Fatal("linked to one that is not admitted")
			}
		}
		heard.Store(true)
		a.mesh.Recheck()
		within(t, 200*time.Millisecond, "meshed with the newcomer", func() bool { return meshed(a, b, c) })
		closeAll(a, b, c)
	})
}

// It admits others, but they do not admit it: then the link is not up for it
// either.
func TestAdmissionIsMutual(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := meshtest.NewNetwork(1)
		a := start(t, n, "a", 1)
		b := start(t, n, "b", 2, func(c *mesh.Config) {
			c.Admit = func(ed25519.PublicKey, []byte) error { return errors.New("nobody") }
		})
		b.mesh.Connect(addrs(a))
		a.mesh.Connect(addrs(b))
		time.Sleep(30 * time.Second)
		if a.count(mesh.Up, b, time.Time{})+b.count(mesh.Up, a, time.Time{}) != 0 {
			t.Error("up was told")
		}
		closeAll(a, b)
	})
}

func TestOtherClustersDoNotMix(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := meshtest.NewNetwork(1)
		a := start(t, n, "a", 1)
		b := start(t, n, "b", 2, func(c *mesh.Config) { c.Cluster = [16]byte{9} })
		c := start(t, n, "c", 3, func(c *mesh.Config) { c.GossipKey = [32]byte{9} })
		b.mesh.Connect(addrs(a))
		c.mesh.Connect(addrs(a))
		time.Sleep(time.Minute)
		if len(a.mesh.Members()) > 1 || len(b.mesh.Members()) > 1 || a.count(mesh.Up, b, time.Time{}) != 0 {
			t.Error("clusters mix")
		}
		// Another gossip key does not keep members apart that trust each other.
		if !meshed(a, c) {
			t.Error("links depend on the gossip key")
		}
		closeAll(a, b, c)
	})
}

// joining returns what a newcomer called name on host i joins with.
func joining(n *meshtest.Network, name string, i int) (mesh.JoinConfig, *history) {
	s := newHistory(name)
	return mesh.JoinConfig{
		Key: key(name), Credential: mesh.Credential{Secret: [32]byte{3}}, Name: name, Version: "v7",
		Network: n.Host(meshtest.Addr(i)), State: s, Log: testLog(name),
	}, s
}

func TestJoin(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := meshtest.NewNetwork(1)
		var came mesh.Newcomer
		a := start(t, n, "a", 1, func(c *mesh.Config) {
			c.Welcome = func(_ context.Context, nc mesh.Newcomer) ([]byte, error) {
				came = nc
				return []byte("welcome"), nil
			}
		})
		for range 1000 {
			a.state.add(bytes.Repeat([]byte{1}, 4<<10))
		}
		cfg, state := joining(n, "b", 2)
		data, local, err := mesh.Join(t.Context(), cfg, a.addr())
		if err != nil || string(data) != "welcome" || local != meshtest.Addr(2) {
			t.Fatalf("join: %q, %v, %v", data, local, err)
		}
		if !equal(state, a.state) {
			t.Error("the state is not whole")
		}
		if came.Name != "b" || came.Version != "v7" || came.Addr.Addr() != meshtest.Addr(2) ||
			!came.Key.Equal(key("b").Public()) {
			t.Errorf("newcomer %+v", came)
		}
		closeAll(a)
	})
}

func TestJoinRefused(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := meshtest.NewNetwork(1)
		welcomes := 0
		welcome := func(context.Context, mesh.Newcomer) ([]byte, error) {
			welcomes++
			return nil, errors.New("3 of 3 gateways are there")
		}
		a := start(t, n, "a", 1, func(c *mesh.Config) { c.Welcome = welcome })
		b := start(t, n, "b", 2)
		c := start(t, n, "c", 3, func(c *mesh.Config) {
			c.Welcome = func(context.Context, mesh.Newcomer) ([]byte, error) { return nil, mesh.ErrNotMember }
		})
		d := start(t, n, "d", 4, func(c *mesh.Config) { c.Secrets = nil })
		a.state.add([]byte("secret"))

		cfg, state := joining(n, "e", 5)
		cfg.Credential.Secret = [32]byte{4}
		if _, _, err := mesh.Join(t.Context(), cfg, a.addr()); !errors.Is(err, mesh.ErrWrongKey) {
			t.Errorf("wrong key: %v", err)
		}
		if welcomes != 0 || state.total() != 0 {
			t.Error("a wrong key is welcome")
		}
		cfg.Credential.Secret = [32]byte{3}
		var no *mesh.RefusedError
		if _, _, err := mesh.Join(t.Context(), cfg, a.addr()); !errors.As(err, &no) || !strings.Contains(no.Reason, "3 of 3") {
			t.Errorf("policy: %v", err)
		}
		for _, g := range []*gateway{b, c, d} {
			if _, _, err := mesh.Join(t.Context(), cfg, g.addr()); !errors.Is(err, mesh.ErrNotMember) {
				t.Errorf("nobody to admit: %v", err)
			}
		}
		nobody := netip.AddrPortFrom(meshtest.Addr(4), 1)
		if _, _, err := mesh.Join(t.Context(), cfg, nobody); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("nobody listens: %v", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		n.Vanish(a.host)
		if _, _, err := mesh.Join(ctx, cfg, a.addr()); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("no answer: %v", err)
		}
		n.Return(a.host)
		if state.total() != 0 {
			t.Error("the state leaked")
		}
		closeAll(a, b, c, d)
	})
}

// Somebody who holds no cluster key cannot pass for a member.
func TestJoinAtAnImpostor(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := meshtest.NewNetwork(1)
		a := start(t, n, "a", 1, func(c *mesh.Config) {
			c.Secrets = keys([32]byte{9})
			c.Welcome = func(context.Context, mesh.Newcomer) ([]byte, error) { return nil, nil }
		})
		cfg, _ := joining(n, "b", 2)
		if _, _, err := mesh.Join(t.Context(), cfg, a.addr()); !errors.Is(err, mesh.ErrWrongKey) {
			t.Errorf("impostor: %v", err)
		}
		closeAll(a)
	})
}

func TestNewIsParticular(t *testing.T) {
	n := meshtest.NewNetwork(1)
	h := n.Host(meshtest.Addr(1))
	good := mesh.Config{Key: key("a"), Network: h, Listen: ":7946"}
	m, err := mesh.New(good)
	if err != nil {
		t.Fatal(err)
	}
	var taken *mesh.PortError
	if _, err := mesh.New(good); !errors.As(err, &taken) || taken.Network != "tcp" || taken.Addr != ":7946" {
		t.Errorf("port taken: %v", err)
	}
	if _, err := mesh.New(mesh.Config{Key: good.Key[:5], Network: h}); err == nil {
		t.Error("a short key is taken")
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
	if err := m.Run(t.Context()); err == nil {
		t.Error("runs after Close")
	}
	// The port is free again, and UDP is looked at, too.
	udp, err := h.ListenPacket(":7946")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := mesh.New(good); !errors.As(err, &taken) || taken.Network != "udp" {
		t.Errorf("UDP port taken: %v", err)
	}
	udp.Close()
	if m, err = mesh.New(good); err != nil {
		t.Fatal(err)
	}
	m.Close()
}
