package vpn_test

import (
	"encoding/hex"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"gatemesh/vpn"
	"gatemesh/vpn/vpntest"
)

var (
	oracleSeeds = flag.Int("vpn.oracle", 4, "how many seeds TestOracle runs")
	oracleSteps = flag.Int("vpn.steps", 40, "how many steps each of them has, of about three minutes")
)

// oracle is one gateway and stock devices over hours in which everything happens that may happen to either.
type oracle struct {
	*world
	random  *rand.Rand
	host    string
	g       *gateway
	ahead   atomic.Int64 // of the gateway's wall clock
	clients []*client
	configs []vpntest.ClientConfig
}

// TestOracle has stock devices judge the gateway. After whatever happened, each device gets through again within the
// time that the protocol allows, in both families and both directions, and from then on nothing is lost.
func TestOracle(t *testing.T) {
	seeds := *oracleSeeds
	if testing.Short() || raceEnabled {
		seeds = min(seeds, 2)
	}
	for seed := range uint64(seeds) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				o := &oracle{world: w, random: rand.New(rand.NewPCG(seed, 0)), host: "192.0.2.1"}
				outside := netip.MustParseAddr("203.0.113.0")
				if seed%2 == 1 { // IPv6 outside
					o.host, outside = "2001:db8::1", netip.MustParseAddr("2001:db8:1::")
				}
				o.boot()
				for i := range 3 {
					outside = outside.Next()
					o.connect(i, outside)
				}
				for step := range *oracleSteps {
					what := o.step()
					o.settle(t, fmt.Sprintf("step %d, %s", step, what))
				}
				if s := o.g.Stats(); s.Forged != 0 || s.BadPacket != 0 || s.BadSource != 0 || s.BadMAC != 0 || s.Malformed != 0 {
					t.Errorf("%+v", s)
				}
			})
		})
	}
}

// boot starts the gateway, which remembers the devices' timestamps as its cluster does.
func (o *oracle) boot() {
	o.g = o.gateway(o.host, func(cfg *vpn.Config) {
		cfg.Now = func() time.Time { return time.Now().Add(time.Duration(o.ahead.Load())) }
		cfg.Notify = func(e vpn.Event) {
			o.mu.Lock()
			defer o.mu.Unlock()
			d := o.devices[e.Device]
			d.Received, d.Sent = greater(d.Received, e.Received), greater(d.Sent, e.Sent)
			o.devices[e.Device] = d
		}
	})
}

func greater(a, b vpn.Timestamp) vpn.Timestamp {
	if string(a[:]) > string(b[:]) {
		return a
	}
	return b
}

// connect starts device number i. The middle one has no address of the gateway's: it waits to be called.
func (o *oracle) connect(i int, outside netip.Addr) {
	to := o.g.addr
	if i == 1 {
		to = netip.AddrPort{}
	}
	c := o.client(i+2, to, func(cfg *vpntest.ClientConfig, d *vpn.Device) {
		cfg.Bind, cfg.Keepalive = o.net.Bind(outside), []int{0, 25, 25}[i]
		o.configs = append(o.configs, *cfg)
	})
	c.bind = o.configs[i].Bind.(*vpntest.Bind)
	o.clients = append(o.clients, c)
	o.g.Initiate(c.key, c.bind.Local())
	time.Sleep(10 * time.Millisecond)
}

