package cluster

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/dgraph-io/badger/v4"
)

// twoYears are three replicas, the first of which has its clock two years ahead, and the
// wall clock of the others. They know a device "phone" and the setting x=0, written by
// the others.
func twoYears(t *testing.T) (fast, a, b *Store, wall *fakeClock, key Key) {
	t.Helper()
	wall = &fakeClock{at: wallStart}
	ahead := func() time.Time { return wall.now().AddDate(2, 0, 0) }
	fast = open(t, Config{Node: testNode(0), Now: ahead})
	a, b = open(t, Config{Node: testNode(1), Now: wall.now}), open(t, Config{Node: testNode(2), Now: wall.now})
	withPool(t, a, "10.0.0.0/24")
	check(t, a.SetSettings(context.Background(), map[string][]byte{"x": []byte("0")}))
	key = testKey(0)
	add(t, a, "phone", key)
	converge(t, fast, a, b)
	return fast, a, b, wall, key
}

// lookThrough has the committer look through what it holds, and returns when it has.
func lookThrough(t *testing.T, s *Store) {
	t.Helper()
	check(t, s.update(context.Background(), func(*tx) error {
		s.ripenAt = time.Time{}
		return nil
	}))
	check(t, s.submit(context.Background(), newRequest(nil)))
}

// shownState is the device and the setting as they are shown.
func shownState(t *testing.T, s *Store, key Key) string {
	t.Helper()
	v, _, err := s.Setting("x")
	check(t, err)
	name := "none"
	if d, err := s.Device(key); err == nil {
		name = fmt.Sprint(d.Name, " ", d.Enabled, " ", len(d.Addresses))
	}
	return fmt.Sprint(string(v), ", ", name)
}

var farEdits = map[string]func(ctx context.Context, s *Store, key Key) error{
	"setting": func(ctx context.Context, s *Store, _ Key) error {
		return s.SetSettings(ctx, map[string][]byte{"x": []byte("far")})
	},
	"name":     func(ctx context.Context, s *Store, key Key) error { return s.RenameDevice(ctx, key, "far") },
	"disabled": func(ctx context.Context, s *Store, key Key) error { return s.EnableDevice(ctx, key, false) },
	"deletion": func(ctx context.Context, s *Store, key Key) error { return s.RemoveDevice(ctx, key) },
	"new": func(ctx context.Context, s *Store, _ Key) error {
		_, err := s.AddDevice(ctx, "newcomer", testKey(1))
		return err
	},
	"new key": func(ctx context.Context, s *Store, key Key) error {
		_, err := s.RekeyDevice(ctx, key, testKey(2))
		return err
	},
}

// TestFutureIsNotShown: what is stamped two years ahead is taken and passed on, not shown
// before its time, shown then, and the same everywhere.
func TestFutureIsNotShown(t *testing.T) {
	for name, edit := range farEdits {
		t.Run(name, func(t *testing.T) {
			fast, a, b, wall, key := twoYears(t)
			before := shownState(t, a, key)
			check(t, edit(context.Background(), fast, key))
			pull(t, storeState{a}, storeState{fast})
			pull(t, storeState{b}, storeState{a})
			for _, s := range []*Store{a, b} {
				if got := shownState(t, s, key); got != before {
					t.Errorf("shows %q, want %q", got, before)
				}
				if s.CountDevices() != 1 {
					t.Errorf("%d devices", s.CountDevices())
				}
				sound(t, s)
			}
			list := sameConflicts(t, a, b)
			if len(list) == 0 || list[len(list)-1].Reason != Future || list[len(list)-1].Other.Node != testNode(0) {
				t.Errorf("got %+v", list)
			}
			wall.set(wall.now().AddDate(2, 0, 1))
			for _, s := range []*Store{a, b} {
				lookThrough(t, s)
			}
			converge(t, fast, a, b)
			if got, want := shownState(t, b, key), shownState(t, fast, key); got != want || got == before && name != "new" {
				t.Errorf("then shows %q, want %q", got, want)
			}
			if list := sameConflicts(t, a, b); len(list) > 0 {
				t.Errorf("still %+v", list)
			}
			same(t, fast, a, b)
			sound(t, a)
		})
	}
}

// TestEditsBeatTheFuture: an edit by a gateway that holds a cell of the far future wins over it
// now and for ever, is no cell of the far future itself, and so do the edits after it.
func TestEditsBeatTheFuture(t *testing.T) {
	ctx := context.Background()
	for name, edit := range farEdits {
		t.Run(name, func(t *testing.T) {
			fast, a, b, wall, key := twoYears(t)
			check(t, edit(ctx, fast, key))
			converge(t, fast, a, b)
			now := func(s *Store, name string) {
				check(t, s.SetSettings(ctx, map[string][]byte{"x": []byte(name)}))
				check(t, s.RenameDevice(ctx, key, name))
				check(t, s.EnableDevice(ctx, key, true))
				converge(t, a, b) // without the one whose clock is wrong
				for _, s := range []*Store{a, b} {
					if got, want := shownState(t, s, key), name+", "+name+" true 2"; got != want {
						t.Errorf("shows %q, want %q", got, want)
					}
					sound(t, s)
				}
			}
			now(b, "now")
			now(a, "later")
			for _, s := range []*Store{a, b} {
				_, isSetting := s.heldFor(t, settingRef("x"))
				_, isDevice := s.heldFor(t, deviceRef(key))
				if isSetting || isDevice {
					t.Error("something of what was edited is held still")
				}
			}
			wall.set(wall.now().AddDate(2, 0, 1))
			converge(t, fast, a, b)
			if got, want := shownState(t, fast, key), "later, later true 2"; got != want {
				t.Errorf("the one with the wrong clock shows %q, want %q", got, want)
			}
		})
	}
}

