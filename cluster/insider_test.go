package cluster

import (
	"context"
	"errors"
	"maps"
	"slices"
	"testing"
	"time"
)

// admittedAt checks who is a member at some.
func admittedAt(t *testing.T, want map[int]bool, at ...*Store) {
	t.Helper()
	for i, s := range at {
		for n, want := range want {
			if _, ok, err := s.Admitted(memberNode(n)); err != nil || ok != want {
				t.Errorf("at %d: %d admitted: %v, %v", i, n, ok, err)
			}
		}
	}
}

// holding returns the keys of a kind that hold at a store, checks that all have them, and that there is one.
func holding(t *testing.T, kind KeyKind, all ...*Store) []RingKey {
	t.Helper()
	keys := ring(t, all[0]).Of(kind)
	for _, s := range all[1:] {
		other := ring(t, s).Of(kind)
		if !slices.EqualFunc(keys, other, func(a, b RingKey) bool { return a.ID == b.ID }) {
			t.Errorf("%s keys %v and %v", kind, keys, other)
		}
	}
	if len(keys) == 0 {
		t.Fatalf("no %s key", kind)
	}
	return keys
}

func has(keys []RingKey, k RingKey) bool {
	return slices.ContainsFunc(keys, func(o RingKey) bool { return o.ID == k.ID })
}

// Keys that an evicted gateway made, known or not, or that one made who did not know of the eviction, hold no more; of
// the gossip they come last.
func TestKeysOfTheEvicted(t *testing.T) {
	c := newCrew(t, 4)
	c.keyed()
	ctx := context.Background()
	a, b, e := c.all[0], c.all[1], c.all[2]
	made := map[string][2]RingKey{}
	both := func(name string, s *Store) {
		t.Helper()
		g, err := s.RotateKey(ctx, GossipKey, false)
		check(t, err)
		j, err := s.RotateKey(ctx, JoinKey, false)
		check(t, err)
		made[name] = [2]RingKey{g, j}
	}
	both("known", e)
	converge(t, c.all...)
	both("unknown", e) // b is told of it, a is not
	converge(t, b, e)
	both("unknowing", b) // newer than what a makes
	both("unknowing again", b)
	check(t, a.Expel(ctx, memberNode(2)))
	converge(t, a, b, c.all[3])
	join := holding(t, JoinKey, a, b, c.all[3])
	gossip := holding(t, GossipKey, a, b, c.all[3])
	if len(join) != 1 || !join[0].Urgent || join[0].By != memberNode(0) || gossip[0].By != memberNode(0) {
		t.Errorf("keys %v and %v", join, gossip)
	}
	for name, k := range made {
		if has(gossip, k[0]) == (name == "unknown") || has(join, k[1]) {
			t.Errorf("%s: among %v or %v", name, gossip, join)
		}
		if ring(t, b).Former[k[1].ID] != JoinKey {
			t.Errorf("%s: never was a key", name)
		}
	}
	if made, err := a.RenewKeys(ctx); err != nil || len(made) != 0 {
		t.Errorf("made %v, %v", made, err)
	}
	members := []Node{memberNode(0), memberNode(3)}
	next := NextTurn(ring(t, a), GossipKey, memberNode(0), members, func(Node) bool { return false })
	if next.Use != gossip[0].ID {
		t.Errorf("uses %v", next.Use)
	}
	check(t, a.RemoveKeys(ctx, ring(t, a).Spent...))
	if r := ring(t, a); len(r.Spent) != 0 {
		t.Errorf("secrets that stand: %v", r.Spent)
	}
}

