package cluster

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// keyed gives a crew its first keys.
func (c *crew) keyed() {
	c.t.Helper()
	check(c.t, c.all[0].SetSettings(context.Background(), map[string][]byte{
		"gossip": slices.Repeat([]byte{1}, 32), "key": slices.Repeat([]byte{2}, 32),
	}))
	converge(c.t, c.all...)
}

func ring(t *testing.T, s *Store) *Ring {
	t.Helper()
	r, err := s.Ring()
	check(t, err)
	return &r
}

// A key is replaced, step by step, also where two gateways did it at once, and two remove the old ones.
func TestRotateKeys(t *testing.T) {
	c := newCrew(t, 3)
	ctx := context.Background()
	if r := ring(t, c.all[0]); r.Turned() || len(r.Keys) != 0 {
		t.Errorf("a ring before there are keys: %v", r)
	}
	c.keyed()
	if r := ring(t, c.all[1]); r.Turned() || len(r.Of(GossipKey)) != 1 || r.Keys[0].Secret[0]+r.Keys[1].Secret[0] != 3 {
		t.Errorf("first keys: %v", r)
	}
	a, err := c.all[0].RotateKey(ctx, GossipKey, false)
	check(t, err)
	b, err := c.all[1].RotateKey(ctx, GossipKey, false, memberNode(2))
	check(t, err)
	check(t, c.all[0].HoldKeys(ctx, map[KeyKind]Holding{GossipKey: {Holds: []KeyID{a.ID, b.ID}, Uses: a.ID}}))
	converge(t, c.all...)
	for _, s := range c.all {
		r := ring(t, s)
		keys := r.Of(GossipKey)
		if len(keys) != 3 || keys[2].Generation != 0 || !keys[0].newer(&keys[1]) || keys[0].Generation != keys[1].Generation {
			t.Fatalf("keys after two rotations at once: %v", keys)
		}
		if got := keys[slices.IndexFunc(keys, func(k RingKey) bool { return k.ID == b.ID })]; !slices.Equal(got.Behind, []Node{memberNode(2)}) {
			t.Errorf("left behind: %v", got.Behind)
		}
		if h := r.Held[memberNode(0)][GossipKey]; h.Uses != a.ID || len(h.Holds) != 2 || !r.Turned() {
			t.Errorf("held: %v", h)
		}
	}
	old := ring(t, c.all[0]).Of(GossipKey)[1:]
	check(t, c.all[0].RemoveKeys(ctx, old...))
	check(t, c.all[2].RemoveKeys(ctx, old...))
	converge(t, c.all...)
	for _, s := range c.all {
		r := ring(t, s)
		if keys := r.Of(GossipKey); len(keys) != 1 || len(r.Former) != 2 || r.Former[old[1].ID] != GossipKey {
			t.Errorf("keys after the removal: %v, former %v", keys, r.Former)
		}
		if v, _, err := s.Setting("gossip"); err != nil || len(v) != 0 {
			t.Errorf("the first key still stands: %x, %v", v, err)
		}
		if list, err := s.Conflicts(); err != nil || len(list) != 0 {
			t.Errorf("conflicts %v, %v", list, err)
		}
	}
	if _, err := c.all[0].RotateKey(ctx, GossipKey, false); err != nil {
		t.Error(err)
	}
	for range MaxKeys {
		_, err = c.all[0].RotateKey(ctx, GossipKey, false)
	}
	var limit *LimitError
	if !errors.As(err, &limit) {
		t.Errorf("more keys than %d: %v", MaxKeys, err)
	}
}

