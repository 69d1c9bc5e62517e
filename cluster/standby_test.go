package cluster

import (
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// Standby gateways get devices only where no active one has room.
func TestPlaceStandby(t *testing.T) {
	self, b, c, s := testNode(0), testNode(1), testNode(2), testNode(3)
	load := func(n Node, sessions int, standby bool) Load {
		return Load{Node: n, Sessions: sessions, Capacity: 10, Standby: standby}
	}
	draining, old := load(b, 0, false), load(b, 0, false)
	draining.Draining, old.Age = true, FreshLoad
	for name, x := range map[string]struct {
		own   Load
		peers []Load
		want  Node
	}{
		"an active one has room":          {load(self, 9, false), []Load{load(s, 0, true)}, self},
		"it is full":                      {load(self, 10, false), []Load{load(s, 0, true)}, s},
		"another active one has room":     {load(self, 10, false), []Load{load(s, 0, true), load(b, 9, false)}, b},
		"all active ones are full":        {load(self, 10, false), []Load{load(s, 0, true), load(b, 10, false)}, s},
		"all are full":                    {load(self, 10, false), []Load{load(s, 10, true), load(b, 10, false)}, self},
		"at a standby":                    {load(self, 0, true), []Load{load(b, 9, false)}, b},
		"at a standby, which is full":     {load(self, 10, true), []Load{load(b, 9, false)}, b},
		"at a standby, the active full":   {load(self, 5, true), []Load{load(b, 10, false)}, self},
		"at a standby, the active drains": {load(self, 5, true), []Load{draining}, self},
		"at a standby, the active silent": {load(self, 5, true), []Load{old}, self},
		"at a standby, none active":       {load(self, 5, true), nil, self},
		"two standbys, none active":       {load(self, 5, true), []Load{load(s, 0, true)}, s},
		"two standbys, one active":        {load(self, 5, true), []Load{load(s, 0, true), load(c, 9, false)}, c},
	} {
		for seed := range uint64(20) {
			got, here := Place(x.own, x.peers, rand.New(rand.NewPCG(seed, 0)))
			if got != x.want || here != (got == self) {
				t.Errorf("%s: %v, here %v", name, got, here)
			}
		}
		if got, want := Spare(x.own, x.peers), roomSomewhere(x.own, x.peers); got != want {
			t.Errorf("%s: spare %v", name, got)
		}
	}
}

func roomSomewhere(own Load, peers []Load) bool {
	for _, l := range append(peers, own) {
		if !l.Standby && !l.Draining && l.Age < FreshLoad && l.Sessions < l.Capacity {
			return true
		}
	}
	return false
}

func drawWeighted(t *rapid.T) (all []Weighted) {
	for i := range rapid.IntRange(0, 8).Draw(t, "gateways") {
		all = append(all, Weighted{
			Node: testNode(i), Capacity: rapid.IntRange(0, 3).Draw(t, "capacity"),
			Standby: rapid.Bool().Draw(t, "standby"), Full: rapid.Bool().Draw(t, "full"),
		})
	}
	return all
}

// Of those that inherit, active ones with room come first, then standby ones with room, then the rest; and all see the
// same order.
func TestHeirsLaws(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		all := drawWeighted(t)
		device, dead := testKey(rapid.IntRange(0, 99).Draw(t, "device")), testNode(rapid.IntRange(0, 8).Draw(t, "dead"))
		rank := Heirs(device, dead, all)
		at := func(n Node) Weighted { return all[slices.IndexFunc(all, func(w Weighted) bool { return w.Node == n })] }
		usable := filter(all, func(w Weighted) bool { return w.Node != dead && w.Capacity > 0 })
		if len(rank) != len(usable) {
			t.Fatalf("%d heirs of %d", len(rank), len(usable))
		}
		spare := slices.ContainsFunc(usable, func(w Weighted) bool { return w.Standby && !w.Full })
		last := 0
		for _, n := range rank {
			w, class := at(n), 0
			switch {
			case w.Standby && w.Full:
				class = 3
			case w.Standby:
				class = 1
			case w.Full && spare:
				class = 2
			}
			if class < last {
				t.Fatalf("%+v comes too late in %v", w, rank)
			}
			last = class
		}
		shuffled := rapid.Permutation(all).Draw(t, "order")
		if other := Heirs(device, dead, shuffled); !slices.Equal(rank, other) {
			t.Fatalf("%v in one order, %v in another", rank, other)
		}
		if len(rank) == 0 || slices.ContainsFunc(all, func(w Weighted) bool { return w.Standby || w.Full }) {
			return
		}
		gone := rank[rapid.IntRange(0, len(rank)-1).Draw(t, "gone")]
		less := filter(all, func(w Weighted) bool { return w.Node != gone })
		want := filter(rank, func(n Node) bool { return n != gone })
		if got := Heirs(device, dead, less); !slices.Equal(got, want) {
			t.Fatalf("without %v: %v, want %v", gone, got, want)
		}
	})
}

// A kind of a later format is not written before all admitted gateways understand it.
func TestFormatGate(t *testing.T) {
	s := open(t, Config{Node: testNode(0)})
	ctx := t.Context()
	const kind = "hologram"
	formats[kind] = 2
	defer delete(formats, kind)
	put := func() error {
		return s.update(ctx, func(t *tx) error { return t.put(refOf(kind, []byte{1}), fieldValue, []byte("blue")) })
	}
	admit := func(i int, name string) Node {
		a := memberAdmission(i)
		a.Name = name
		check(t, s.Admit(ctx, a))
		return NodeOf(a.Key)
	}
	old, young := admit(1, "old"), admit(2, "young")
	check(t, s.PutGateway(ctx, Gateway{Node: young, Name: "young", Format: 3}))
	var older *OlderError
	if err := put(); !errors.As(err, &older) || !slices.Equal(older.Gateways, []string{"old"}) || older.Format != 2 {
		t.Errorf("written while a gateway does not understand it: %v", err)
	}
	check(t, s.PutGateway(ctx, Gateway{Node: old, Name: "old", Format: 1}))
	if err := put(); !errors.As(err, &older) {
		t.Errorf("written while a gateway does not understand it: %v", err)
	}
	check(t, s.PutGateway(ctx, Gateway{Node: old, Name: "old", Format: 2}))
	check(t, put())
	check(t, s.PutGateway(ctx, Gateway{Node: old, Name: "old", Format: 1}))
	check(t, s.Evict(ctx, old))
	check(t, put())
}
