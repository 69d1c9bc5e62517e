package node_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"gatemesh/node/labtest"
)

// crowd is many stock devices of this process, each with its pinger.
type crowd struct {
	lab     *labtest.Lab
	target  netip.Addr // of the pings
	devices []*labtest.Device
	pingers []*labtest.Pinger
}

// newCrowd makes n devices with configurations that the gateway printed, down.
func newCrowd(lab *labtest.Lab, g *labtest.Gateway, n int) *crowd {
	c := &crowd{lab: lab, target: inner}
	for i := range n {
		name := fmt.Sprintf("device%d", i+1)
		c.devices = append(c.devices, lab.Device(name, g.AddDevice(name)))
	}
	return c
}

// up starts all devices within spread and their pings, out of step with each
// other, and waits until each has an answer.
func (c *crowd) up(t *testing.T, spread, interval time.Duration) {
	t.Helper()
	c.pingers = make([]*labtest.Pinger, len(c.devices))
	for i, d := range c.devices {
		if err := d.Up(); err != nil {
			t.Fatal(err)
		}
		c.lab.Observe(spread/time.Duration(len(c.devices)) + rand.N(2*time.Millisecond))
		c.pingers[i] = d.Ping(c.target, interval)
	}
	c.waitAnswers(time.Now())
}

// waitAnswers waits until every device has an answer to what it asked after t.
func (c *crowd) waitAnswers(t time.Time) {
	for i, p := range c.pingers {
		c.lab.Eventually(recoverLimit, c.devices[i].Name+" has an answer", func() bool { return p.Answered(t) > 0 })
	}
}

// logs returns what the pingers have seen so far.
func (c *crowd) logs() []labtest.PingLog {
	logs := make([]labtest.PingLog, len(c.pingers))
	for i, p := range c.pingers {
		logs[i] = p.Log()
	}
	return logs
}

// stop ends the pings and returns what each saw.
func (c *crowd) stop() []labtest.PingLog {
	logs := make([]labtest.PingLog, len(c.pingers))
	var wg sync.WaitGroup
	for i, p := range c.pingers {
		wg.Go(func() { logs[i] = p.Stop() })
	}
	wg.Wait()
	return logs
}

// owners returns, for each device, the gateway that it sends to, and how many
// each gateway has. An endpoint that is no gateway's fails the test.
func (c *crowd) owners(t *testing.T, gws []*labtest.Gateway) (owner, counts []int) {
	t.Helper()
	owner, counts = make([]int, len(c.devices)), make([]int, len(gws))
	for i, d := range c.devices {
		endpoint := d.Endpoint()
		if owner[i] = gatewayAt(gws, endpoint); owner[i] < 0 {
			t.Fatalf("%s sends to %v, which is no gateway", d.Name, endpoint)
		}
		counts[owner[i]]++
	}
	return owner, counts
}

// gatewayAt returns the index of the gateway at an address, or -1.
func gatewayAt(gws []*labtest.Gateway, at netip.AddrPort) int {
	return slices.IndexFunc(gws, func(g *labtest.Gateway) bool { return g.Public() == at })
}

// wire is a capture at each gateway.
type wire []*labtest.Capture

func captureAll(gws []*labtest.Gateway) (w wire) {
	for _, g := range gws {
		w = append(w, g.Capture(labtest.WireGuardPort))
	}
	return w
}

// handshakes counts the initiations and responses that passed the gateways, all
// but one.
func (w wire) handshakes(but int) (n int) {
	for i, c := range w {
		if i != but {
			total := c.Total()
			n += total[labtest.Initiation] + total[labtest.Response]
		}
	}
	return n
}

func (w wire) missed() (n uint32) {
	for _, c := range w {
		n += c.Missed()
	}
	return n
}
