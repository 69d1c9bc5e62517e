package cluster

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/dgraph-io/badger/v4"
	"pgregory.net/rapid"
)

// crew is members of one cluster, on one fake wall clock.
type crew struct {
	t     *testing.T
	clock *fakeClock
	all   []*Store
}

// newCrew returns n members that have one state.
func newCrew(t *testing.T, n int) *crew {
	c := &crew{t: t, clock: &fakeClock{at: wallStart}}
	for i := range n {
		c.all = append(c.all, open(t, Config{Node: memberNode(i), Now: c.clock.now}))
		check(t, c.all[0].Admit(context.Background(), memberAdmission(i)))
	}
	withPool(t, c.all[0], "10.0.0.0/24")
	converge(t, c.all...)
	c.round(c.all...)
	converge(t, c.all...)
	return c
}

func memberNode(i int) Node { return NodeOf(memberAdmission(i).Key) }

func memberAdmission(i int) Admission {
	return Admission{Key: testSigner(i).Public().(ed25519.PublicKey), At: wallStart}
}

// round lets the given members acknowledge what they have, and tell one another.
func (c *crew) round(some ...*Store) {
	c.t.Helper()
	for _, s := range some {
		check(c.t, s.Collect(context.Background(), DefaultHorizon))
	}
	converge(c.t, some...)
}

// counts returns how many markers each has.
func (c *crew) counts() (ns []int) {
	c.t.Helper()
	for _, s := range c.all {
		n := 0
		check(c.t, s.markers(func(marker) bool { n++; return true }))
		ns = append(ns, n)
	}
	return ns
}

func (c *crew) want(what string, ns ...int) {
	c.t.Helper()
	settled(c.all)
	if got := c.counts(); !slices.Equal(got, ns) {
		c.t.Fatalf("%s: markers %v, want %v", what, got, ns)
	}
}

func (c *crew) remove(s *Store, i int) {
	c.t.Helper()
	check(c.t, s.RemoveDevice(context.Background(), testKey(i)))
	c.clock.move(time.Second) // beyond its life
}

// gone fails unless nobody has the device.
func (c *crew) gone(i int) {
	c.t.Helper()
	for n, s := range c.all {
		if _, err := s.Device(testKey(i)); !errors.Is(err, ErrNotFound) {
			c.t.Fatalf("device %d came back at member %d: %v", i, n, err)
		}
	}
}

func (c *crew) equal() {
	c.t.Helper()
	converge(c.t, c.all...)
	same(c.t, c.all...)
	for _, s := range c.all {
		sound(c.t, s)
	}
}

// TestCollect: a marker goes when the last member has acknowledged it, not before, and the device may live again.
func TestCollect(t *testing.T) {
	c := newCrew(t, 3)
	a, b, away := c.all[0], c.all[1], c.all[2]
	add(t, a, "laptop", testKey(0))
	add(t, a, "phone", testKey(1))
	c.equal()
	c.remove(b, 0)
	c.round(a, b)
	c.round(a, b)
	c.want("one has not heard of it", 1, 1, 0)
	converge(t, c.all...)
	c.want("one has not acknowledged it", 1, 1, 1)
	check(t, away.Collect(context.Background(), DefaultHorizon))
	converge(t, c.all...)
	c.want("all have", 0, 0, 0)
	c.equal()
	c.gone(0)
	digest := a.Digest()
	c.round(c.all...)
	if !bytes.Equal(digest, a.Digest()) {
		t.Error("a round in which nothing is new wrote something")
	}
	add(t, away, "laptop", testKey(0))
	c.equal()
	if d, err := a.Device(testKey(0)); err != nil || d.Name != "laptop" {
		t.Error(d, err)
	}
}

// TestCollectedStaysAway: parts that were under way when a marker was collected, and a member that has not collected yet,
// bring nothing back.
func TestCollectedStaysAway(t *testing.T) {
	c := newCrew(t, 3)
	a, b, late := c.all[0], c.all[1], c.all[2]
	add(t, a, "laptop", testKey(0))
	alive := parts(t, storeState{a}, b.Digest())
	c.equal()
	c.remove(a, 0)
	dead := parts(t, storeState{a}, b.Digest())
	c.equal()
	check(t, a.Collect(context.Background(), 0))
	check(t, b.Collect(context.Background(), 0))
	check(t, late.Collect(context.Background(), 0))
	converge(t, a, b)
	pull(t, storeState{a}, storeState{late})
	c.want("a knows it of all", 0, 1, 1)
	for _, p := range append(alive, dead...) {
		_, err := a.Merge(p)
		check(t, err)
	}
	pull(t, storeState{a}, storeState{late})
	c.want("it came again", 0, 1, 1)
	c.equal()
	c.want("all know", 0, 0, 0)
	c.gone(0)
}