func (s *Store) heldFor(t *testing.T, r ref) (e *entity, held bool) {
	t.Helper()
	check(t, s.update(context.Background(), func(tx *tx) (err error) {
		e, err = tx.entity(r)
		held = tx.held[r] != nil
		return err
	}))
	return e, held
}

func TestResolveFuture(t *testing.T) {
	ctx := context.Background()
	for name, edit := range farEdits {
		for _, other := range []bool{false, true} {
			t.Run(fmt.Sprint(name, " other ", other), func(t *testing.T) {
				fast, a, b, _, key := twoYears(t)
				before := shownState(t, a, key)
				check(t, edit(ctx, fast, key))
				after := shownState(t, fast, key)
				converge(t, fast, a, b)
				for { // a new key is two entities
					list := sameConflicts(t, a, b)
					if len(list) == 0 {
						break
					}
					_, err := a.ResolveConflict(ctx, list[0].ID, other)
					check(t, err)
					converge(t, fast, a, b)
				}
				want := before
				if other {
					want = after
				}
				for _, s := range []*Store{fast, a, b} {
					if got := shownState(t, s, key); got != want {
						t.Errorf("shows %q, want %q", got, want)
					}
					sound(t, s)
				}
				same(t, fast, a, b)
			})
		}
	}
}

// TestHeldSurvivesARestart: what is not shown is not shown after a restart either, and a
// second cell of the far future does not bring the first one up.
func TestHeldSurvivesARestart(t *testing.T) {
	ctx := context.Background()
	fast, a, _, wall, key := twoYears(t)
	dir := t.TempDir()
	s, stop := start(t, Config{Dir: dir, Node: testNode(5), Now: wall.now})
	pull(t, storeState{s}, storeState{a})
	for i := range 2 {
		check(t, fast.RenameDevice(ctx, key, fmt.Sprint("far", i)))
		pull(t, storeState{s}, storeState{fast})
	}
	stop()
	s = open(t, Config{Dir: dir, Node: testNode(5), Now: wall.now})
	if got, want := shownState(t, s, key), "0, phone true 2"; got != want {
		t.Errorf("shows %q, want %q", got, want)
	}
	if s.held == 0 {
		t.Error("nobody would look for what has become due")
	}
	if _, err := s.FindDevice("far1"); err == nil {
		t.Error("the index knows what is not shown")
	}
	sound(t, s)
}

// TestFuturesRipenOneByOne: of two cells of the far future the one whose time has come is
// shown, the other not.
func TestFuturesRipenOneByOne(t *testing.T) {
	ctx := context.Background()
	fast, a, _, wall, key := twoYears(t)
	faster := open(t, Config{Node: testNode(7), Now: func() time.Time { return wall.now().AddDate(4, 0, 0) }})
	pull(t, storeState{faster}, storeState{a})
	check(t, fast.RenameDevice(ctx, key, "far"))
	check(t, faster.EnableDevice(ctx, key, false))
	pull(t, storeState{a}, storeState{fast})
	pull(t, storeState{a}, storeState{faster})
	for _, tt := range []struct {
		years int
		want  string
	}{{0, "0, phone true 2"}, {2, "0, far true 2"}, {2, "0, far false 2"}} {
		if tt.years > 0 {
			wall.set(wall.now().AddDate(tt.years, 0, 1))
		}
		lookThrough(t, a)
		if got := shownState(t, a, key); got != tt.want {
			t.Errorf("after %d years: shows %q, want %q", tt.years, got, tt.want)
		}
		sound(t, a)
	}
}

// TestDropWhatIsHeld: what is dropped is not shown any more either, and when nothing of the far future is left, nothing is
// held.
func TestDropWhatIsHeld(t *testing.T) {
	fast, a, b, _, key := twoYears(t)
	r, psk := deviceRef(key), Key{5}
	check(t, a.SetPresharedKey(t.Context(), key, psk))
	converge(t, a, fast)
	check(t, fast.RenameDevice(t.Context(), key, "far"))
	converge(t, fast, a, b)
	drop := func(field string) {
		t.Helper()
		check(t, b.update(t.Context(), func(t *tx) error {
			e, err := t.entity(r)
			if err != nil {
				return err
			}
			return t.dropAll([]record{{r, *e.get(field)}})
		}))
		sound(t, b)
	}
	drop(fieldPSK)
	if d, err := b.Device(key); err != nil || d.PresharedKey != (Key{}) || d.Name != "phone" {
		t.Errorf("shows %+v %v without the key", d, err)
	}
	drop(fieldName)
	check(t, b.view(func(txn *badger.Txn) error {
		if h, err := (snapshot{txn}).get(heldKey(r)); h != nil || err != nil {
			t.Errorf("holds %x %v", h, err)
		}
		return nil
	}))
	drop("")
	if b.CountDevices() != 0 {
		t.Error("counts a device that is no more")
	}
}
