package cluster

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// conflictsOf returns the conflicts as text, without their ids.
func conflictsOf(t testing.TB, s *Store) (all []string) {
	t.Helper()
	cs, err := s.Conflicts()
	check(t, err)
	for _, c := range cs {
		all = append(all, fmt.Sprintf("%s %s %s %s: %s, not %s", c.Reason, c.Ref.Kind, c.Name, c.Field, c.Stands.Text, c.Other.Text))
	}
	return all
}

// sameConflicts fails unless all list the same, and returns it.
func sameConflicts(t testing.TB, all ...*Store) []Conflict {
	t.Helper()
	want, err := all[0].Conflicts()
	check(t, err)
	for i, s := range all[1:] {
		got, err := s.Conflicts()
		check(t, err)
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("replica %d lists %+v, replica 0 %+v", i+1, got, want)
		}
	}
	return want
}

// split returns three replicas that know a device "phone", and a setting.
func split(t testing.TB) (a, b, c *Store, key Key) {
	t.Helper()
	a, b, c, key = withPool(t, replica(t, 0), "10.0.0.0/24"), replica(t, 1), replica(t, 2), testKey(0)
	add(t, a, "phone", key)
	check(t, a.SetSettings(context.Background(), map[string][]byte{"x": []byte("0")}))
	converge(t, a, b, c)
	return a, b, c, key
}

func TestConflicts(t *testing.T) {
	ctx := context.Background()
	psk := Key{1}
	for _, tt := range []struct {
		name string
		a, b func(s *Store, k Key) error
		want []string
	}{
		{
			"rename", func(s *Store, k Key) error { return s.RenameDevice(ctx, k, "left") },
			func(s *Store, k Key) error { return s.RenameDevice(ctx, k, "right") },
			[]string{"overwritten device right name: right, not left"},
		},
		{
			"the same on both sides", func(s *Store, k Key) error { return s.RenameDevice(ctx, k, "left") },
			func(s *Store, k Key) error { return s.RenameDevice(ctx, k, "left") },
			nil,
		},
		{
			"different fields", func(s *Store, k Key) error { return s.RenameDevice(ctx, k, "left") },
			func(s *Store, k Key) error { return s.SetPresharedKey(ctx, k, psk) },
			nil,
		},
		{
			"a preshared key is not told", func(s *Store, k Key) error { return s.SetPresharedKey(ctx, k, Key{2}) },
			func(s *Store, k Key) error { return s.SetPresharedKey(ctx, k, psk) },
			[]string{"overwritten device phone psk: , not "},
		},
		{
			"edit and deletion", func(s *Store, k Key) error { return s.RenameDevice(ctx, k, "left") },
			func(s *Store, k Key) error { return s.RemoveDevice(ctx, k) },
			[]string{"deleted device left name: deleted, not left"},
		},
		{
			"disabling and deletion", func(s *Store, k Key) error { return s.EnableDevice(ctx, k, false) },
			func(s *Store, k Key) error { return s.RemoveDevice(ctx, k) },
			[]string{"deleted device  enabled: deleted, not false"},
		},
		{
			"disabling and a new key", func(s *Store, k Key) error { return s.EnableDevice(ctx, k, false) },
			func(s *Store, k Key) error { _, err := s.RekeyDevice(ctx, k, testKey(9)); return err },
			[]string{"deleted device  enabled: deleted, not false"},
		},
		{
			"two deletions", func(s *Store, k Key) error { return s.RemoveDevice(ctx, k) },
			func(s *Store, k Key) error { return s.RemoveDevice(ctx, k) }, nil,
		},
		{
			"two disablings", func(s *Store, k Key) error { return s.EnableDevice(ctx, k, false) },
			func(s *Store, k Key) error { return s.EnableDevice(ctx, k, false) }, nil,
		},
		{
			"a setting", func(s *Store, _ Key) error { return s.SetSettings(ctx, map[string][]byte{"x": []byte("a")}) },
			func(s *Store, _ Key) error { return s.SetSettings(ctx, map[string][]byte{"x": []byte("b")}) },
			[]string{"overwritten setting  value: b, not a"},
		},
		{
			"one name for two devices",
			func(s *Store, _ Key) error { _, err := s.AddDevice(ctx, "new", testKey(1)); return err },
			func(s *Store, _ Key) error { _, err := s.AddDevice(ctx, "new", testKey(2)); return err },
			[]string{"same name device new name: , not "},
		},
		{
			"one key enrolled twice",
			func(s *Store, _ Key) error { _, err := s.AddDevice(ctx, "one", testKey(1)); return err },
			func(s *Store, _ Key) error { _, err := s.AddDevice(ctx, "two", testKey(1)); return err },
			[]string{"overwritten device two name: two, not one"},
		},
		{
			"more than one write on each side, and the last ones agree",
			func(s *Store, k Key) error {
				return errors.Join(s.RenameDevice(ctx, k, "l1"), s.RenameDevice(ctx, k, "both"))
			},
			func(s *Store, k Key) error {
				return errors.Join(s.RenameDevice(ctx, k, "r1"), s.RenameDevice(ctx, k, "both"))
			},
			nil,
		},
		{
			"more than one write on each side",
			func(s *Store, k Key) error {
				return errors.Join(s.RenameDevice(ctx, k, "l1"), s.RenameDevice(ctx, k, "l2"))
			},
			func(s *Store, k Key) error {
				return errors.Join(s.RenameDevice(ctx, k, "r1"), s.RenameDevice(ctx, k, "r2"))
			},
			[]string{"overwritten device r2 name: r2, not l2"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a, b, c, key := split(t)
			check(t, tt.a(a, key))
			check(t, tt.b(b, key))
			converge(t, a, b, c)
			sameConflicts(t, a, b, c)
			if got := conflictsOf(t, c); !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got  %q\nwant %q", got, tt.want)
			}
			same(t, a, b, c)
			sound(t, a)
		})
	}
}