// TestNewLifeUnderOldMarker: a device is enrolled again where its marker was collected, while another member still has
// it: by a clock that was an hour fast.
func TestNewLifeUnderOldMarker(t *testing.T) {
	c := newCrew(t, 2)
	a, b := c.all[0], c.all[1]
	add(t, a, "phone", testKey(1))
	ahead := &fakeClock{at: wallStart.Add(time.Hour)}
	fast := open(t, Config{Node: memberNode(2), Now: ahead.now})
	check(t, a.Admit(context.Background(), memberAdmission(2)))
	c.all = append(c.all, fast)
	c.equal()
	c.round(c.all...)
	add(t, fast, "laptop", testKey(0))
	c.remove(fast, 0)
	c.equal()
	c.round(c.all...)
	c.round(c.all...)
	c.want("its life is ahead of the others' clocks", 1, 1, 1)
	c.clock.set(wallStart.Add(2 * time.Hour))
	ahead.set(wallStart.Add(3 * time.Hour))
	for _, s := range c.all {
		check(t, s.Collect(context.Background(), 0))
	}
	pull(t, storeState{a}, storeState{b})
	pull(t, storeState{a}, storeState{fast})
	c.want("a knows it of all", 0, 1, 1)
	add(t, a, "laptop", testKey(0))
	c.equal()
	if _, err := b.Device(testKey(0)); err != nil {
		t.Error("the new life was lost:", err)
	}
}

// TestNewcomerAfterCollection: one has forgotten a deletion and admits a newcomer, which never hears of it; another has
// not, and waits for the newcomer. The author of the marker has nothing else that stands.
func TestNewcomerAfterCollection(t *testing.T) {
	ctx := context.Background()
	c := newCrew(t, 2)
	dir := t.TempDir()
	author, stop := start(t, Config{Dir: dir, Node: memberNode(2), Now: c.clock.now})
	check(t, c.all[0].Admit(ctx, memberAdmission(2)))
	add(t, c.all[0], "phone", testKey(1))
	add(t, c.all[0], "laptop", testKey(0))
	converge(t, append(slices.Clone(c.all), author)...)
	c.remove(author, 0)
	converge(t, append(slices.Clone(c.all), author)...)
	stop()
	c.all = append(c.all, open(t, Config{Dir: dir, Node: memberNode(2), Now: c.clock.now}))
	first, late := c.all[0], c.all[1]
	for _, s := range c.all {
		check(t, s.Collect(ctx, 0))
	}
	pull(t, storeState{first}, storeState{late})
	pull(t, storeState{first}, storeState{c.all[2]})
	c.want("one knows it of all", 0, 1, 1)
	check(t, first.Admit(ctx, memberAdmission(3)))
	newcomer := open(t, Config{Node: memberNode(3), Now: c.clock.now})
	pull(t, storeState{newcomer}, storeState{first})
	c.all = append(c.all, newcomer)
	pull(t, storeState{late}, storeState{newcomer})
	c.want("one waits for the newcomer", 0, 1, 1, 0)
	for range 2 {
		for _, s := range c.all {
			check(t, s.Collect(ctx, 0))
		}
		pull(t, storeState{late}, storeState{newcomer})
	}
	c.equal()
	c.want("all know", 0, 0, 0, 0)
}

