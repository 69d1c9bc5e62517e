package node

import (
	"math/rand/v2"
	"testing"
	"time"

	"gatemesh/cluster"
)

func TestSteering(t *testing.T) {
	self, b, c := cluster.Node{1}, cluster.Node{2}, cluster.Node{3}
	device := cluster.Key{9}
	t0 := time.Unix(5000, 0)
	everyone := func(cluster.Node) bool { return true }
	nobody := func(cluster.Node) bool { return false }
	to := func(target cluster.Node) func(func(cluster.Node) int, *rand.Rand) (cluster.Node, bool) {
		return func(func(cluster.Node) int, *rand.Rand) (cluster.Node, bool) { return target, target == self }
	}
	never := func(func(cluster.Node) int, *rand.Rand) (cluster.Node, bool) {
		t.Helper()
		t.Error("placement was asked though something older decides")
		return self, true
	}
	owner := func(n cluster.Node, at time.Time) cluster.Session {
		return cluster.Session{Device: device, Owner: n, Handshake: at}
	}

	t.Run("sticks", func(t *testing.T) {
		s := newSteering(self, 1)
		first := knock{device: device, now: t0, alive: everyone}
		if v := s.decide(first, to(b)); !v.sent || v.target != b {
			t.Fatalf("first knock: %+v", v)
		}
		// The same datagram once more is no second knock.
		twice := knock{device: device, now: t0.Add(10 * time.Millisecond), alive: everyone}
		if v := s.decide(twice, never); !v.sent || v.target != b {
			t.Fatalf("a duplicate went elsewhere: %+v", v)
		}
		if got := len(s.pending[b]); got != 1 {
			t.Fatalf("%d devices under way to b, want 1", got)
		}
		if !s.arrived(b, device) || s.arrived(b, device) {
			t.Fatal("an arrival is counted once")
		}
	})
	t.Run("served here when the target is silent", func(t *testing.T) {
		s := newSteering(self, 1)
		s.decide(knock{device: device, now: t0, alive: everyone}, to(b))
		v := s.decide(knock{device: device, now: t0.Add(5 * time.Second), alive: everyone}, never)
		if v.sent {
			t.Fatalf("second knock was sent to %v though it had not answered", v.target)
		}
		if len(s.pending[b]) != 0 || len(s.pending[self]) != 1 {
			t.Fatalf("under way: %v, want the device to us alone", s.pending)
		}
		v = s.decide(knock{device: device, now: t0.Add(10 * time.Second), alive: everyone}, never)
		if v.sent {
			t.Fatal("third knock was sent away again")
		}
	})
	t.Run("same target after it confirmed", func(t *testing.T) {
		s := newSteering(self, 1)
		s.decide(knock{device: device, now: t0, alive: everyone}, to(b))
		k := knock{device: device, now: t0.Add(60 * time.Second), alive: everyone, owned: true, owner: owner(b, t0.Add(time.Second))}
		if v := s.decide(k, never); v.target != b {
			t.Fatalf("went to %v", v.target)
		}
	})
	t.Run("an older confirmation is none", func(t *testing.T) {
		s := newSteering(self, 1)
		s.decide(knock{device: device, now: t0, alive: everyone}, to(b))
		k := knock{device: device, now: t0.Add(5 * time.Second), alive: everyone, owned: true, owner: owner(b, t0.Add(-time.Minute))}
		if v := s.decide(k, never); v.sent {
			t.Fatal("sent again to a target that has not confirmed since")
		}
	})
	t.Run("to the owner", func(t *testing.T) {
		s := newSteering(self, 1)
		k := knock{device: device, now: t0, alive: everyone, owned: true, owner: owner(c, t0)}
		if v := s.decide(k, never); v.target != c || !v.sent {
			t.Fatalf("%+v, want c", v)
		}
		k = knock{device: cluster.Key{8}, now: t0, alive: nobody, owned: true, owner: owner(c, t0)}
		if v := s.decide(k, to(self)); v.sent {
			t.Fatal("sent to a dead owner")
		}
	})
	t.Run("ours stays", func(t *testing.T) {
		s := newSteering(self, 1)
		k := knock{device: device, now: t0, alive: everyone, owned: true, owner: owner(self, t0)}
		if v := s.decide(k, never); v.sent {
			t.Fatal("our own device was sent away")
		}
	})
	t.Run("forgets", func(t *testing.T) {
		s := newSteering(self, 1)
		s.decide(knock{device: device, now: t0, alive: everyone}, to(b))
		asked := false
		s.decide(knock{device: device, now: t0.Add(decisionLife + 2*time.Second), alive: everyone},
			func(pending func(cluster.Node) int, _ *rand.Rand) (cluster.Node, bool) {
				asked = true
				if pending(b) != 0 {
					t.Error("a device is under way for ever")
				}
				return self, true
			})
		if !asked {
			t.Fatal("a decision sticks for ever")
		}
	})
}

func TestGrowth(t *testing.T) {
	t0 := time.Unix(0, 0)
	var p peerLoad
	p = p.next(report{Sessions: 100}, 0, t0)
	if p.growth != 0 {
		t.Fatal("growth out of nothing")
	}
	for i := 1; i <= 20; i++ { // 10 a second from others, 5 a second from us
		p = p.next(report{Sessions: 100 + 3*i}, 1, t0.Add(time.Duration(i)*200*time.Millisecond))
	}
	if p.growth < 9 || p.growth > 11 {
		t.Fatalf("growth %.1f/s, want 10", p.growth)
	}
}

func FuzzDecodeReport(f *testing.F) {
	f.Add(report{Sessions: 7, Capacity: 1024, Serving: true}.encode())
	f.Add([]byte{0xbf})
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := decodeReport(b)
		if err == nil && (r.Sessions < 0 || r.Capacity < 0) {
			t.Fatalf("%+v", r)
		}
	})
}
