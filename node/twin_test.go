package node_test

import (
	"context"
	"encoding/base64"
	"errors"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"gatemesh/mesh"
	"gatemesh/node"
	"gatemesh/node/api"
	"gatemesh/node/nodetest"
	"gatemesh/vpn/vpntest"
)

// Two clusters with devices were begun apart with one key. When their networks
// meet each says that the other is there, and nothing else comes of it.
func TestTwinsAreReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := nodetest.New(t, 83)
		a, b, c := w.Gateway(1, "a"), w.Gateway(2, "b"), w.Gateway(3, "c")
		w.Net.Cut(addrs(c.Addr), addrs(a.Addr, b.Addr))
		a.Start()
		b.Start()
		w.WaitReady(6*time.Second, a, b)
		c.Start()
		w.WaitReady(6*time.Second, c)
		w.Enrol(a, "phone")
		w.Enrol(c, "tablet")
		time.Sleep(time.Minute)
		twins := func(g *nodetest.Gateway) []api.Twin {
			s, err := g.Status(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			return s.Twins
		}
		if len(twins(a))+len(twins(b))+len(twins(c)) > 0 {
			t.Error("a twin that nobody can hear")
		}
		w.Net.Heal(addrs(c.Addr), addrs(a.Addr, b.Addr))
		w.Wait("both sides to see it", 70*time.Second, func() bool {
			return len(twins(a)) == 1 && len(twins(b)) == 1 && len(twins(c)) == 1
		})
		if twins(a)[0].Older || twins(b)[0].Older || !twins(c)[0].Older {
			t.Errorf("who is older: %+v, %+v", twins(a), twins(c))
		}
		if !a.Ready(2) || !c.Ready(1) {
			t.Error("clusters with devices did not stay what they were")
		}
		c.Stop()
		w.Wait("it is forgotten", 7*time.Minute, func() bool { return len(twins(a))+len(twins(b)) == 0 })
	})
}

// The younger cluster has no devices: its gateways join the older one by
// themselves. If that one is gone meanwhile it is what it was before.
func TestYoungerTwinJoins(t *testing.T) {
	for _, gone := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			w := nodetest.New(t, 84)
			a, b, c := w.Gateway(1, "a"), w.Gateway(2, "b"), w.Gateway(3, "c")
			w.Net.Cut(addrs(c.Addr), addrs(a.Addr, b.Addr))
			a.Start()
			b.Start()
			w.WaitReady(6*time.Second, a, b)
			c.Start()
			w.WaitReady(6*time.Second, c)
			w.Enrol(a, "phone")
			was := oneOf(t, c)
			w.Net.Heal(addrs(c.Addr), addrs(a.Addr, b.Addr))
			if err := c.Ended(2 * time.Minute); !errors.Is(err, node.ErrReset) {
				t.Fatal(err)
			}
			if gone {
				w.Net.Cut(addrs(c.Addr), addrs(a.Addr, b.Addr))
			}
			c.Start(func(cfg *node.Config) { *cfg = cfg.Reset() })
			if !gone {
				w.WaitReady(10*time.Second, a, b, c)
				if oneOf(t, a, b, c) == "" || oneOf(t, a, b, c) == was {
					t.Error("not the older cluster")
				}
				return
			}
			c.Reborn() // after two minutes
			w.Wait("it is what it was", 10*time.Second, func() bool { return oneOf(t, c) == was })
			w.Net.Heal(addrs(c.Addr), addrs(a.Addr, b.Addr))
			time.Sleep(10 * time.Minute)
			if oneOf(t, c) != was || !a.Ready(2) {
				t.Error("it tries again and again")
			}
		})
	}
}

// tail is a network that calls closed after a connection that was dialled is closed.
type tail struct {
	mesh.Network
	closed func()
}

type tailConn struct {
	net.Conn
	closed func()
}

func (c tailConn) Close() error {
	defer c.closed()
	return c.Conn.Close()
}

func (n tail) Dial(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	conn, err := n.Network.Dial(ctx, to)
	if err != nil {
		return nil, err
	}
	return tailConn{conn, n.closed}, nil
}

// A device that is acknowledged at the last moment, once the older cluster has answered, keeps the younger one.
func TestDeviceComesBeforeTwinJoins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := nodetest.New(t, 85)
		a, c := w.Gateway(1, "a"), w.Gateway(3, "c")
		w.Net.Cut(addrs(c.Addr), addrs(a.Addr))
		a.Start()
		w.WaitReady(6*time.Second, a)
		var met, added atomic.Bool
		c.Start(func(cfg *node.Config) {
			now := cfg.Now
			cfg.Network = tail{cfg.Network, func() { met.Store(true) }}
			cfg.Now = func() time.Time { // is asked when the note is made
				if met.CompareAndSwap(true, false) && added.CompareAndSwap(false, true) {
					_, public := vpntest.NewKey()
					d := api.NewDevice{Name: "phone", PublicKey: base64.StdEncoding.EncodeToString(public[:])}
					if _, err := c.AddDevice(context.Background(), d); err != nil {
						t.Error(err)
					}
				}
				return now()
			}
		})
		w.WaitReady(6*time.Second, c)
		w.Enrol(a, "laptop")
		met.Store(false)
		w.Net.Heal(addrs(c.Addr), addrs(a.Addr))
		time.Sleep(3 * time.Minute)
		if all, err := c.ListDevices(t.Context()); !added.Load() || err != nil || len(all) != 1 || all[0].Name != "phone" {
			t.Errorf("added: %v; c has %+v, %v", added.Load(), all, err)
		}
	})
}
