package node_test

import (
	"net/netip"
	"testing"
	"time"

	"gatemesh/node/labtest"
)

// TestLabCutOwner cuts the gateway of the most devices off from the other
// gateways, but not from its devices nor from the LAN, from where packets for
// them keep coming. The others take its devices, and a device that another
// gateway has hears nothing more from the old one.
func TestLabCutOwner(t *testing.T) {
	patient(t)
	r := newRivals(t, size(9, 100))
	r.run(t, "cut off", size(6*time.Second, 40*time.Second),
		func(g *labtest.Gateway) { g.Silence(meshPort) },
		func(g *labtest.Gateway) { g.Silence() })
}

// TestLabFreezeOwner stops that gateway instead. What has queued up for its
// devices meanwhile must reach none of them when it goes on.
func TestLabFreezeOwner(t *testing.T) {
	patient(t)
	r := newRivals(t, size(9, 200))
	r.run(t, "frozen", size(4*time.Second, 20*time.Second),
		func(g *labtest.Gateway) { g.Freeze() },
		func(g *labtest.Gateway) { g.Thaw() })
}

// meshPort is where gateways listen for each other.
const meshPort = 7946

// rivals are gateways of which one will be doubted.
type rivals struct {
	lab  *labtest.Lab
	gws  []*labtest.Gateway
	host *labtest.Host
	*crowd
}

func newRivals(t *testing.T, n int) *rivals {
	lab := newLab(t)
	r := &rivals{lab: lab, gws: threeGateways(t, lab), host: lab.Host("host")}
	r.crowd = newCrowd(lab, r.gws[0], n)
	r.up(t, size(time.Second, 4*time.Second), pingEvery)
	// A client whose first response comes at once shakes hands once more 5 s later.
	// One that does so with a gateway that is cut off, and not missed yet, stays there.
	lab.Observe(size(2*time.Second, 6*time.Second))
	return r
}

// run takes a gateway away and gives it back.
func (r *rivals) run(t *testing.T, what string, away time.Duration, take, give func(*labtest.Gateway)) {
	owner, counts := r.owners(t, r.gws)
	victim := largest(counts)
	old := r.gws[victim]
	w := captureAll(r.gws)
	var mine []*labtest.Device
	var targets []netip.Addr
	for i, d := range r.devices {
		if owner[i] == victim {
			mine = append(mine, d)
			targets = append(targets, d.Inner())
		}
	}
	stop := r.host.Poke(old.LAN, targets, pingEvery)
	defer stop()
	r.lab.Observe(time.Second)
	if heard(mine, r.host.LAN) == 0 {
		t.Fatal("nothing from the LAN reaches a device")
	}

	handshakes, dropped := w.handshakes(-1), labtest.Dropped()
	taken := time.Now()
	take(old)
	moves := r.follow(mine, taken, away, old.Public())
	first := w.handshakes(-1) - handshakes
	after := heard(mine, r.host.LAN)
	given := time.Now()
	give(old)
	back := r.follow(mine, given, size(3*time.Second, 20*time.Second), netip.AddrPort{})
	stop()
	// What comes from the LAN by way of the old gateway may travel on to the new
	// one once they talk again. Only what a frozen one had is judged.
	late := heard(mine, r.host.LAN) - after
	waitOneCluster(r.lab, r.gws)
	r.waitAnswers(time.Now())
	rest := time.Now()
	r.agree(t)
	agreed := time.Since(rest)
	gaps, others, _ := r.gaps(taken, given, func(i int) bool { return owner[i] == victim })
	logs := r.stop()
	lost, lostAfter := 0, 0
	for _, log := range logs {
		lost += log.LostSince(taken)
		lostAfter += log.LostSince(given)
	}

	var table labtest.Table
	table.Row("gateway", "for", "its devices", "moved", "gap p50", "p99", "max", "max gap of the others", "accepted from the old one after the move",
		"pulled back", "handshake messages", "given back: accepted from it", "moves", "pings lost", "agreed after", "pings lost in all", "frames dropped by the machine")
	table.Row(what, given.Sub(taken), len(mine), moves.first, gaps.P(.5), gaps.P(.99), gaps.P(1), others.P(1), moves.accepted,
		moves.back, first, late, back.back, lostAfter, agreed, lost, labtest.Dropped()-dropped)
	t.Log(&table)
	r.lab.Bar(moves.first == len(mine), "another gateway takes every device of one %s: %d of %d", what, moves.first, len(mine))
	r.lab.Bar(moves.accepted == 0, "0 packets of a gateway %s accepted by devices that another has: %d", what, moves.accepted)
	r.lab.Bar(moves.back == 0, "0 devices pulled back to it: %d", moves.back)
	r.lab.Bar(gaps.P(.99) <= 1500*time.Millisecond, "gap of its devices, p99 ≤ 1.5 s: %v", gaps)
	r.lab.Bar(lostAfter == 0, "0 pings lost when it is given back: %d", lostAfter)
}

// heard counts packets out of the devices' tunnels that came from a host.
func heard(devices []*labtest.Device, from netip.Addr) (n int) {
	for _, d := range devices {
		n += d.Received(from)
	}
	return n
}

// moves is what devices were seen to do.
type moves struct {
	first    int // devices that left a gateway
	back     int // changes of the endpoint after a device's first
	accepted int // packets by way of the old gateway after a device had left it
}

// followGrace is what a packet of the old gateway may take on its way.
const followGrace = 50 * time.Millisecond

// follow watches where devices send to, every few milliseconds, and what comes
// in by way of the gateway that they left. Where none is named each change of an
// endpoint counts as one after the first.
func (r *rivals) follow(devices []*labtest.Device, from time.Time, d time.Duration, old netip.AddrPort) (m moves) {
	at := make([]netip.AddrPort, len(devices))
	left := make([]time.Time, len(devices))
	mark := make([]int, len(devices))
	for i, d := range devices {
		if at[i] = d.Endpoint(); !old.IsValid() {
			left[i] = from
		}
		mark[i] = -1
	}
	for time.Since(from) < d {
		r.lab.Observe(20 * time.Millisecond)
		for i, d := range devices {
			now := d.Endpoint()
			switch {
			case now == at[i]:
			case left[i].IsZero():
				left[i] = time.Now()
				m.first++
			default:
				m.back++
			}
			at[i] = now
			if mark[i] < 0 && !left[i].IsZero() && time.Since(left[i]) > followGrace {
				mark[i] = d.Received(r.host.LAN)
			}
		}
	}
	for i, d := range devices {
		if mark[i] >= 0 {
			m.accepted += d.Received(r.host.LAN) - mark[i]
		}
	}
	return m
}

// agree waits until every gateway lists each device where it sends to.
func (r *rivals) agree(t *testing.T) {
	t.Helper()
	for _, g := range r.gws {
		r.lab.Eventually(recoverLimit, g.Name+" lists the devices where they are", func() bool {
			at := make(map[string]string)
			for _, d := range g.Devices() {
				at[d.Name] = d.Gateway
			}
			for _, d := range r.devices {
				i := gatewayAt(r.gws, d.Endpoint())
				if i < 0 || at[d.Name] != r.gws[i].Name {
					return false
				}
			}
			return true
		})
	}
}