// Two sides of a split evict one each, who knows the keys of the other side: new ones are made once they meet.
func TestTwoEvictionsApart(t *testing.T) {
	c := newCrew(t, 4)
	c.keyed()
	ctx := context.Background()
	a, b := c.all[0], c.all[1]
	check(t, a.Expel(ctx, memberNode(2)))
	check(t, b.Expel(ctx, memberNode(3)))
	old := slices.Concat(ring(t, a).Keys, ring(t, b).Keys)
	converge(t, a, b)
	for _, kind := range KeyKinds {
		holding(t, kind, a, b)
	}
	if kinds := ring(t, a).Uncovered(); len(kinds) != 2 {
		t.Errorf("uncovered: %v", kinds)
	}
	made, err := b.RenewKeys(ctx)
	if err != nil || len(made) != 2 {
		t.Fatalf("made %v, %v", made, err)
	}
	converge(t, a, b)
	join := holding(t, JoinKey, a, b)
	if len(join) != 1 || has(old, join[0]) || !join[0].Urgent || !has(made, holding(t, GossipKey, a, b)[0]) {
		t.Errorf("keys %v", ring(t, a).Keys)
	}
	if made, err := a.RenewKeys(ctx); err != nil || len(made) != 0 {
		t.Errorf("made again: %v, %v", made, err)
	}
}

// A key whose generation leaves no room for newer ones does not end the keys.
func TestGenerations(t *testing.T) {
	c := newCrew(t, 3)
	c.keyed()
	ctx := context.Background()
	a, e := c.all[0], c.all[2]
	_, err := a.RotateKey(ctx, JoinKey, false)
	check(t, err)
	converge(t, c.all...)
	for i, g := range []uint64{maxCount - 1, maxGeneration + 1, maxGeneration, 2 * maxStep} {
		k := RingKey{Kind: JoinKey, Secret: [32]byte{byte(i)}, Generation: g, By: memberNode(2)}
		k.ID = KeyIDOf(k.Kind, k.Secret)
		check(t, e.update(ctx, func(t *tx) error { return t.addKey(&k) }))
		converge(t, c.all...)
		if keys := holding(t, JoinKey, c.all...); has(keys, k) || keys[0].Generation != uint64(1+i) {
			t.Errorf("with generation %d: %v", g, keys)
		}
		made, err := a.RotateKey(ctx, JoinKey, false)
		check(t, err)
		converge(t, c.all...)
		if keys := holding(t, JoinKey, c.all...); keys[0].ID != made.ID {
			t.Errorf("after generation %d: %v", g, keys)
		}
	}
	for range 2 { // an ignored one counts when nothing else is left
		check(t, a.RemoveKeys(ctx, ring(t, a).Of(JoinKey)...))
	}
	if keys := ring(t, a).Of(JoinKey); len(keys) != 1 || keys[0].Generation != maxGeneration {
		t.Fatalf("what is left: %v", keys)
	}
	var limit *LimitError
	if _, err := a.RotateKey(ctx, JoinKey, false); !errors.As(err, &limit) {
		t.Errorf("beyond the last generation: %v", err)
	}
	check(t, a.Expel(ctx, memberNode(2)))
	if keys := ring(t, a).Of(JoinKey); len(keys) != 1 || keys[0].By != memberNode(0) {
		t.Errorf("after the eviction: %v", keys)
	}
}

// All keys of a kind were taken away: new ones are made.
func TestNoKeyIsLeft(t *testing.T) {
	c := newCrew(t, 2)
	c.keyed()
	ctx := context.Background()
	check(t, c.all[1].RemoveKeys(ctx, ring(t, c.all[1]).Keys...))
	converge(t, c.all...)
	made, err := c.all[0].RenewKeys(ctx)
	if err != nil || len(made) != 2 {
		t.Errorf("made %v, %v", made, err)
	}
	if made, err = open(t, Config{Node: testNode(1), Now: c.clock.now}).RenewKeys(ctx); err != nil || len(made) != 0 {
		t.Errorf("without a cluster: %v, %v", made, err)
	}
}

