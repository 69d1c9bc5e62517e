package node

import (
	"net/netip"
	"testing"
	"time"

	"gatemesh/cluster"
	"gatemesh/mesh"
	"gatemesh/vpn"
)

func TestRecord(t *testing.T) {
	self, other := cluster.Node{1}, cluster.Node{2}
	at := time.UnixMilli(1_000_000)
	addr := netip.MustParseAddrPort("192.0.2.9:4000")
	ts := vpn.Timestamp{1}
	event := func(k vpn.EventKind) vpn.Event {
		return vpn.Event{Kind: k, Device: cluster.Key{7}, Endpoint: addr, Received: ts, At: at}
	}
	own := cluster.Session{Device: cluster.Key{7}, Owner: self, Endpoint: netip.MustParseAddrPort("192.0.2.8:1"), Since: at.Add(-time.Hour), Handshake: at.Add(-time.Minute)}
	theirs := cluster.Session{Device: cluster.Key{7}, Owner: other}

	// A knock is no claim: another gateway's device stays another's.
	for _, k := range []vpn.EventKind{vpn.Answered, vpn.Sent} {
		if s, ok := record(self, cluster.Session{}, theirs, true, event(k)); !ok || !s.Released || s.Received != ts || s.Handshake.IsZero() {
			t.Errorf("%v of another's device: %+v, %v", k, s, ok)
		}
		if s, _ := record(self, cluster.Session{}, cluster.Session{}, false, event(k)); !s.Released {
			t.Errorf("%v of nobody's device is a claim: %+v", k, s)
		}
		if s, _ := record(self, own, own, true, event(k)); s.Released || s.Endpoint != own.Endpoint {
			t.Errorf("%v of our own device: %+v", k, s)
		}
	}
	if s, _ := record(self, own, theirs, true, event(vpn.Confirmed)); s.Released || s.Endpoint != addr || s.Since != at || s.Handshake != at {
		t.Errorf("a device that came back: %+v", s)
	}
	if s, _ := record(self, own, own, true, event(vpn.Confirmed)); s.Since != own.Since || s.Handshake != at {
		t.Errorf("a rekey: %+v", s)
	}
	if s, ok := record(self, own, own, true, event(vpn.Roamed)); !ok || s.Endpoint != addr || s.Handshake != own.Handshake {
		t.Errorf("roamed: %+v", s)
	}
	if _, ok := record(self, own, theirs, true, event(vpn.Roamed)); ok {
		t.Error("another's device roamed here")
	}
	if s, _ := record(self, own, own, true, event(vpn.Gone)); !s.Released {
		t.Errorf("gone: %+v", s)
	}
}

func TestInherit(t *testing.T) {
	self, b, dead := cluster.Node{1}, cluster.Node{2}, cluster.Node{3}
	alive := []cluster.Weighted{{Node: self, Capacity: 100}, {Node: b, Capacity: 100}}
	now := time.Unix(100, 0)
	var sessions []cluster.Session
	for i := range 200 {
		sessions = append(sessions, cluster.Session{Device: cluster.Key{byte(i), 1}, Owner: dead})
	}
	at := func(me cluster.Node) map[cluster.Key]time.Time {
		out := map[cluster.Key]time.Time{}
		for _, d := range inherit(me, dead, sessions, alive, now) {
			out[d.session.Device] = d.at
		}
		return out
	}
	mine, theirs := at(self), at(b)
	first := 0
	for _, s := range sessions {
		m, ok1 := mine[s.Device]
		o, ok2 := theirs[s.Device]
		if !ok1 || !ok2 || m.Equal(o) || m.Add(o.Sub(now)) != now.Add(rankDelay) {
			t.Fatalf("device %x: %v here and %v there, want one at once and one after %v", s.Device[:2], m, o, rankDelay)
		}
		if m.Equal(now) {
			first++
		}
	}
	if first < 60 || first > 140 {
		t.Errorf("%d of 200 devices fall to the first of two equal heirs", first)
	}
}

func TestDoubt(t *testing.T) {
	p, id := newPeers(cluster.Node{1}), mesh.ID{2}
	for _, step := range []struct {
		kind mesh.EventKind
		want bool
	}{
		{mesh.Up, false},
		{mesh.Synced, false},
		{mesh.Down, true},
		{mesh.Up, true}, // it has not told yet what it did
		{mesh.Synced, false},
		{mesh.Down, true},
		{mesh.Left, false},
	} {
		p.on(mesh.Event{Kind: step.kind, Member: mesh.Member{ID: id}}, time.Now())
		if got := p.doubt(); got != step.want {
			t.Errorf("in doubt after %v: %v", step.kind, got)
		}
	}
}
