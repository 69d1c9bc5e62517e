package cluster

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// ringOf makes a ring: keys by generation, of which who holds and uses what.
func ringOf(generations ...uint64) *Ring {
	r := &Ring{Former: map[KeyID]KeyKind{}, Held: map[Node]map[KeyKind]Holding{}}
	for _, g := range generations {
		r.Keys = append(r.Keys, RingKey{ID: KeyID{byte(g)}, Kind: GossipKey, Generation: g})
	}
	return r
}

func (r *Ring) says(i int, uses uint64, holds ...uint64) *Ring {
	h := Holding{Uses: KeyID{byte(uses)}}
	for _, g := range holds {
		h.Holds = append(h.Holds, KeyID{byte(g)})
	}
	r.Held[testNode(i)] = map[KeyKind]Holding{GossipKey: h}
	return r
}

func (r *Ring) with(i int, change func(*RingKey)) *Ring {
	change(&r.Keys[i])
	return r
}

func TestNextTurn(t *testing.T) {
	urgent := func(k *RingKey) { k.Urgent = true }
	behind := func(i int) func(*RingKey) { return func(k *RingKey) { k.Behind = []Node{testNode(i)} } }
	for _, c := range []struct {
		name    string
		ring    *Ring
		present []int // of members 0, 1 and 2; 0 decides
		use     uint64
		remove  []uint64
		waits   []int
	}{
		{"one key", ringOf(1), []int{0, 1, 2}, 1, nil, nil},
		{"new key, nobody said anything", ringOf(2, 1), []int{0, 1, 2}, 1, nil, []int{0, 1, 2}},
		{"one lacks it", ringOf(2, 1).says(0, 1, 1, 2).says(1, 1, 1, 2).says(2, 1, 1), []int{0, 1, 2}, 1, nil, []int{0, 1, 2}},
		{"the one that lacks it is absent", ringOf(2, 1).says(0, 1, 1, 2).says(1, 1, 1, 2).says(2, 1, 1), []int{0, 1}, 2, nil, []int{0, 1, 2}},
		{"all hold it", ringOf(2, 1).says(0, 1, 1, 2).says(1, 1, 1, 2).says(2, 1, 1, 2), []int{0, 1, 2}, 2, nil, []int{0, 1, 2}},
		{"never back", ringOf(2, 1).says(0, 2, 1, 2).says(1, 2, 1, 2), []int{0, 1, 2}, 2, nil, []int{2}},
		{"all use it", ringOf(2, 1).says(0, 2, 1, 2).says(1, 2, 1, 2).says(2, 2, 1, 2), []int{0}, 2, []uint64{1}, nil},
		{"one was left behind", ringOf(2, 1).with(0, behind(2)).says(0, 2, 1, 2).says(1, 2, 1, 2), []int{0, 1}, 2, []uint64{1}, nil},
		{"left behind, and present: it does not hold up the use", ringOf(2, 1).with(0, behind(2)).says(0, 1, 1, 2).says(1, 1, 1, 2), []int{0, 1, 2}, 2, nil, []int{0, 1}},
		{"wrong hands", ringOf(2, 1).with(0, urgent).says(0, 2, 1, 2).says(1, 2, 1, 2), []int{0, 1}, 2, []uint64{1}, nil},
		{"wrong hands, and one is present that lacks it", ringOf(2, 1).with(0, urgent).says(0, 2, 1, 2).says(1, 2, 1, 2), []int{0, 1, 2}, 2, nil, []int{2}},
		{"a newer one counts", ringOf(3, 2, 1).says(0, 3, 1, 2, 3).says(1, 3, 1, 2, 3).says(2, 2, 1, 2), []int{0, 1}, 3, []uint64{1}, nil},
		{"urgent then ordinary", ringOf(3, 2, 1).with(1, urgent).says(0, 3, 1, 2, 3).says(1, 3, 1, 2, 3), []int{0, 1}, 3, []uint64{1}, nil},
	} {
		next := NextTurn(c.ring, GossipKey, testNode(0), []Node{testNode(0), testNode(1), testNode(2)},
			func(n Node) bool { return slices.ContainsFunc(c.present, func(i int) bool { return testNode(i) == n }) })
		var waits, remove []string
		for _, i := range c.waits {
			waits = append(waits, testNode(i).String())
		}
		for _, g := range c.remove {
			remove = append(remove, KeyID{byte(g)}.String())
		}
		if next.Use != (KeyID{byte(c.use)}) || fmt.Sprint(next.Remove) != fmt.Sprint(remove) || fmt.Sprint(next.Waits) != fmt.Sprint(waits) {
			t.Errorf("%s: use %v, remove %v, waits %v", c.name, next.Use, next.Remove, next.Waits)
		}
	}
}