// TestAcknowledgementsAreAwaited: what a member acknowledged does not count before all is here that it knew then.
func TestAcknowledgementsAreAwaited(t *testing.T) {
	ctx := context.Background()
	c := newCrew(t, 2)
	a, b := c.all[0], c.all[1]
	add(t, a, "laptop", testKey(0))
	c.equal()
	c.remove(b, 0)
	pull(t, storeState{a}, storeState{b})
	check(t, b.Collect(ctx, 0))
	check(t, a.Admit(ctx, memberAdmission(2)))
	for i := range 12 {
		check(t, a.SetSettings(ctx, map[string][]byte{fmt.Sprint(i): make([]byte, 60<<10)}))
	}
	check(t, a.Collect(ctx, 0))
	all := parts(t, storeState{a}, b.Digest())
	for _, p := range all[1:] {
		behind, err := b.Merge(p)
		check(t, err)
		if !behind {
			t.Fatal("not behind")
		}
	}
	c.want("somebody may have been admitted", 1, 1)
}

// TestEvictedHoldsUpNothing: a member that was evicted is not waited for.
func TestEvictedHoldsUpNothing(t *testing.T) {
	c := newCrew(t, 3)
	a, b := c.all[0], c.all[1]
	add(t, a, "laptop", testKey(0))
	c.equal()
	c.remove(b, 0)
	c.round(a, b)
	c.round(a, b)
	c.want("it is a member", 1, 1, 0)
	check(t, a.Evict(context.Background(), memberNode(2)))
	if _, ok, _ := a.Admitted(memberNode(2)); ok {
		t.Error("still admitted")
	}
	c.round(a, b)
	c.round(a, b)
	c.want("it is none", 0, 0, 0)
}

// TestHorizon: a member comes back after 31 days. What was deleted and forgotten meanwhile does not come back with it,
// what it wrote alone is not lost, and it is waited for again.
func TestHorizon(t *testing.T) {
	c := newCrew(t, 3)
	a, b, away := c.all[0], c.all[1], c.all[2]
	for i := range 3 {
		add(t, a, fmt.Sprint("d", i), testKey(i))
	}
	c.equal()
	c.remove(b, 0)
	check(t, away.RenameDevice(context.Background(), testKey(0), "old"))
	check(t, away.RenameDevice(context.Background(), testKey(1), "mine"))
	add(t, away, "new", testKey(7))
	c.clock.move(29 * 24 * time.Hour)
	c.round(a, b)
	c.round(a, b)
	c.want("29 days", 1, 1, 0)
	c.clock.move(2 * 24 * time.Hour)
	c.round(a, b)
	c.round(a, b)
	c.want("31 days", 0, 0, 0)
	pull(t, storeState{a}, storeState{away}) // it speaks first
	if _, err := a.Device(testKey(0)); !errors.Is(err, ErrNotFound) {
		t.Fatal("it came back with the member that was away")
	}
	c.equal()
	c.gone(0)
	for _, name := range []string{"mine", "new", "d2"} {
		if _, err := b.FindDevice(name); err != nil {
			t.Error(err)
		}
	}
	c.round(c.all...)
	c.round(c.all...)
	c.want("edits of what is gone are collected", 0, 0, 0)
	c.remove(a, 2)
	c.round(a, b)
	c.round(a, b)
	c.want("it is waited for again", 1, 1, 0)
}

// TestSplitBeyondHorizon: each half of a split leaves the other out and forgets what it deleted; they end equal.
func TestSplitBeyondHorizon(t *testing.T) {
	c := newCrew(t, 4)
	one, two := c.all[:2], c.all[2:]
	for i := range 5 {
		add(t, one[0], fmt.Sprint("d", i), testKey(i))
	}
	c.equal()
	c.remove(one[0], 0)
	c.remove(two[0], 1)
	check(t, one[1].RenameDevice(context.Background(), testKey(2), "one"))
	check(t, two[1].RenameDevice(context.Background(), testKey(3), "two"))
	c.clock.move(31 * 24 * time.Hour)
	for range 3 {
		c.round(one...)
		c.round(two...)
	}
	c.want("both have forgotten", 0, 0, 0, 0)
	c.equal()
	c.gone(0)
	c.gone(1)
	for _, name := range []string{"one", "two", "d4"} {
		if _, err := one[0].FindDevice(name); err != nil {
			t.Error(err)
		}
	}
}