// TestConflictOfAChain is what the stamp of the overwritten cell alone does not tell: the
// writer of the last of two writes is above the other side's, and had not seen it.
func TestConflictOfAChain(t *testing.T) {
	ctx := context.Background()
	a, b, c, key := split(t)
	check(t, a.RenameDevice(ctx, key, "left"))
	check(t, b.RenameDevice(ctx, key, "r1"))
	pull(t, storeState{c}, storeState{b})
	check(t, c.RenameDevice(ctx, key, "r2"))
	pull(t, storeState{a}, storeState{c}) // r1 is never seen here
	if got := conflictsOf(t, a); len(got) != 1 || !strings.HasSuffix(got[0], "r2, not left") {
		t.Errorf("got %q", got)
	}
	check(t, a.RenameDevice(ctx, key, "after")) // an edit after it does not end it
	converge(t, a, b, c)
	if got := sameConflicts(t, a, b, c); len(got) != 1 || got[0].Stands.Text != "after" || got[0].Other.Text != "left" {
		t.Errorf("got %+v", got)
	}
}

// TestSeenIsNoConflict: a deletion whose writer had seen an edit lists nothing where the edit
// stands still, nor does a later edit where an earlier one stands.
func TestSeenIsNoConflict(t *testing.T) {
	ctx := context.Background()
	a, b, c, key := split(t)
	check(t, a.RenameDevice(ctx, key, "one"))
	pull(t, storeState{c}, storeState{a})
	pull(t, storeState{b}, storeState{a})
	check(t, b.RenameDevice(ctx, key, "two"))
	check(t, b.RenameDevice(ctx, key, "three"))
	pull(t, storeState{c}, storeState{b})
	check(t, b.SetPresharedKey(ctx, key, Key{1}))
	pull(t, storeState{a}, storeState{b})
	check(t, a.RemoveDevice(ctx, key))
	converge(t, a, b, c)
	if list := sameConflicts(t, a, b, c); len(list) > 0 {
		t.Errorf("got %+v", list)
	}
}