// Who is evicted evicts nobody in return, nor whoever it brought along, and cannot end an eviction.
func TestRevenge(t *testing.T) {
	c := newCrew(t, 5)
	ctx := context.Background()
	a, b, e := c.all[0], c.all[1], c.all[2]
	check(t, a.Evict(ctx, memberNode(2)))
	check(t, a.Evict(ctx, memberNode(4)))
	c.clock.move(time.Second)
	for _, n := range []int{0, 3, 4} {
		check(t, e.Evict(ctx, memberNode(n)))
	}
	// Others' word is taken from them alone.
	for _, by := range []Node{memberNode(0), memberNode(1)} {
		check(t, e.update(ctx, func(t *tx) error {
			return t.put(admissionRef(memberNode(2)), fieldEvicted+by.String(), nil)
		}))
	}
	check(t, e.update(ctx, func(t *tx) error {
		return t.write(admissionRef(memberNode(2)), cell{field: fieldEvicted + memberNode(2).String(), rank: 2})
	}))
	pull(t, storeState{b}, storeState{e})
	converge(t, a, b, c.all[3])
	three := []*Store{a, b, c.all[3]}
	admittedAt(t, map[int]bool{0: true, 1: true, 2: false, 3: true, 4: false}, three...)
	for i, s := range three {
		v, err := s.Evictions()
		if err != nil || len(v) != 2 || v[0].By != memberNode(0) || v[1].By != memberNode(0) {
			t.Errorf("at %d: %+v, %v", i, v, err)
		}
		if gone, err := s.Departed(memberNode(3)); err != nil || gone {
			t.Errorf("at %d: departed %v, %v", i, gone, err)
		}
	}
}

// Of two that evict each other the one stays whose clock said that it was first, everywhere; the other does not come back
// when that one is evicted later.
func TestRevengeBySlowClock(t *testing.T) {
	c := newCrew(t, 3)
	ctx := context.Background()
	a, b := c.all[0], c.all[1]
	e := open(t, Config{Node: memberNode(7), Now: func() time.Time { return c.clock.now().Add(-30 * time.Second) }})
	check(t, a.Admit(ctx, memberAdmission(7)))
	c.clock.move(time.Minute)
	converge(t, e, a, b, c.all[2])
	check(t, a.Evict(ctx, memberNode(7)))
	c.clock.move(20 * time.Second)
	check(t, e.Evict(ctx, memberNode(0)))
	converge(t, b, e)
	three := []*Store{a, b, c.all[2]}
	converge(t, three...)
	admittedAt(t, map[int]bool{0: false, 1: true, 2: true, 7: true}, three...)
	check(t, b.Evict(ctx, memberNode(7)))
	converge(t, three...)
	admittedAt(t, map[int]bool{0: false, 1: true, 2: true, 7: false}, three...)
}

// Whoever an evicted gateway brought along evicts nobody, admits nobody, makes no keys and no users, and does not have
// what brought it along count by evicting that gateway itself; nor once it has left. All of it counts when a member
// admits it.
func TestBroughtAlong(t *testing.T) {
	c := newCrew(t, 4)
	c.keyed()
	ctx := context.Background()
	a, b, e := c.all[0], c.all[1], c.all[2]
	var brought []*Store
	check(t, a.Evict(ctx, memberNode(2)))
	for _, i := range []int{7, 8} {
		check(t, e.Admit(ctx, memberAdmission(i)))
		x := open(t, Config{Node: memberNode(i), Now: c.clock.now})
		converge(t, e, x)
		brought = append(brought, x)
	}
	c.clock.move(time.Second)
	x, y := brought[0], brought[1]
	made, err := x.RotateKey(ctx, JoinKey, false)
	check(t, err)
	check(t, x.AddUser(ctx, "eve", RoleAdmin, "new"))
	check(t, x.Evict(ctx, memberNode(0)))
	check(t, x.Evict(ctx, memberNode(2)))
	check(t, y.Evict(ctx, memberNode(3)))
	check(t, y.Leave(ctx))
	converge(t, b, e, x, y)
	three := []*Store{a, b, c.all[3]}
	converge(t, three...)
	admittedAt(t, map[int]bool{0: true, 1: true, 2: false, 3: true, 7: false, 8: false}, three...)
	for i, s := range three {
		if u, err := s.User("eve"); err != nil || !u.Suspended {
			t.Errorf("at %d: %+v, %v", i, u, err)
		}
		if r := ring(t, s); has(r.Keys, made) {
			t.Errorf("at %d: keys %v", i, r.Keys)
		}
		if v, err := s.Evictions(); err != nil || len(v) != 1 || v[0].By != memberNode(0) {
			t.Errorf("at %d: evictions %v, %v", i, v, err)
		}
		ws, err := s.Writings(memberNode(7), c.clock.now().Add(time.Hour))
		if err != nil || len(ws) < 4 || !ws[0].Beyond {
			t.Errorf("at %d: writings %v, %v", i, ws, err)
		}
	}
	check(t, b.Admit(ctx, memberAdmission(7)))
	converge(t, three...)
	admittedAt(t, map[int]bool{0: false, 1: true, 2: false, 3: true, 7: true}, three...)
}

