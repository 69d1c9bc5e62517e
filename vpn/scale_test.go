package vpn

import (
	"crypto/rand"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"gatemesh/vpn/vpntest"
)

const (
	enrolledDevices  = 100000
	connectedDevices = 20000
)

// crowd is a gateway that knows many devices, of which some connect. Their keys are no points that anybody has a
// secret of; nothing here needs one.
type crowd struct {
	*Gateway
	t       *testing.T
	devices []Device
}

func newCrowd(t *testing.T) *crowd {
	devices := make([]Device, enrolledDevices)
	index := make(map[Key]int, enrolledDevices)
	for i := range devices {
		d := &devices[i]
		rand.Read(d.Key[:])
		d.Addresses = []netip.Prefix{
			netip.PrefixFrom(netip.AddrFrom4([4]byte{100, 64 | byte(i>>16), byte(i >> 8), byte(i)}), 32),
			netip.PrefixFrom(netip.AddrFrom16([16]byte(d.Key[:16])), 128),
		}
		index[d.Key] = i
	}
	g, err := New(Config{
		PrivateKey: devices[0].Key,
		Bind:       vpntest.NewInternet(1).Bind(netip.MustParseAddr("192.0.2.1")),
		TUN:        vpntest.NewTUN(0),
		Lookup: func(k Key) (Device, bool) {
			i, ok := index[k]
			return devices[i], ok
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.Close() })
	g.Allow(time.Now().Add(100 * time.Hour))
	return &crowd{g, t, devices}
}

// shake gives every connected device new keys, as its initiation and first packet do.
func (c *crowd) shake() {
	for i, d := range c.devices[:connectedDevices] {
		p := c.peer(d.Key)
		if p == nil {
			var err error
			if p, err = c.newPeer(d); err != nil {
				c.t.Fatal(err)
			}
			p = c.adopt(p)
		}
		local, err := c.indices.reserve()
		if err != nil {
			c.t.Fatal(err)
		}
		k := keys{local: local, remote: uint32(i)}
		rand.Read(k.send[:])
		rand.Read(k.receive[:])
		kp := newKeypair(p, &k, c.now(), false)
		from := newEndpoint(&vpntest.Endpoint{AddrPort: netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, 0, byte(i >> 8), byte(i)}), 9)})
		if err := c.offer(p, p.received, kp, make([]byte, responseSize), from); err != nil {
			c.t.Fatal(err)
		}
		c.confirm(kp, from)
	}
	c.outbox.take() // as its reader does
}

// sweepAll does what is due now, and returns how many devices it looked at and how long that took.
func (c *crowd) sweepAll() (n int, took time.Duration) {
	begin := time.Now()
	for {
		p, _ := c.schedule.pop(c.now())
		if p == nil {
			break
		}
		c.tick(p, c.now())
		n++
	}
	c.outbox.take()
	return n, time.Since(begin)
}

func heapInUse() int {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}

// TestScale holds what many devices cost: an enrolled one nothing, a connected idle one bounded memory and no
// goroutine, one that is gone next to nothing. Times are told, not judged.
func TestScale(t *testing.T) {
	if testing.Short() {
		t.Skip("20,000 devices")
	}
	c := newCrowd(t)
	empty, goroutines := heapInUse(), runtime.NumGoroutine()
	each := func() int { return (heapInUse() - empty) / connectedDevices }
	bar := func(what string, got, most int) {
		t.Helper()
		t.Logf("%s: %d bytes for each of %d devices, bar %d", what, got, connectedDevices, most)
		if got > most {
			t.Errorf("%s: %d bytes for each device, more than %d", what, got, most)
		}
	}
	c.shake()
	bar("connected and idle", each(), 2000)
	if n := runtime.NumGoroutine() - goroutines; n != 0 {
		t.Errorf("%d goroutines", n)
	}
	begin := time.Now()
	if n := len(c.Sessions()); n != connectedDevices || c.Count() != connectedDevices {
		t.Errorf("%d sessions, %d confirmed", n, c.Count())
	}
	t.Logf("Sessions took %v", time.Since(begin))

	c.Slept(2 * time.Minute)
	c.shake()
	bar("after a rekey, with the previous keys", each(), 2700)
	c.Slept(61 * time.Second)
	n, took := c.sweepAll()
	t.Logf("sweep of %d deadlines took %v, %v each", n, took, took/connectedDevices)
	bar("without the previous keys", each(), 2100)
	if n != connectedDevices || c.Count() != connectedDevices {
		t.Errorf("%d deadlines, %d confirmed devices", n, c.Count())
	}

	c.Slept(RejectAfterTime)
	c.sweepAll()
	bar("keys expired, address known", each(), 1300)
	if c.Count() != 0 || len(c.Sessions()) != connectedDevices {
		t.Errorf("%d confirmed, %d sessions", c.Count(), len(c.Sessions()))
	}
	c.Slept(eraseAfter)
	n, took = c.sweepAll()
	t.Logf("end of %d devices took %v", n, took)
	bar("gone", each(), 200)
	if n := len(c.Sessions()); n != 0 {
		t.Errorf("%d sessions are left", n)
	}
	runtime.KeepAlive(c)
}