// Whoever is evicted is a member nowhere; what it wrote stays and is listed; whom it let in unknown to the one who
// evicted it is no member before another admits it.
func TestExpel(t *testing.T) {
	c := newCrew(t, 4)
	c.keyed()
	ctx := WithActor(context.Background(), Actor{Name: "root"})
	a, b, e := c.all[0], c.all[1], c.all[2]
	put(t, e, "known", 10)
	converge(t, c.all...)
	check(t, e.Admit(ctx, memberAdmission(8)))
	converge(t, a, e)
	check(t, e.Admit(ctx, memberAdmission(9))) // nobody but b hears of it before the eviction
	put(t, e, "beyond", 11)
	converge(t, b, e)
	check(t, a.Expel(ctx, memberNode(2)))
	check(t, a.Expel(ctx, memberNode(2)))
	converge(t, a, b, c.all[3])
	for i, s := range []*Store{a, b, c.all[3]} {
		for n, want := range map[int]bool{0: true, 1: true, 2: false, 3: true, 8: true, 9: false} {
			if _, ok, err := s.Admitted(memberNode(n)); err != nil || ok != want {
				t.Errorf("at %d: %d admitted: %v, %v", i, n, ok, err)
			}
		}
		if as, err := s.Admissions(); err != nil || len(as) != 4 {
			t.Errorf("at %d: %d admissions, %v", i, len(as), err)
		}
		if list, err := s.Suspended(); err != nil || len(list) != 1 || NodeOf(list[0].Key) != memberNode(9) {
			t.Errorf("at %d: suspended %v, %v", i, list, err)
		}
		v, err := s.Evictions()
		if err != nil || len(v) != 1 || v[0].Node != memberNode(2) || v[0].By != memberNode(0) || !v[0].At.Equal(wallStart) {
			t.Errorf("at %d: evictions %v, %v", i, v, err)
		}
		r := ring(t, s)
		if join := r.Of(JoinKey); len(join) != 1 || !join[0].Urgent || len(r.Of(GossipKey)) != 2 {
			t.Errorf("at %d: keys %v", i, r.Keys)
		}
		ws, err := s.Writings(memberNode(2), wallStart.Add(-time.Hour))
		beyond := 0
		for _, w := range ws {
			if w.Beyond {
				beyond++
			}
		}
		if err != nil || len(ws) != 4 || beyond != 2 {
			t.Errorf("at %d: writings %+v, %v", i, ws, err)
		}
		if err := s.Admit(ctx, memberAdmission(2)); !errors.Is(err, ErrEvicted) {
			t.Errorf("at %d: admitted again: %v", i, err)
		}
	}
	check(t, b.Admit(ctx, memberAdmission(9)))
	converge(t, a, b)
	if _, ok, err := a.Admitted(memberNode(9)); err != nil || !ok {
		t.Errorf("admitted by another: %v, %v", ok, err)
	}
	said := map[string]bool{}
	for r, err := range a.Records() {
		check(t, err)
		said[r.Action+" "+strings.Fields(r.Object)[0]] = true
	}
	if !said["evict admission"] || !said["rotate key"] {
		t.Errorf("audit: %v", said)
	}
}

func put(t *testing.T, s *Store, name string, i int) {
	t.Helper()
	_, err := s.AddDevice(context.Background(), name, testKey(i))
	check(t, err)
}

func FuzzRing(f *testing.F) {
	k, _ := encoder.Marshal(wireKey{Kind: "gossip", Secret: make([]byte, 32), Generation: 1, By: make([]byte, 16)})
	h, _ := encoder.Marshal([]wireHolding{{"gossip", [][]byte{make([]byte, 16)}, make([]byte, 16)}})
	v, _ := encoder.Marshal(wireEviction{At: 1, Cut: vector{author{1}: 2}.wire(0), Own: [][]byte{make([]byte, 16)}})
	f.Add(k)
	f.Add(h)
	f.Add(v)
	f.Fuzz(func(t *testing.T, b []byte) {
		by := author{1}
		c := cell{field: fieldEvicted + by.node().String(), value: b, stamp: stamp{author: by}}
		e := &entity{cells: []cell{c, {field: fieldRing, value: b}, {field: fieldSecret, value: b}}}
		k, gone, ok := keyOf(make([]byte, 16), e)
		if ok && (gone || k.ID != KeyIDOf(k.Kind, k.Secret)) {
			t.Errorf("read %v", k)
		}
		holdingsOf(e)
		if _, ok := evictionOf(Node{}, &c); !ok {
			t.Error("an eviction that cannot be read is none")
		}
	})
}

// Whatever names and kinds there are, two secrets have two names.
func TestKeyIDs(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := [32]byte(rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "secret"))
		if KeyIDOf(GossipKey, a) == KeyIDOf(JoinKey, a) {
			t.Error("one name for two kinds")
		}
	})
}