// Two who admitted each other are no members by that.
func TestAdmittedByEachOther(t *testing.T) {
	c := newCrew(t, 3)
	ctx := context.Background()
	a, b, e := c.all[0], c.all[1], c.all[2]
	check(t, a.Evict(ctx, memberNode(2)))
	check(t, e.Admit(ctx, memberAdmission(7)))
	check(t, e.Admit(ctx, memberAdmission(8)))
	x, y := open(t, Config{Node: memberNode(7), Now: c.clock.now}), open(t, Config{Node: memberNode(8), Now: c.clock.now})
	converge(t, e, x, y)
	check(t, x.Admit(ctx, memberAdmission(8)))
	check(t, y.Admit(ctx, memberAdmission(7)))
	converge(t, b, e, x, y)
	converge(t, a, b)
	admittedAt(t, map[int]bool{0: true, 1: true, 2: false, 7: false, 8: false}, a, b)
}

// An insider cannot end an eviction with another life of the admission, nor say of others that they have left.
func TestLifeOfAnAdmission(t *testing.T) {
	c := newCrew(t, 4)
	ctx := context.Background()
	a, b, e := c.all[0], c.all[1], c.all[2]
	check(t, a.Evict(ctx, memberNode(2)))
	c.clock.move(time.Second)
	check(t, e.update(ctx, func(t *tx) error {
		for _, n := range []int{0, 1} {
			if err := t.write(admissionRef(memberNode(n)), cell{field: fieldLeft, rank: 1}); err != nil {
				return err
			}
		}
		for _, n := range []int{2, 3} {
			if err := t.write(admissionRef(memberNode(n)), cell{life: 2}); err != nil {
				return err
			}
		}
		return t.put(admissionRef(memberNode(3)), fieldAdmission, nil)
	}))
	pull(t, storeState{b}, storeState{e})
	three := []*Store{a, b, c.all[3]}
	converge(t, three...)
	admittedAt(t, map[int]bool{0: true, 1: true, 2: false, 3: true}, three...)
	for i, s := range three {
		if _, ok, err := s.Evicted(memberNode(2)); err != nil || !ok {
			t.Errorf("at %d: evicted %v, %v", i, ok, err)
		}
	}
}

// Members that evicted before they were evicted themselves are heeded.
func TestEvictionsBeforeOnesOwn(t *testing.T) {
	c := newCrew(t, 4)
	ctx := context.Background()
	a, b := c.all[0], c.all[1]
	check(t, b.Evict(ctx, memberNode(2)))
	converge(t, a, b)
	check(t, a.Evict(ctx, memberNode(1)))
	converge(t, a, c.all[3])
	admittedAt(t, map[int]bool{0: true, 1: false, 2: false, 3: true}, a, c.all[3])
}

