package vpn_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing"
	"time"

	"gatemesh/vpn"
	"gatemesh/vpn/vpntest"
)

// cluster is three gateways with the least that a node does: it remembers who confirmed a device last, tells the others
// to drop it, steers by chance, and lets a survivor take over what a dead gateway had. A device that is owned renews its
// keys with its owner: were another gateway to answer, a late packet of the owner would pull the device back to it.
type cluster struct {
	w      *world
	random *rand.Rand // of the history
	alive  [3]bool

	mu       sync.Mutex  // guards the fields below
	gateways [3]*gateway // written by the history alone
	chance   *rand.Rand  // of steering
	owner    map[vpn.Key]vpn.Event
	at       map[vpn.Key]int
}

func (cl *cluster) start(i int) {
	cl.alive[i] = true
	g := cl.w.gateway(fmt.Sprintf("192.0.2.%d", i+1), func(cfg *vpn.Config) {
		cfg.Steer = func(k vpn.Key, from netip.AddrPort, initiation []byte) bool {
			cl.mu.Lock()
			j, owned := cl.at[k]
			if !owned || cl.gateways[j] == nil {
				j = cl.chance.IntN(len(cl.gateways))
			}
			g := cl.gateways[j]
			cl.mu.Unlock()
			if j == i || g == nil {
				return true
			}
			g.Inject(initiation, from)
			return false
		}
		cfg.Notify = func(e vpn.Event) { cl.notify(i, e) }
	})
	cl.mu.Lock()
	cl.gateways[i] = g
	cl.mu.Unlock()
}

func (cl *cluster) notify(i int, e vpn.Event) {
	cl.mu.Lock()
	defer cl.mu.Unlock()
	cl.w.mu.Lock()
	d := cl.w.devices[e.Device]
	if string(e.Received[:]) > string(d.Received[:]) {
		d.Received = e.Received
	}
	if string(e.Sent[:]) > string(d.Sent[:]) {
		d.Sent = e.Sent
	}
	cl.w.devices[e.Device] = d
	cl.w.mu.Unlock()
	switch e.Kind {
	case vpn.Confirmed, vpn.Roamed:
		if e.Kind == vpn.Roamed && cl.at[e.Device] != i {
			return
		}
		cl.owner[e.Device], cl.at[e.Device] = e, i
		for j, g := range cl.gateways {
			if j != i && g != nil {
				go g.Drop(e.Device)
			}
		}
	}
}

// kill ends gateway i and has a survivor take its devices over.
func (cl *cluster) kill(i int) {
	cl.mu.Lock()
	g := cl.gateways[i]
	cl.gateways[i] = nil
	cl.mu.Unlock()
	cl.alive[i] = false
	g.kill()
	heir := cl.gateways[(i+1)%3]
	if heir == nil {
		heir = cl.gateways[(i+2)%3]
	}
	cl.mu.Lock()
	defer cl.mu.Unlock()
	for k, e := range cl.owner {
		if cl.at[k] == i {
			heir.Initiate(k, e.Endpoint)
		}
	}
}

// TestHistories runs random histories of deaths, restarts, takeovers, drops, moves and faults. Whatever happened, once
// it is over every device is served by exactly one gateway and loses nothing; nonces are unique throughout (world).
func TestHistories(t *testing.T) {
	histories := 8
	if testing.Short() || raceEnabled {
		histories = 3
	}
	for seed := range uint64(histories) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) { history(t, w, seed) })
		})
	}
}

func history(t *testing.T, w *world, seed uint64) {
	cl := &cluster{
		w: w, random: rand.New(rand.NewPCG(seed, 1)), chance: rand.New(rand.NewPCG(seed, 2)),
		owner: make(map[vpn.Key]vpn.Event), at: make(map[vpn.Key]int),
	}
	for i := range cl.gateways {
		cl.start(i)
	}
	clients := make([]*client, 6)
	stop := make(chan struct{})
	var traffic sync.WaitGroup
	for i := range clients {
		c := w.client(i+2, cl.gateways[i%3].addr, func(cfg *vpntest.ClientConfig, d *vpn.Device) {
			if i%2 == 0 {
				cfg.PresharedKey, _ = vpntest.NewKey()
				d.PresharedKey = cfg.PresharedKey
			}
		})
		clients[i] = c
		traffic.Go(func() {
			for {
				c.Ping(inner4, time.Second)
				select {
				case <-stop:
					return
				case <-time.After(time.Duration(200*(i+1)) * time.Millisecond):
				}
			}
		})
	}
	for range 60 {
		time.Sleep(time.Duration(cl.random.IntN(12000)) * time.Millisecond)
		cl.step(clients)
	}
	// Make it whole again.
	w.net.SetFaults(vpntest.Faults{Latency: time.Millisecond})
	for i := range cl.gateways {
		if !cl.alive[i] {
			cl.start(i)
		}
	}
	time.Sleep(4 * time.Minute)
	close(stop)
	traffic.Wait()
	time.Sleep(time.Second)
	for i, c := range clients {
		if lost := c.pings(20); lost != 0 {
			t.Errorf("device %d: %d pings lost", i, lost)
		}
		owners := 0
		for _, g := range cl.gateways {
			if s, ok := g.session(c.key); ok && s.Confirmed {
				owners++
			}
		}
		if owners != 1 {
			t.Errorf("device %d has %d gateways", i, owners)
		}
	}
}

// step is one event of a history.
func (cl *cluster) step(clients []*client) {
	i := cl.random.IntN(len(cl.gateways))
	c := clients[cl.random.IntN(len(clients))]
	alive := 0
	for _, a := range cl.alive {
		if a {
			alive++
		}
	}
	switch cl.random.IntN(7) {
	case 0:
		if cl.alive[i] && alive > 1 {
			cl.kill(i)
		} else if !cl.alive[i] {
			cl.start(i)
		}
	case 1:
		if !cl.alive[i] {
			cl.start(i)
		}
	case 2:
		if g := cl.gateways[i]; g != nil {
			g.Initiate(c.key, c.bind.Local())
		}
	case 3:
		if g := cl.gateways[i]; g != nil {
			g.Drop(c.key)
			g.Refresh()
		}
	case 4:
		local := c.bind.Local()
		c.bind.Move(netip.AddrPortFrom(local.Addr().Next(), local.Port()+1))
	case 5:
		cl.w.net.SetFaults(vpntest.Faults{Loss: 0.2, Duplicate: 0.1, Reorder: 0.3, Latency: time.Millisecond, Jitter: 500 * time.Millisecond})
	case 6:
		cl.w.net.SetFaults(vpntest.Faults{Latency: time.Millisecond})
	}
}