func TestResolveConflict(t *testing.T) {
	ctx := context.Background()
	for _, other := range []bool{false, true} {
		t.Run(fmt.Sprint("other ", other), func(t *testing.T) {
			a, b, c, key := split(t)
			check(t, a.RenameDevice(ctx, key, "left"))
			check(t, b.RenameDevice(ctx, key, "right"))
			check(t, a.EnableDevice(ctx, key, false))
			converge(t, a, b, c)
			id := sameConflicts(t, a, b, c)[0].ID
			if _, err := c.ResolveConflict(ctx, id[:5], other); !errors.Is(err, ErrNotFound) {
				t.Error(err)
			}
			_, err := c.ResolveConflict(ctx, id[:8], other)
			check(t, err)
			converge(t, a, b, c)
			if left := sameConflicts(t, a, b, c); len(left) > 0 {
				t.Errorf("still %+v", left)
			}
			d, err := a.Device(key)
			check(t, err)
			if want := map[bool]string{false: "right", true: "left"}[other]; d.Name != want || d.Enabled {
				t.Errorf("got %+v, want %s", d, want)
			}
			if _, err := a.ResolveConflict(ctx, id, other); !errors.Is(err, ErrNotFound) {
				t.Error(err)
			}
			same(t, a, b, c)
			sound(t, b)
		})
	}
	t.Run("otherwise on two sides", func(t *testing.T) {
		a, b, c, key := split(t)
		check(t, a.RenameDevice(ctx, key, "left"))
		check(t, b.RenameDevice(ctx, key, "right"))
		converge(t, a, b, c)
		id := sameConflicts(t, a, b, c)[0].ID
		_, err := a.ResolveConflict(ctx, id, true)
		check(t, err)
		_, err = b.ResolveConflict(ctx, id, false)
		check(t, err)
		converge(t, a, b, c)
		if got := sameConflicts(t, a, b, c); len(got) != 1 {
			t.Errorf("got %+v", got)
		}
	})
	t.Run("a taken name", func(t *testing.T) {
		a, b, _, key := split(t)
		check(t, a.RenameDevice(ctx, key, "left"))
		check(t, b.RenameDevice(ctx, key, "right"))
		converge(t, a, b)
		add(t, a, "left", testKey(5))
		var exists *ExistsError
		if _, err := a.ResolveConflict(ctx, sameConflicts(t, a)[0].ID, true); !errors.As(err, &exists) {
			t.Error(err)
		}
	})
	t.Run("no choice", func(t *testing.T) {
		a, b, _, key := split(t)
		add(t, a, "new", testKey(1))
		add(t, b, "new", testKey(2))
		check(t, a.RenameDevice(ctx, key, "left"))
		check(t, b.RemoveDevice(ctx, key))
		converge(t, a, b)
		var choice *ChoiceError
		for _, c := range sameConflicts(t, a, b) {
			if _, err := a.ResolveConflict(ctx, c.ID, true); !errors.As(err, &choice) || choice.Advice == "" {
				t.Errorf("%s: %v", c.Reason, err)
			}
		}
		check(t, b.RenameDevice(ctx, testKey(2), "newer"))
		converge(t, a, b)
		if got := sameConflicts(t, a, b); len(got) != 1 || got[0].Reason != Deleted {
			t.Errorf("got %+v", got)
		}
	})
}

// TestReaddressed: the device that had to take another address is listed.
func TestReaddressed(t *testing.T) {
	a, b := withPool(t, replica(t, 0), "10.0.0.0/28"), replica(t, 1)
	converge(t, a, b)
	for i := range 6 {
		add(t, a, fmt.Sprint("a", i), testKey(i))
		add(t, b, fmt.Sprint("b", i), testKey(10+i))
	}
	converge(t, a, b)
	list := sameConflicts(t, a, b)
	if len(list) == 0 {
		t.Fatal("no address was contested; choose other keys")
	}
	for _, c := range list {
		k, err := ParseKey(c.Ref.ID)
		check(t, err)
		d, err := a.Device(k)
		check(t, err)
		if c.Reason != Readdressed || len(d.Addresses) == 0 || c.Stands.Text != d.Addresses[0].String() || c.Other.Text == c.Stands.Text {
			t.Errorf("got %+v of %+v", c, d)
		}
		_, err = a.ResolveConflict(context.Background(), c.ID, false)
		check(t, err)
	}
	converge(t, a, b)
	if left := sameConflicts(t, a, b); len(left) > 0 {
		t.Errorf("still %+v", left)
	}
	if cs, err := a.Contested(); err != nil || len(cs) > 0 {
		t.Error(cs, err)
	}
}

// TestConflictsAreBounded: the oldest go, the same ones at every replica.
func TestConflictsAreBounded(t *testing.T) {
	ctx := context.Background()
	a, b := replica(t, 0), replica(t, 1)
	const extra = 30
	for i := 0; i < maxConflicts+extra; i += 10 {
		left, right := map[string][]byte{}, map[string][]byte{}
		for j := range 10 {
			left[fmt.Sprint(i+j)], right[fmt.Sprint(i+j)] = []byte("a"), []byte("b")
		}
		check(t, a.SetSettings(ctx, left))
		check(t, b.SetSettings(ctx, right))
	}
	converge(t, a, b)
	list := sameConflicts(t, a, b)
	if len(list) != maxConflicts {
		t.Fatalf("%d listed", len(list))
	}
	for _, c := range list {
		var i int
		if _, err := fmt.Sscan(c.Ref.ID, &i); err != nil || i < extra {
			t.Errorf("setting %s is listed, an old one", c.Ref.ID)
		}
	}
	same(t, a, b)
	sound(t, a)
}

