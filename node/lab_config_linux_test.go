package node_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"gatemesh/node/labtest"
)

// spreadAfter is when a change made at one gateway must hold at all.
const spreadAfter = 300 * time.Millisecond

// TestLabConfigSpread adds devices at gateway 2, disables and removes them
// there, and tries each time at gateways 1 and 3 whether they know.
func TestLabConfigSpread(t *testing.T) {
	patient(t)
	lab := newLab(t)
	gws := threeGateways(t, lab)
	probes := []*probe{
		{lab: lab, at: gws[0], Client: lab.Client("probe1", gws[1].AddDevice("probe1").Quiet())},
		{lab: lab, at: gws[2], Client: lab.Client("probe3", gws[1].AddDevice("probe3").Quiet())},
	}
	for _, p := range probes {
		p.Up()
	}
	trials := size(10, 100)
	for trial := range trials {
		// Both probes at once: each device is tried at one gateway only.
		for i, p := range probes {
			p.enrol(gws[1], fmt.Sprintf("trial%d-%d", trial, i))
		}
		each(probes, (*probe).tryAdded)
		for _, p := range probes {
			p.revoke(gws[1], trial%2 == 0)
		}
		each(probes, (*probe).tryRevoked)
		for _, p := range probes {
			if p.err != nil {
				t.Fatal(p.err)
			}
		}
	}
	var table labtest.Table
	table.Row("at", "trials", "answered when added", "first ping p50", "max", "session ended when revoked", "refused when revoked")
	for _, p := range probes {
		table.Row(p.at.Name, trials, p.answered, p.first.P(.5), p.first.P(1), p.ended, p.refused)
		if p.answered == 0 || p.refused == 0 {
			t.Errorf("%s: %d answered, %d refused", p.at.Name, p.answered, p.refused)
		}
		lab.Bar(p.answered == trials, "%s answers a device %v after it was added: %d of %d", p.at.Name, spreadAfter, p.answered, trials)
		lab.Bar(p.refused == trials, "%s refuses a device %v after it was revoked: %d of %d", p.at.Name, spreadAfter, p.refused, trials)
	}
	t.Log(&table)
	want := enrolled(gws[1])
	for _, p := range probes {
		lab.Eventually(recoverLimit, p.at.Name+" has the same devices", func() bool { return cmp.Equal(want, enrolled(p.at)) })
	}
}

// A probe is a client that is one device after the other and knocks at one
// gateway.
type probe struct {
	*labtest.Client
	lab *labtest.Lab
	at  *labtest.Gateway

	device  string
	conf    labtest.Config
	changed time.Time // when the last change was acknowledged
	err     error     // of the program, not of what is tried

	answered, ended, refused int
	first                    labtest.Durations
}

// each calls fn for all probes at once.
func each(probes []*probe, fn func(*probe)) {
	done := make(chan struct{})
	for _, p := range probes {
		go func() {
			defer func() { done <- struct{}{} }()
			fn(p)
		}()
	}
	for range probes {
		<-done
	}
}

// enrol makes the probe a new device.
func (p *probe) enrol(g *labtest.Gateway, name string) {
	p.device = name
	p.conf = g.AddDevice(name).Quiet().Toward(p.at.Public())
	p.changed = time.Now()
	p.Configure(p.conf)
}

// revoke disables or removes the device.
func (p *probe) revoke(g *labtest.Gateway, disable bool) {
	command := "remove"
	if disable {
		command = "disable"
	}
	g.CLI("device", command, p.device)
	p.changed = time.Now()
}

// tryAdded begins a handshake when the device must be known.
func (p *probe) tryAdded() {
	p.lab.Observe(time.Until(p.changed.Add(spreadAfter)))
	rtt, err := p.PingOnce(inner, time.Second)
	if err == nil {
		p.answered++
		p.first = append(p.first, rtt)
	}
}

// tryRevoked goes on with the old session and begins a new one when the device
// must be refused.
func (p *probe) tryRevoked() {
	p.lab.Observe(time.Until(p.changed.Add(spreadAfter)))
	if _, err := p.PingOnce(inner, 200*time.Millisecond); err != nil {
		p.ended++
	}
	p.err = p.TryConfigure(p.conf)
	_, pingErr := p.PingOnce(inner, 500*time.Millisecond)
	peers, err := p.TryPeers()
	p.err = errors.Join(p.err, err)
	if pingErr != nil && len(peers) == 1 && peers[0].LastHandshake.IsZero() {
		p.refused++
	}
}
