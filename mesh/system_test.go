package mesh_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"gatemesh/mesh"
)

// await waits in real time; the limit is for what never comes.
func await(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !f(); {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// onLoopback runs a mesh on a port of loopback.
func onLoopback(t *testing.T, name string) (*mesh.Mesh, *history) {
	t.Helper()
	h := newHistory(name)
	m, err := mesh.New(mesh.Config{
		Key: key(name), Name: name, Cluster: [16]byte{1}, GossipKey: [32]byte{2},
		Secrets: keys([32]byte{3}),
		Welcome: func(context.Context, mesh.Newcomer) ([]byte, error) { return []byte("hi"), nil },
		Listen:  "127.0.0.1:0",
		States:  map[string]mesh.State{"config": h},
		Beat:    func() []byte { return []byte("load of " + name) },
		Log:     testLog(name),
	})
	if err != nil {
		t.Fatal(err)
	}
	m.Handle("echo", func(_ context.Context, _ mesh.ID, p []byte) ([]byte, error) { return p, nil })
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := m.Run(t.Context()); err != nil {
			t.Errorf("run: %v", err)
		}
	})
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		wg.Wait()
	})
	return m, h
}

// Real sockets, real TLS, real serf, and nothing left behind.
func TestSystemNetwork(t *testing.T) {
	ignore := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, ignore) })
	a, ha := onLoopback(t, "a")
	b, hb := onLoopback(t, "b")
	c, hc := onLoopback(t, "c")
	b.Connect([]netip.AddrPort{a.Addr()})
	c.Connect([]netip.AddrPort{a.Addr()})
	all := []*mesh.Mesh{a, b, c}
	await(t, "meshed", func() bool {
		for _, m := range all {
			n := 0
			for _, o := range m.Members() {
				if o.Synced && o.Status == mesh.Alive && len(o.Beat) > 0 && o.RTT > 0 {
					n++
				}
			}
			if n != 2 {
				return false
			}
		}
		return true
	})
	ha.add([]byte("x"))
	hb.add([]byte("y"))
	await(t, "replicated", func() bool { return hc.total() == 2 && equal(ha, hb, hc) })
	if p, err := a.Call(t.Context(), c.ID(), "echo", []byte("z")); err != nil || string(p) != "z" {
		t.Errorf("call: %q, %v", p, err)
	}

	d := newHistory("d")
	data, local, err := mesh.Join(t.Context(), mesh.JoinConfig{
		Key: key("d"), Credential: mesh.Credential{Secret: [32]byte{3}}, Name: "d", State: d, Log: testLog("d"),
	}, b.Addr())
	if err != nil || string(data) != "hi" || !equal(d, ha) || local != netip.MustParseAddr("127.0.0.1") {
		t.Errorf("join: %q, %v, %v", data, local, err)
	}
	_, _, err = mesh.Join(t.Context(), mesh.JoinConfig{
		Key: key("d"), Credential: mesh.Credential{Secret: [32]byte{4}},
		State: d,
	}, b.Addr())
	if !errors.Is(err, mesh.ErrWrongKey) {
		t.Errorf("wrong key: %v", err)
	}

	if err := b.Close(); err != nil {
		t.Error(err)
	}
	await(t, "failed", func() bool {
		for _, o := range a.Members() {
			if o.ID == b.ID() {
				return o.Status == mesh.Failed
			}
		}
		return false
	})
	// Somebody else has the port: refused by name.
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	var pe *mesh.PortError
	_, err = mesh.New(mesh.Config{Key: key("e"), Listen: taken.Addr().String()})
	if !errors.As(err, &pe) || pe.Network != "tcp" || pe.Addr != taken.Addr().String() {
		t.Errorf("port taken: %v", err)
	}
}

func TestSystemSource(t *testing.T) {
	if s := mesh.System.Source(netip.MustParseAddr("127.0.0.1")); s != netip.MustParseAddr("127.0.0.1") {
		t.Errorf("towards loopback: %v", s)
	}
	if s := mesh.System.Source(netip.Addr{}); !s.IsValid() || s.IsUnspecified() || s.Zone() != "" {
		t.Errorf("in general: %v", s)
	}
}
