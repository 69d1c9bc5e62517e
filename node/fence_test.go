package node

import (
	"testing"
	"time"
)

func TestFence(t *testing.T) {
	t0 := time.Unix(1000, 0)
	var f fence[string]
	now := 0 // milliseconds
	// after lets ms pass without a beat, then beats.
	after := func(ms int, alive ...string) bool {
		now += ms
		at := t0.Add(time.Duration(now) * time.Millisecond)
		until := f.beat(at, alive)
		if !until.IsZero() && until != at.Add(fenceLease) {
			t.Fatalf("the lease ends %v after the beat", until.Sub(at))
		}
		return !until.IsZero()
	}

	if !after(0, "b", "c") || !after(200, "b", "c") || !after(500, "b", "c") {
		t.Fatal("a gateway that beats in time is silent")
	}
	// Late by more than the lease: others may have taken its devices, and
	// what they say of it is read first.
	if after(600, "b", "c") {
		t.Fatal("it speaks at once after its lease ran out")
	}
	if !after(200, "b", "c") {
		t.Fatal("it is silent one beat later")
	}
	// Frozen for 30 s: silent until both peers have spoken.
	if after(30000, "b", "c") {
		t.Fatal("a thawed gateway speaks at once")
	}
	f.heard("b")
	if after(200, "b", "c") {
		t.Fatal("it speaks before the second peer was heard")
	}
	f.heard("c")
	if !after(200, "b", "c") {
		t.Fatal("it is silent though all peers were heard")
	}
	// Frozen again, and a peer does not come.
	if after(30000, "b") {
		t.Fatal("a thawed gateway speaks at once")
	}
	for range 14 {
		if after(200, "b") {
			t.Fatal("it speaks before it heard")
		}
	}
	if !after(200, "b") {
		t.Fatal("it waits for ever for a peer that does not come")
	}
	// Alone there is nobody who could have taken anything.
	if !after(30000) {
		t.Fatal("a lone gateway is silent after a pause")
	}
}

func TestSlept(t *testing.T) {
	for _, test := range []struct{ monotonic, wall, want time.Duration }{
		{100 * time.Millisecond, 100 * time.Millisecond, 0},
		{100 * time.Millisecond, time.Second, 0},
		{100 * time.Millisecond, 3 * time.Minute, 3*time.Minute - 100*time.Millisecond},
		{time.Hour, time.Hour, 0}, // stopped, not asleep: the engine's clock went on
		{time.Second, -time.Hour, 0},
		{0, 0, 0},
	} {
		if got := slept(test.monotonic, test.wall); got != test.want {
			t.Errorf("slept(%v, %v) = %v, want %v", test.monotonic, test.wall, got, test.want)
		}
	}
	if m, w := monotonicAndWall(time.Time{}, time.Now()); m != 0 || w != 0 {
		t.Errorf("before the first beat: %v, %v", m, w)
	}
}
