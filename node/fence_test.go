package node

import (
	"testing"
	"time"
)

func TestFence(t *testing.T) {
	t0 := time.Unix(1000, 0)
	at := func(ms int) time.Time { return t0.Add(time.Duration(ms) * time.Millisecond) }
	var f fence[string]
	open := func(ms int, alive ...string) bool { return !f.beat(at(ms), alive).IsZero() }

	if !open(0, "b", "c") || !open(200, "b", "c") || !open(1200, "b", "c") {
		t.Fatal("a gateway that beats in time is silent")
	}
	if got := f.beat(at(1300), nil); got != at(2300) {
		t.Fatalf("the lease ends at %v, want one second after the beat", got)
	}
	// Frozen for 30 s: silent until both peers have spoken.
	if open(31300, "b", "c") {
		t.Fatal("a thawed gateway speaks at once")
	}
	f.heard("b")
	if open(31500, "b", "c") {
		t.Fatal("it speaks before the second peer was heard")
	}
	f.heard("c")
	if !open(31700, "b", "c") {
		t.Fatal("it is silent though all peers were heard")
	}
	// Frozen again, and nobody is left who could speak.
	for _, ms := range []int{62000, 63000, 64000, 64900} {
		if open(ms, "b") {
			t.Fatal("it speaks before it heard")
		}
	}
	if !open(65000, "b") {
		t.Fatal("it waits for ever for a peer that does not come")
	}
	// Alone there is nobody to wait for.
	if !open(90000) {
		t.Fatal("a lone gateway is silent after a pause")
	}
}