// Nobody is a member by its own word but who began the cluster, or came back from a backup that knew of the evictions;
// nor by the word of one who is none.
func TestAdmittedByItself(t *testing.T) {
	c := newCrew(t, 4)
	ctx := context.Background()
	a, b, e := c.all[0], c.all[1], c.all[2]
	join := func(i int, by *Store) *Store {
		x := open(t, Config{Node: memberNode(i), Now: c.clock.now})
		converge(t, by, x)
		return x
	}
	check(t, a.Evict(ctx, memberNode(2)))
	x := join(7, e)
	check(t, x.Admit(ctx, memberAdmission(7)))
	check(t, x.Admit(ctx, memberAdmission(8)))
	check(t, e.Admit(ctx, memberAdmission(9)))
	check(t, x.update(ctx, func(t *tx) error { return t.put(admissionRef(memberNode(2)), fieldAdmission, nil) }))
	converge(t, b, e, x)
	converge(t, a, b, c.all[3])
	y := join(5, a)
	check(t, y.Admit(ctx, memberAdmission(5)))
	check(t, y.Admit(ctx, memberAdmission(6)))
	converge(t, a, b, c.all[3], y)
	all := []*Store{a, b, c.all[3], y}
	admittedAt(t, map[int]bool{0: true, 1: true, 3: true, 5: true, 6: true}, all...)
	admittedAt(t, map[int]bool{2: false, 7: false, 8: false, 9: false}, all...)
	if list, err := a.Suspended(); err != nil || len(list) != 3 {
		t.Errorf("suspended: %v, %v", list, err)
	}
	check(t, b.Admit(ctx, memberAdmission(7)))
	converge(t, all...)
	admittedAt(t, map[int]bool{7: true, 8: true, 9: false}, all...)
}

// A password, a role or a user that an evicted gateway wrote unknown to the others is good for nothing until another
// gives a password.
func TestUsersOfTheEvicted(t *testing.T) {
	c := newCrew(t, 3)
	ctx := context.Background()
	a, b, e := c.all[0], c.all[1], c.all[2]
	for _, name := range []string{"anna", "bob", "carl"} {
		check(t, a.AddUser(ctx, name, RoleAdmin, "old"))
	}
	converge(t, c.all...)
	check(t, a.Evict(ctx, memberNode(2)))
	c.clock.move(time.Minute)
	check(t, e.SetPassword(ctx, "anna", "new"))
	check(t, e.AddUser(ctx, "eve", RoleAdmin, "new"))
	check(t, b.SetPassword(ctx, "bob", "newer")) // e is sent it
	converge(t, b, e)
	converge(t, a, b)
	check(t, b.SetPassword(ctx, "carl", "newer"))
	converge(t, a, b)
	check(t, c.all[0].AddUser(ctx, "dora", RoleAdmin, "new"))
	states := func() map[string]string {
		users, err := a.Users()
		check(t, err)
		out := map[string]string{}
		for _, u := range users {
			out[u.Name] = map[bool]string{true: "unknown"}[u.Suspended] + map[bool]string{true: "stale"}[u.Stale]
			if one, err := a.User(u.Name); err != nil || one != u {
				t.Errorf("%+v, %+v, %v", u, one, err)
			}
		}
		return out
	}
	want := map[string]string{"anna": "unknown", "bob": "stale", "carl": "", "dora": "", "eve": "unknown"}
	if got := states(); !maps.Equal(got, want) {
		t.Errorf("got %v", got)
	}
	c.clock.move(-time.Hour) // it is not for clocks to say what is older
	for name := range want {
		check(t, a.SetPassword(ctx, name, "newest"))
	}
	want = map[string]string{"anna": "", "bob": "", "carl": "", "dora": "", "eve": ""}
	if got := states(); !maps.Equal(got, want) {
		t.Errorf("with new passwords: %v", got)
	}
}