// rollback returns a store that has what another had, in a new incarnation.
func rollback(t *testing.T, s *Store, now func() time.Time) (revive func() *Store) {
	t.Helper()
	group := overlay{}
	check(t, s.view(func(txn *badger.Txn) error {
		it := txn.NewIterator(badger.DefaultIteratorOptions)
		defer it.Close()
		for it.Rewind(); it.Valid(); it.Next() {
			v, err := it.Item().ValueCopy(nil)
			if err != nil {
				return err
			}
			group[string(it.Item().KeyCopy(nil))] = append([]byte{}, v...)
		}
		return nil
	}))
	return func() *Store {
		dir := t.TempDir()
		old, err := Open(Config{Dir: dir, Node: s.node, Now: now, Log: quiet})
		check(t, err)
		check(t, old.flush(group))
		check(t, old.Close())
		return open(t, Config{Dir: dir, Node: s.node, Now: now})
	}
}

// TestRolledBackMember: a disk is put back to before a deletion that its member acknowledged and all forgot.
func TestRolledBackMember(t *testing.T) {
	c := newCrew(t, 3)
	add(t, c.all[0], "laptop", testKey(0))
	add(t, c.all[0], "phone", testKey(1))
	c.equal()
	revive := rollback(t, c.all[2], c.clock.now)
	c.remove(c.all[0], 0)
	c.equal()
	c.round(c.all...)
	c.round(c.all...)
	c.want("all forgot", 0, 0, 0)
	c.all[2] = revive()
	check(t, c.all[2].RenameDevice(context.Background(), testKey(1), "mine"))
	pull(t, storeState{c.all[0]}, storeState{c.all[2]})
	if _, err := c.all[0].Device(testKey(0)); !errors.Is(err, ErrNotFound) {
		t.Fatal("it came back with the old disk")
	}
	c.equal()
	c.gone(0)
	if _, err := c.all[1].FindDevice("mine"); err != nil {
		t.Error(err)
	}
}

// TestForeign: a backup in the place of a new member, from before a deletion that all forgot.
func TestForeign(t *testing.T) {
	ctx := context.Background()
	c := newCrew(t, 2)
	add(t, c.all[0], "laptop", testKey(0))
	c.equal()
	backup := parts(t, storeState{c.all[0]}, nil)
	c.remove(c.all[0], 0)
	c.round(c.all...)
	c.round(c.all...)
	c.want("all forgot", 0, 0)
	restored := open(t, Config{Node: memberNode(2), Now: c.clock.now})
	for _, p := range backup {
		_, err := restored.Merge(p)
		check(t, err)
	}
	check(t, restored.MarkForeign(ctx))
	check(t, restored.Admit(ctx, memberAdmission(2)))
	check(t, restored.SetSettings(ctx, map[string][]byte{"x": []byte("new")}))
	c.all = append(c.all, restored)
	pull(t, storeState{c.all[0]}, storeState{restored})
	c.equal()
	c.gone(0)
	if v, _, _ := c.all[1].Setting("x"); string(v) != "new" {
		t.Error("what it wrote is lost")
	}
	c.round(c.all...)
	add(t, c.all[0], "phone", testKey(1))
	pull(t, storeState{restored}, storeState{c.all[0]})
	if restored.whole.wanted() || restored.whole.isForeign() {
		t.Error("it still wants a whole delta")
	}
}

// TestStable is the law of the cut: nobody who is counted has less, and it is the greatest such.
func TestStable(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		all := members{}
		for i := range rapid.IntRange(0, 4).Draw(t, "members") {
			a := ack{author: authorOf(testNode(i), 1), have: vector{}}
			a.seq = rapid.Uint64Range(0, 3).Draw(t, "seq")
			for j := range 4 {
				if seq := rapid.Uint64Range(0, 4).Draw(t, "have"); seq > 0 {
					a.have[authorOf(testNode(j), 1)] = seq
				}
			}
			for j := range 4 {
				if a.seq > 0 && rapid.IntRange(0, 3).Draw(t, "without") == 0 {
					by := rapid.IntRange(0, 3).Draw(t, "by")
					a.without = append(a.without, absence{testNode(j), authorOf(testNode(by), 1), rapid.Uint64Range(1, 4).Draw(t, "since")})
				}
			}
			all[testNode(i)] = a
		}
		cut, counted := all.stable(), all.counted()
		for j := range 4 {
			a := authorOf(testNode(j), 1)
			low := uint64(1 << 62)
			for _, n := range counted {
				low = min(low, all[n].have[a])
			}
			if len(counted) == 0 {
				low = 0
			}
			if cut[a] != low {
				t.Fatalf("%d of %v, want %d", cut[a], cut, low)
			}
		}
		for n, own := range all {
			left := false
			for by, a := range all {
				for _, o := range a.without {
					left = left || by != n && o.node == n && own.have[o.author] < o.seq
				}
			}
			if left == slices.Contains(counted, n) {
				t.Fatalf("member %v: left out %v, counted %v", n, left, counted)
			}
		}
	})
}