// step is something that happens, and its name.
func (o *oracle) step() string {
	i := o.random.IntN(len(o.clients))
	c := o.clients[i]
	long := time.Duration(o.random.IntN(600)) * time.Second
	switch o.random.IntN(11) {
	case 0:
		time.Sleep(long)
		return "idle"
	case 1:
		c.pings(150)
		return "traffic from the device"
	case 2:
		for range 150 {
			o.g.tun.Inject(vpntest.Packet(inner4, c.ip4, 17, make([]byte, 20)))
			time.Sleep(time.Second)
		}
		return "traffic from the network"
	case 3:
		local := c.bind.Local()
		c.bind.Move(netip.AddrPortFrom(local.Addr(), local.Port()+1))
		return "the device roams"
	case 4:
		o.net.SetFaults(vpntest.Faults{Loss: 0.3, Duplicate: 0.2, Reorder: 0.3, Latency: 10 * time.Millisecond, Jitter: 400 * time.Millisecond})
		c.pings(100)
		o.net.SetFaults(vpntest.Faults{Latency: time.Millisecond})
		return "bad network"
	case 5:
		o.ahead.Store(int64(o.random.IntN(7200)-3600) * int64(time.Second))
		return "the gateway's clock is set"
	case 6:
		c.Close()
		time.Sleep(long / 10)
		cfg := o.configs[i]
		local := c.bind.Local() // one that nobody can tell of another address must keep its own
		c.bind = o.net.Bind(local.Addr())
		cfg.Bind, cfg.Port = c.bind, local.Port()
		c.Client = vpntest.NewClient(o.t, cfg)
		return "the device restarts"
	case 7:
		o.g.kill()
		time.Sleep(long / 10)
		o.boot()
		return "the gateway restarts"
	case 8:
		o.rekeyPSK(i)
		return "another preshared key"
	case 9:
		o.g.Initiate(c.key, c.bind.Local())
		o.g.Initiate(c.key, c.bind.Local())
		return "a takeover"
	}
	o.g.Slept(long) // and the device did not: its keys are older here than there
	time.Sleep(vpn.RejectAfterTime + 20*time.Second)
	return "the gateway slept"
}

// rekeyPSK gives the store and the device another preshared key, one after the other.
func (o *oracle) rekeyPSK(i int) {
	c, cfg := o.clients[i], &o.configs[i]
	cfg.PresharedKey, _ = vpntest.NewKey()
	o.mu.Lock()
	d := o.devices[c.key]
	d.PresharedKey = cfg.PresharedKey
	o.devices[c.key] = d
	o.mu.Unlock()
	o.g.Refresh(c.key)
	time.Sleep(time.Second)
	text := "public_key=" + hex.EncodeToString(o.public[:]) + "\nupdate_only=true\npreshared_key=" + hex.EncodeToString(cfg.PresharedKey[:]) + "\n"
	if err := c.Device.IpcSet(text); err != nil {
		o.t.Fatal(err)
	}
}

// settle fails the test unless every device gets through again. A device that talks into the void begins a handshake
// after 15 s, which may be an attempt too early for the gateway or cross another: two attempts of RekeyTimeout follow.
func (o *oracle) settle(t *testing.T, after string) {
	t.Helper()
	for i, c := range o.clients {
		if _, known := o.g.session(c.key); i == 1 && !known {
			o.g.Initiate(c.key, c.bind.Local()) // as its cluster would
		} else if i == 1 { // it may know nobody: somebody asks for it
			o.g.tun.Inject(vpntest.Packet(inner4, c.ip4, 17, make([]byte, 20)))
		}
		begin := time.Now()
		for !c.Ping(inner4, time.Second) {
			if since := time.Since(begin); since > 28*time.Second {
				t.Fatalf("%s: device %d does not get through for %v: %+v", after, i, since, o.g.Stats())
			}
		}
		c.ping(t)
		if !o.g.reach(c, time.Second) {
			t.Fatalf("%s: device %d is not reached", after, i)
		}
	}
	for i, c := range o.clients {
		if lost := c.pings(5); lost != 0 {
			t.Fatalf("%s: device %d lost %d pings afterwards", after, i, lost)
		}
	}
}

// The clock of a device was set back: what it sends is refused as replayed until the clock is where it was, as every
// WireGuard does; but the gateway can call it.
func TestDeviceWhoseClockWentBack(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		g := w.gateway("192.0.2.1")
		c := w.client(1, g.addr, func(_ *vpntest.ClientConfig, d *vpn.Device) {
			future := time.Now().Add(time.Hour).Unix()
			d.Received = vpn.Timestamp{0x40, 0, 0, 0, byte(future >> 24), byte(future >> 16), byte(future >> 8), byte(future)}
		})
		if c.Ping(inner4, 30*time.Second) || g.Stats().StaleTimestamp == 0 {
			t.Errorf("answered: %+v", g.Stats())
		}
		g.takeover(c)
		c.ping(t)
		if lost := c.pings(3 * 60); lost > 0 {
			t.Errorf("%d pings lost", lost)
		}
		time.Sleep(time.Hour)
		if !c.Ping(inner4, 30*time.Second) {
			t.Error("not answered when the clock is where it was")
		}
	})
}