// ringReplica is a member in the model: what it knows of the ring, merged as the store merges.
type ringReplica struct {
	keys   map[KeyID]RingKey
	gone   map[KeyID]bool
	held   map[Node]Holding
	order  map[Node]int // of held
	behind map[KeyID]map[Node]bool
}

func (a *ringReplica) merge(b *ringReplica) {
	maps.Copy(a.keys, b.keys)
	maps.Copy(a.gone, b.gone)
	for n, h := range b.held {
		if b.order[n] > a.order[n] {
			a.held[n], a.order[n] = h, b.order[n]
		}
	}
	for id, ns := range b.behind {
		if a.behind[id] == nil {
			a.behind[id] = map[Node]bool{}
		}
		maps.Copy(a.behind[id], ns)
	}
}

func (a *ringReplica) ring() *Ring {
	r := ringOf()
	for id, k := range a.keys {
		if a.gone[id] {
			continue
		}
		k.Behind = slices.Collect(maps.Keys(a.behind[id]))
		r.Keys = append(r.Keys, k)
	}
	slices.SortFunc(r.Keys, func(a, b RingKey) int {
		if a.newer(&b) {
			return -1
		}
		return 1
	})
	for n, h := range a.held {
		r.Held[n] = map[KeyKind]Holding{GossipKey: h}
	}
	return r
}

// TestRingLaws lets members rotate, split, sync in pairs and step in any order. No key is ever removed while a member
// that is waited for does not use a newer one, and when all meet again one key remains that all use.
func TestRingLaws(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(2, 5).Draw(t, "members")
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		var members []Node
		var all []*ringReplica
		first := RingKey{ID: KeyID{1}, Kind: GossipKey}
		for i := range n {
			members = append(members, testNode(i))
			all = append(all, &ringReplica{
				map[KeyID]RingKey{first.ID: first}, map[KeyID]bool{}, map[Node]Holding{}, map[Node]int{}, map[KeyID]map[Node]bool{},
			})
		}
		side := make([]int, n) // who sees whom
		sees := func(i int) func(Node) bool {
			return func(o Node) bool { return side[slices.Index(members, o)] == side[i] }
		}
		truth := make([]Holding, n) // what each really accepts and sends under
		for i := range truth {
			truth[i] = Holding{[]KeyID{first.ID}, first.ID}
		}
		forced := false
		step := func(i int) {
			r := all[i].ring()
			next := NextTurn(r, GossipKey, members[i], members, sees(i))
			if len(next.Hold) == 0 {
				t.Fatalf("%d has no key at all", i)
			}
			h := Holding{Uses: next.Use}
			for _, k := range next.Hold {
				h.Holds = append(h.Holds, k.ID)
			}
			truth[i] = h
			if !slices.Equal(all[i].held[members[i]].Holds, h.Holds) || all[i].held[members[i]].Uses != h.Uses {
				all[i].held[members[i]] = h
				all[i].order[members[i]]++
			}
			for _, id := range next.Remove {
				old := all[i].keys[id]
				for j := range n {
					uses := all[j].keys[truth[j].Uses]
					if !forced && !uses.newer(&old) {
						t.Fatalf("%d removes %v, which %d uses", i, id, j)
					}
				}
				all[i].gone[id] = true
			}
		}
		keys := 1
		for range rapid.IntRange(1, 120).Draw(t, "steps") {
			i, j := rng.IntN(n), rng.IntN(n)
			switch op := rng.IntN(20); {
			case op == 0 && keys < 12:
				newest := all[i].ring().Keys[0]
				keys++
				k := RingKey{ID: KeyID{byte(rng.IntN(255) + 1), byte(keys)}, Kind: GossipKey, Generation: newest.Generation + 1, Urgent: rng.IntN(4) == 0}
				forced = forced || k.Urgent
				all[i].keys[k.ID] = k
			case op == 1:
				side[i] = rng.IntN(2)
			case op == 2 && rng.IntN(3) == 0:
				newest := all[i].ring().Keys[0]
				all[i].merge(&ringReplica{behind: map[KeyID]map[Node]bool{newest.ID: {members[j]: true}}})
				forced = true
			case op < 10 && side[i] == side[j]:
				all[i].merge(all[j])
			default:
				step(i)
			}
		}
		for i := range side {
			side[i] = 0
		}
		for range 3 + 4*keys {
			for i := range n {
				for j := range n {
					all[i].merge(all[j])
				}
			}
			for i := range n {
				step(i)
			}
		}
		for i := range n {
			if r := all[i].ring(); len(r.Keys) != 1 || truth[i].Uses != truth[0].Uses || truth[i].Uses != r.Keys[0].ID || len(truth[i].Holds) != 1 {
				t.Fatalf("%d is left with %v and %v", i, r.Keys, truth[i])
			}
		}
	})
}