func FuzzAck(f *testing.F) {
	b, err := ack{have: vector{authorOf(testNode(0), 1): 7}, without: []absence{{node: testNode(1)}}}.encode()
	check(f, err)
	f.Add(b)
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > MaxValue {
			return
		}
		a := ackOf(&entity{cells: []cell{{field: fieldHave, seq: 1, value: b}}})
		if len(a.have) > maxAuthors || len(a.without) > MaxValue/len(Node{}) {
			t.Fatal(len(a.have), len(a.without))
		}
	})
}

var collections = flag.Int("cluster.collections", 20, "how many seeds TestCollectHistories runs")

// TestCollectHistories runs random histories in which members are cut off, for longer than the horizon too, come back,
// lose what their disk had last, and collect. In the end each has what the join of every cell ever written says, but for
// the markers, and those are gone.
func TestCollectHistories(t *testing.T) {
	for seed := range *collections {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			collectHistory(t, rand.New(rand.NewPCG(uint64(seed), 7)))
		})
	}
}

func collectHistory(t *testing.T, rnd *rand.Rand) {
	c := newCrew(t, 3+rnd.IntN(2))
	n := len(c.all)
	written := map[author]map[uint64][]record{}
	side := make([]int, n)
	var revive func() *Store
	old := 0
	for range 120 {
		i, j := rnd.IntN(n), rnd.IntN(n)
		switch k := rnd.IntN(20); {
		case k == 0:
			for m := range side {
				side[m] = rnd.IntN(2)
			}
		case k == 1:
			clear(side)
		case k == 2:
			c.clock.move(time.Duration(rnd.IntN(20)) * 24 * time.Hour)
		case k == 3 && revive == nil:
			old, revive = i, rollback(t, c.all[i], c.clock.now)
		case k == 4 && revive != nil && rnd.IntN(3) == 0:
			next := (old + 1) % n
			side[next] = side[old]
			for range 3 { // what it wrote is known to another
				pull(t, storeState{c.all[next]}, storeState{c.all[old]})
			}
			if c.all[next].whole.wanted() {
				continue
			}
			c.all[old], revive = revive(), nil
		case k < 10:
			check(t, randomWrite(rnd, c.all[i], 6))
			check(t, journal(c.all[i], written))
		case k < 13:
			check(t, c.all[i].Collect(context.Background(), DefaultHorizon))
		case i != j && side[i] == side[j]:
			pull(t, storeState{c.all[i]}, storeState{c.all[j]})
		}
		for _, s := range c.all {
			check(t, journal(s, written))
		}
	}
	c.equal()
	for range 4 {
		c.clock.move(time.Hour)
		c.round(c.all...)
	}
	c.equal()
	for _, s := range c.all {
		check(t, journal(s, written))
	}
	c.want("after quiet", make([]int, n)...)
	joined(t, c.all[0], written)
}

// joined fails unless a store has what the join of all cells says, but for markers.
func joined(t *testing.T, s *Store, written map[author]map[uint64][]record) {
	t.Helper()
	want := map[ref]*entity{}
	for _, bySeq := range written {
		for _, rs := range bySeq {
			for _, r := range rs {
				if want[r.ref] == nil {
					want[r.ref] = &entity{}
				}
				want[r.ref].merge(r.cell)
			}
		}
	}
	check(t, s.view(func(txn *badger.Txn) error {
		for r, e := range want {
			got, err := readEntity(snapshot{txn}, r)
			if err != nil {
				return err
			}
			if e.isMarker() {
				e = &entity{}
			}
			for _, c := range e.cells {
				if g := got.get(c.field); g == nil || g.compare(&c) < 0 {
					t.Errorf("%q %q is %v, want life %d rank %d %v", r, c.field, g, c.life, c.rank, c.value)
				}
			}
			if len(e.cells) == 0 && len(got.cells) > 0 {
				t.Errorf("%q came back", r)
			}
		}
		return nil
	}))
}
