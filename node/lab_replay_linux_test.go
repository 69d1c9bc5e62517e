package node_test

import (
	"net/netip"
	"testing"
	"time"

	"gatemesh/node/labtest"
)

// TestLabReplay records what stock devices send, at every gateway, and sends it
// all again from another address to every gateway: before and after a takeover,
// and once more. Nothing is answered, no session moves, and no gateway lets a
// packet through twice.
func TestLabReplay(t *testing.T) {
	patient(t)
	lab := newLab(t)
	gws := threeGateways(t, lab)
	host := lab.Host("host")
	c := newCrowd(lab, gws[0], size(9, 60))
	r := &replay{lab: lab, gws: gws, attacker: lab.Attacker("attacker", 40)}
	for _, g := range gws {
		r.initiations = append(r.initiations, g.RecordMessages(labtest.WireGuardPort, labtest.Initiation))
		r.data = append(r.data, g.RecordMessages(labtest.WireGuardPort, labtest.Data))
	}
	echoes := host.RecordEchoes()
	c.target = host.LAN
	c.up(t, size(time.Second, 3*time.Second), pingEvery)
	lab.Observe(size(2*time.Second, 5*time.Second))

	var table labtest.Table
	table.Row("when", "initiations sent again", "data sent again", "answered", "cookies", "initiations to the attacker", "data diverted", "sessions moved", "packets let through twice")
	var sum replayed
	play := func(when string) {
		got := r.play(t, c, when)
		got.twice = twice(echoes)
		table.Row(when, got.initiations, got.data, got.answers, got.cookies, got.asked, got.diverted, got.moved, got.twice)
		sum.answers += got.answers
		sum.diverted += got.diverted
		sum.moved += got.moved
		sum.twice = got.twice
	}
	play("before")
	owner, counts := c.owners(t, gws)
	victim := largest(counts)
	at := gws[victim].Kill()
	r.dead = gws[victim]
	for i, p := range c.pingers {
		if owner[i] == victim {
			lab.Eventually(recoverLimit, c.devices[i].Name+" is taken over", func() bool { return p.Answered(at) > 0 })
		}
	}
	play("just taken over")
	lab.Observe(size(3*time.Second, 10*time.Second)) // keys are renewed
	play("later")
	gws[victim].Start()
	gws[victim].WaitReady()
	waitOneCluster(lab, gws)
	r.dead = nil
	play("when it is back")

	c.waitAnswers(time.Now())
	c.stop()
	t.Log(&table)
	lab.Bar(sum.answers == 0, "0 replayed initiations are answered: %d", sum.answers)
	lab.Bar(sum.diverted == 0 && sum.moved == 0, "0 packets are diverted: %d, %d sessions moved", sum.diverted, sum.moved)
	lab.Bar(sum.twice == 0, "0 packets let through twice by one gateway: %d", sum.twice)
}

// replay is somebody on the wire with a socket elsewhere.
type replay struct {
	lab               *labtest.Lab
	gws               []*labtest.Gateway
	dead              *labtest.Gateway // nil: none
	attacker          *labtest.Attacker
	initiations, data []*labtest.Recording
}

// replayed is what came of it.
type replayed struct {
	initiations, data int // sent again
	answers, cookies  int
	asked             int // initiations: a new address of a session that was taken over is tried by the next handshake
	diverted, moved   int
	twice             int
}

// play sends all that was recorded so far to every gateway that lives.
func (r *replay) play(t *testing.T, c *crowd, when string) (got replayed) {
	t.Helper()
	before := r.attacker.Received()
	initiations, data := r.payloads(r.initiations), r.payloads(r.data)
	got.initiations, got.data = len(initiations), len(data)
	if got.initiations < len(c.devices) || got.data < len(c.devices) {
		t.Errorf("%s: only %d initiations and %d data messages recorded", when, got.initiations, got.data)
	}
	for _, g := range r.gws {
		if g == r.dead {
			continue
		}
		r.attacker.Send(g.Public(), initiations)
		r.attacker.Send(g.Public(), data)
	}
	r.lab.Observe(time.Second)
	after := r.attacker.Received()
	got.answers = after[labtest.Response] - before[labtest.Response]
	got.asked = after[labtest.Initiation] - before[labtest.Initiation]
	got.cookies = after[labtest.Cookie] - before[labtest.Cookie]
	got.diverted = after[labtest.Data] - before[labtest.Data]
	for _, g := range r.gws {
		if g == r.dead {
			continue
		}
		for _, d := range g.Devices() {
			if at, err := netip.ParseAddrPort(d.Endpoint); err == nil && at.Addr() == r.attacker.Addr {
				got.moved++
			}
		}
	}
	return got
}

// payloads returns what the devices' packets in the recordings carry.
func (r *replay) payloads(recordings []*labtest.Recording) (all [][]byte) {
	for _, rec := range recordings {
		for _, p := range rec.Packets() {
			if netip.AddrFrom4([4]byte(p[12:])) != r.attacker.Addr {
				all = append(all, labtest.Payload(p))
			}
		}
	}
	return all
}

// twice counts echo requests that a gateway, which masquerades, let through
// more than once.
func twice(r *labtest.Recording) (n int) {
	type passage struct {
		gateway  netip.Addr
		question [8]byte
	}
	seen := make(map[passage]bool)
	for _, p := range r.Packets() {
		gateway, question, _ := labtest.Echo(p)
		if seen[passage{gateway, question}] {
			n++
		}
		seen[passage{gateway, question}] = true
	}
	return n
}
