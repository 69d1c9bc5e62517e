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
	to := func(target cluster.Node) func(int, *rand.Rand) (cluster.Node, bool) {
		return func(int, *rand.Rand) (cluster.Node, bool) { return target, target == self }
	}
	never := func(int, *rand.Rand) (cluster.Node, bool) {
		t.Helper()
		t.Error("placement was asked though something older decides")
		return self, true
	}
	owner := func(n cluster.Node, epoch uint64) cluster.Session {
		return cluster.Session{Device: device, Owner: n, Epoch: epoch}
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
	})
	t.Run("served here when the target is silent", func(t *testing.T) {
		s := newSteering(self, 1)
		s.decide(knock{device: device, now: t0, alive: everyone}, to(b))
		v := s.decide(knock{device: device, now: t0.Add(5 * time.Second), alive: everyone}, never)
		if v.sent {
			t.Fatalf("second knock was sent to %v though it had not answered", v.target)
		}
		if len(s.answering) != 1 {
			t.Fatalf("answering %v, want the device", s.answering)
		}
		v = s.decide(knock{device: device, now: t0.Add(10 * time.Second), alive: everyone}, never)
		if v.sent {
			t.Fatal("third knock was sent away again")
		}
	})
	t.Run("same target after it confirmed", func(t *testing.T) {
		s := newSteering(self, 1)
		s.decide(knock{device: device, now: t0, alive: everyone}, to(b))
		k := knock{device: device, now: t0.Add(60 * time.Second), alive: everyone, owned: true, owner: owner(b, 5)}
		if v := s.decide(k, never); v.target != b {
			t.Fatalf("went to %v", v.target)
		}
	})
	t.Run("an older confirmation is none", func(t *testing.T) {
		s := newSteering(self, 1)
		s.decide(knock{device: device, now: t0, alive: everyone, owned: true, owner: owner(b, 5)}, never)
		k := knock{device: device, now: t0.Add(5 * time.Second), alive: everyone, owned: true, owner: owner(b, 5)}
		if v := s.decide(k, never); v.sent {
			t.Fatal("sent again to a target that has not confirmed since")
		}
	})
	t.Run("to the owner", func(t *testing.T) {
		s := newSteering(self, 1)
		k := knock{device: device, now: t0, alive: everyone, owned: true, owner: owner(c, 1)}
		if v := s.decide(k, never); v.target != c || !v.sent {
			t.Fatalf("%+v, want c", v)
		}
		// Its decided target died, another has it since.
		s.decide(knock{device: cluster.Key{7}, now: t0, alive: everyone}, to(b))
		alive := func(n cluster.Node) bool { return n == c }
		k = knock{device: cluster.Key{7}, now: t0.Add(time.Minute), alive: alive, owned: true, owner: owner(c, 1)}
		if v := s.decide(k, never); v.target != c {
			t.Fatalf("%+v, want its living owner", v)
		}
		k = knock{device: cluster.Key{8}, now: t0, alive: nobody, owned: true, owner: owner(c, 1)}
		if v := s.decide(k, to(self)); v.sent {
			t.Fatal("sent to a dead owner")
		}
	})
	t.Run("an owner since beats the decision to answer here", func(t *testing.T) {
		s := newSteering(self, 1)
		s.decide(knock{device: device, now: t0, alive: everyone}, to(self))
		k := knock{device: device, now: t0.Add(30 * time.Second), alive: everyone, owned: true, owner: owner(b, 9)}
		if v := s.decide(k, never); v.target != b || !v.sent {
			t.Fatalf("%+v, want b, which took it over", v)
		}
	})
	t.Run("handed over", func(t *testing.T) {
		s := newSteering(self, 1)
		k := knock{device: device, now: t0, alive: everyone, owned: true, owner: owner(self, 1), heir: b}
		if v := s.decide(k, never); v.target != b || !v.sent {
			t.Fatalf("%+v, want its heir, whose claim has not come yet", v)
		}
		k.alive = nobody
		if v := s.decide(k, never); v.sent {
			t.Fatal("sent to a dead heir")
		}
	})
	t.Run("drained", func(t *testing.T) {
		s := newSteering(self, 1)
		s.decide(knock{device: device, now: t0, alive: everyone}, to(self))
		s.lose(device)
		if v := s.decide(knock{device: device, now: t0.Add(time.Minute), alive: everyone}, to(c)); v.target != c {
			t.Fatalf("%+v, want placement to decide", v)
		}
	})
	t.Run("ours stays", func(t *testing.T) {
		s := newSteering(self, 1)
		k := knock{device: device, now: t0, alive: everyone, owned: true, owner: owner(self, 1)}
		if v := s.decide(k, never); v.sent {
			t.Fatal("our own device was sent away")
		}
	})
	t.Run("lent to a standby", func(t *testing.T) {
		for _, standby := range []cluster.Node{self, c} {
			s := newSteering(self, 1)
			k := knock{device: device, now: t0, alive: everyone, owned: true, owner: owner(standby, 1), lent: true}
			if v := s.decide(k, to(b)); !v.sent || v.target != b {
				t.Errorf("%+v, want placement to find an active gateway", v)
			}
			k.now = t0.Add(5 * time.Second)
			if v := s.decide(k, never); v.sent {
				t.Errorf("%+v, want to answer it here: the active one is silent", v)
			}
		}
	})
	t.Run("forgets", func(t *testing.T) {
		s := newSteering(self, 1)
		s.decide(knock{device: device, now: t0, alive: everyone}, to(b))
		s.guest(cluster.Key{8}, c, t0)
		asked := false
		s.decide(knock{device: device, now: t0.Add(decisionLife + 2*time.Second), alive: everyone},
			func(answering int, _ *rand.Rand) (cluster.Node, bool) {
				asked = true
				if answering != 0 {
					t.Error("a device is being answered for ever")
				}
				return self, true
			})
		if !asked {
			t.Fatal("a decision sticks for ever")
		}
	})
}

// What others sent is counted when it is confirmed, once, and told to them.
func TestCounts(t *testing.T) {
	self, b := cluster.Node{1}, cluster.Node{2}
	t0 := time.Unix(5000, 0)
	s := newSteering(self, 1)
	s.guest(cluster.Key{1}, b, t0)
	s.guest(cluster.Key{2}, b, t0)
	s.here(cluster.Key{3}, 0, t0)
	for range 2 {
		s.confirmed(cluster.Key{1})
		s.confirmed(cluster.Key{3})
	}
	if got := (report{Counted: s.counts()}); got.counted(b) != 1 || len(got.Counted) != 1 {
		t.Fatalf("counted %+v, want one from b", got.Counted)
	}
	if len(s.answering) != 1 {
		t.Fatalf("answering %v, want the second guest", s.answering)
	}
	r, err := decodeReport(report{Sessions: 3, Counted: s.counts()}.encode())
	if err != nil || r.counted(b) != 1 || r.counted(self) != 0 {
		t.Fatalf("%+v, %v", r, err)
	}
}

func FuzzDecodeReport(f *testing.F) {
	f.Add(report{Sessions: 7, Capacity: 1024, Serving: true}.encode())
	f.Add([]byte{0xbf})
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := decodeReport(b)
		if err == nil && (r.Sessions < 0 || r.Capacity < 0 || len(r.Counted) > maxCounted) {
			t.Fatalf("%+v", r)
		}
	})
}