// TestNoLossIsSilent is the law of conflicts. Random renames at replicas that hear of each
// other at random: every name that was written and does not stand was seen by whoever wrote
// over it, or is listed; and what was seen is not.
func TestNoLossIsSilent(t *testing.T) {
	seeds := 60
	if testing.Short() {
		seeds = 10
	}
	for seed := range seeds {
		rnd := rand.New(rand.NewPCG(uint64(seed), 7))
		n := 2 + rnd.IntN(3)
		all := make([]*Store, n)
		knows := make([]map[string]bool, n) // what a replica's value has seen: itself and all before
		for i := range all {
			all[i] = replica(t, i)
			knows[i] = map[string]bool{}
		}
		lost := map[string]bool{} // meant to be listed
		value := func(i int) string {
			v, _, err := all[i].Setting("x")
			check(t, err)
			return string(v)
		}
		history := map[string]map[string]bool{} // of each value: the values that its writer had seen
		meet := func(a, b string) {
			if a != "" && b != "" && a != b && !history[a][b] && !history[b][a] {
				lost[a], lost[b] = true, true // one of the two will be overwritten
			}
		}
		for step := range 30 {
			i, j := rnd.IntN(n), rnd.IntN(n)
			if i == j || rnd.IntN(2) == 0 {
				v := fmt.Sprint(step)
				history[v] = map[string]bool{}
				for o := range knows[i] {
					history[v][o] = true
				}
				check(t, all[i].SetSettings(t.Context(), map[string][]byte{"x": []byte(v)}))
				knows[i][v] = true
				continue
			}
			was, other := value(i), value(j)
			pull(t, storeState{all[i]}, storeState{all[j]})
			meet(was, other)
			if is := value(i); is != was { // what is overwritten unseen stays unseen
				knows[i] = map[string]bool{is: true}
				for o := range history[is] {
					knows[i][o] = true
				}
			}
		}
		for i := range all {
			for j := range all {
				meet(value(i), value(j))
			}
		}
		converge(t, all...)
		stands := value(0)
		delete(lost, stands)
		listed := map[string]bool{}
		for _, c := range sameConflicts(t, all...) {
			listed[c.Other.Text] = true
		}
		for v := range listed {
			if !lost[v] {
				t.Errorf("seed %d: %s is listed, and was seen: %v", seed, v, history)
			}
		}
		for v := range history {
			if v != stands && !listed[v] && !seenBySomebody(v, history) {
				t.Errorf("seed %d: %s was lost in silence", seed, v)
			}
		}
		same(t, all...)
	}
}

func seenBySomebody(v string, history map[string]map[string]bool) bool {
	for _, saw := range history {
		if saw[v] {
			return true
		}
	}
	return false
}

// TestSeen: of each node the newest stamp is named, whatever the order and the grouping.
func TestSeen(t *testing.T) {
	some := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) stamp {
		return stamp{
			rapid.Uint64Range(1, 50).Draw(t, "time"),
			authorOf(testNode(rapid.IntRange(0, maxOver-1).Draw(t, "node")), rapid.Uint64Range(0, 1).Draw(t, "incarnation")),
		}
	}), 0, 40)
	rapid.Check(t, func(t *rapid.T) {
		a, b := some.Draw(t, "a"), some.Draw(t, "b")
		want := seen(a, b)
		if got := seen(seen(b), seen(a), a); !reflect.DeepEqual(got, want) {
			t.Fatalf("got %v, want %v", got, want)
		}
		for _, s := range append(a, b...) {
			if !(&cell{over: want}).saw(&cell{stamp: s}) {
				t.Fatalf("%v is not seen by %v", s, want)
			}
		}
	})
	var many []stamp
	for i := range 3 * maxOver {
		many = append(many, stamp{uint64(i), authorOf(testNode(i), 1)})
	}
	if got := seen(many); len(got) != maxOver || !(&cell{over: got}).saw(&cell{stamp: many[3*maxOver-1]}) {
		t.Errorf("%d stamps, or not the newest", len(got))
	}
}

// FuzzLoss feeds the values of conflicts and tokens: each is refused or shown.
func FuzzLoss(f *testing.F) {
	s := replica(f, 0)
	check(f, s.SetSettings(f.Context(), map[string][]byte{"x": []byte("a")}))
	var l record
	check(f, s.update(f.Context(), func(t *tx) error {
		e, err := t.entity(settingRef("x"))
		l = record{settingRef("x"), e.cells[0]}
		return errors.Join(err, t.listLoss(l))
	}))
	mint(f, s, 1)
	for _, kind := range []string{kindConflict, kindToken} {
		check(f, s.eachEntity(kind, func(_ []byte, e *entity) error {
			f.Add(e.cells[1].value)
			return nil
		}))
	}
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		life := cell{life: 1}
		e := merged(life, cell{field: fieldLost, life: 1, value: b}, cell{field: fieldMint, life: 1, value: b})
		if l, ok := lossOf(e); ok {
			c, _ := l.show("00", &entity{})
			_ = c.Other.At.String()
		}
		if w, ok := mintOf(e); ok {
			_ = tokenOf(TokenID{}, &w, e)
		}
	})
}
