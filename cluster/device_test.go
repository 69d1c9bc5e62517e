package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dgraph-io/badger/v4"
)

func TestDevices(t *testing.T) {
	ctx := context.Background()
	s := withPool(t, replica(t, 0), "10.0.0.0/24")
	d := add(t, s, "phone", testKey(0))
	if len(d.Addresses) != 2 || !d.Addresses[0].Is4() || !d.Addresses[1].Is6() || !d.Enabled || d.Created.IsZero() {
		t.Errorf("got %+v", d)
	}
	got, err := s.Device(d.Key)
	check(t, err)
	if fmt.Sprint(got) != fmt.Sprint(d) {
		t.Errorf("got %v, want %v", got, d)
	}
	for _, a := range d.Addresses {
		if got, err := s.DeviceByAddress(a); err != nil || got.Key != d.Key {
			t.Errorf("device of %s is %v, %v", a, got, err)
		}
	}
	var exists *ExistsError
	if _, err := s.AddDevice(ctx, "phone", testKey(1)); !errors.As(err, &exists) || exists.Field != "name" || exists.ID != KeyString(d.Key) {
		t.Error(err)
	}
	if _, err := s.AddDevice(ctx, "other", d.Key); !errors.As(err, &exists) || exists.Field != "key" {
		t.Error(err)
	}
	if _, err := s.AddDevice(ctx, "zero", Key{}); !errors.Is(err, ErrInvalidKey) {
		t.Error(err)
	}
	psk := Key{1, 2, 3}
	check(t, s.SetPresharedKey(ctx, d.Key, psk))
	check(t, s.RenameDevice(ctx, d.Key, "tablet"))
	if got, _ := s.Device(d.Key); got.Name != "tablet" || got.PresharedKey != psk {
		t.Errorf("got %+v", got)
	}
	check(t, s.SetPresharedKey(ctx, d.Key, Key{}))
	if got, _ := s.Device(d.Key); got.PresharedKey != (Key{}) {
		t.Error("preshared key still there")
	}
	add(t, s, "phone", testKey(1))
	if err := s.RenameDevice(ctx, d.Key, "phone"); !errors.As(err, &exists) {
		t.Error(err)
	}
	check(t, s.RemoveDevice(ctx, d.Key))
	for _, err := range []error{
		s.RemoveDevice(ctx, d.Key), s.RenameDevice(ctx, d.Key, "x"), s.EnableDevice(ctx, d.Key, true),
		s.SetPresharedKey(ctx, d.Key, psk), second(s.Device(d.Key)), second(s.DeviceByAddress(d.Addresses[0])),
		second(s.FindDevice("tablet")), second(s.RekeyDevice(ctx, d.Key, testKey(5))),
	} {
		if !errors.Is(err, ErrNotFound) {
			t.Error(err)
		}
	}
	if s.CountDevices() != 1 {
		t.Errorf("%d devices", s.CountDevices())
	}
	sound(t, s)
}

func second[T any](_ T, err error) error { return err }

func TestNames(t *testing.T) {
	for name, ok := range map[string]bool{
		"a": true, "A-1_b.c": true, "9": true, strings.Repeat("x", 63): true,
		"": false, "-a": false, "a-": false, ".": false, "a b": false, "ü": false, "a/b": false, "a\x00": false,
		strings.Repeat("x", 64): false,
	} {
		var bad *NameError
		if err := checkName(name); (err == nil) != ok || err != nil && !errors.As(err, &bad) {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestNoPool(t *testing.T) {
	ctx := context.Background()
	s := replica(t, 0)
	for _, set := range []map[string][]byte{
		nil,
		{"pool": []byte("10.0.0.0/24")},
		{"ula": []byte("fd00::/48")},
		{"ula": []byte("nonsense")},
		{"ula": []byte("fd00::/64"), "pool": []byte("10.0.0.0/31")},
	} {
		check(t, s.SetSettings(ctx, set))
		if _, err := s.AddDevice(ctx, "a", testKey(0)); !errors.Is(err, ErrNoPool) {
			t.Errorf("%v: %v", set, err)
		}
	}
}

func TestPoolFull(t *testing.T) {
	ctx := context.Background()
	s := withPool(t, replica(t, 0), "10.0.0.8/29")
	seen := map[string]bool{}
	for i := range 5 {
		seen[add(t, s, fmt.Sprint("d", i), testKey(i)).Addresses[0].String()] = true
	}
	for _, a := range []string{"10.0.0.10", "10.0.0.11", "10.0.0.12", "10.0.0.13", "10.0.0.14"} {
		if !seen[a] {
			t.Errorf("%s was not given", a)
		}
	}
	if _, err := s.AddDevice(ctx, "more", testKey(9)); !errors.Is(err, ErrPoolFull) {
		t.Error(err)
	}
	check(t, s.RemoveDevice(ctx, testKey(2)))
	add(t, s, "more", testKey(9))
	sound(t, s)
}

func TestOrderAndFind(t *testing.T) {
	ctx := context.Background()
	a, b := withPool(t, replica(t, 0), "10.0.0.0/16"), replica(t, 1)
	pull(t, storeState{b}, storeState{a})
	want := []string{"alpha", "beta", "b", "z.z", "B", "10"}
	for i, name := range want {
		add(t, a, name, testKey(i))
	}
	slices.Sort(want)
	var got []string
	for d, err := range a.Devices() {
		check(t, err)
		got = append(got, d.Name)
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	for range a.Devices() {
		break // a consumer may stop
	}
	full := KeyString(testKey(3))
	for _, text := range []string{"z.z", full, full[:6], full[:11], full[:43]} {
		if d, err := a.FindDevice(text); err != nil || d.Key != testKey(3) {
			t.Errorf("%q: %v, %v", text, d, err)
		}
	}
	for _, text := range []string{"", full[:5], "nobody", "AAAAAAAA", full + "=", "!!!!!!!!", strings.Repeat("A", 64)} {
		if _, err := a.FindDevice(text); !errors.Is(err, ErrNotFound) {
			t.Errorf("%q: %v", text, err)
		}
	}
	// The same name on two sides of a split is legal, and then ambiguous.
	add(t, a, "twin", testKey(20))
	add(t, b, "twin", testKey(21))
	converge(t, a, b)
	same(t, a, b)
	ids := []string{KeyString(testKey(20)), KeyString(testKey(21))}
	slices.Sort(ids)
	var ambiguous *AmbiguousError
	if _, err := b.FindDevice("twin"); !errors.As(err, &ambiguous) || !slices.Equal(ambiguous.IDs, ids) || ambiguous.Name != "twin" {
		t.Error(err)
	}
	check(t, b.RenameDevice(ctx, testKey(20), "other"))
	if d, err := b.FindDevice("twin"); err != nil || d.Key != testKey(21) {
		t.Error(d, err)
	}
}

func TestRekey(t *testing.T) {
	ctx := context.Background()
	a, b := withPool(t, replica(t, 0), "10.0.0.0/24"), replica(t, 1)
	d := add(t, a, "phone", testKey(0))
	check(t, a.SetPresharedKey(ctx, d.Key, Key{7}))
	check(t, a.EnableDevice(ctx, d.Key, false))
	got, err := a.RekeyDevice(ctx, testKey(0), testKey(1))
	check(t, err)
	want := d
	want.Key, want.PresharedKey, want.Enabled = testKey(1), Key{7}, false
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", got, want)
	}
	pull(t, storeState{b}, storeState{a})
	got, err = b.Device(testKey(1))
	check(t, err)
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", got, want)
	}
	// The old key enrolled again gets addresses of its own.
	again := add(t, a, "again", testKey(0))
	if again.Addresses[0] == got.Addresses[0] || again.Addresses[1] == got.Addresses[1] {
		t.Errorf("addresses %v twice", again.Addresses)
	}
	var exists *ExistsError
	if _, err := a.RekeyDevice(ctx, testKey(0), testKey(1)); !errors.As(err, &exists) {
		t.Error(err)
	}
	converge(t, a, b)
	same(t, a, b)
	sound(t, a)
}

// TestDisabling: a disabling outlives every enabling that had not seen it.
func TestDisabling(t *testing.T) {
	ctx := context.Background()
	setup := func() (a, b *Store, k Key) {
		a, b = withPool(t, replica(t, 0), "10.0.0.0/24"), replica(t, 1)
		k = add(t, a, "phone", testKey(0)).Key
		converge(t, a, b)
		return a, b, k
	}
	on := func(s *Store, k Key) bool {
		d, err := s.Device(k)
		check(t, err)
		return d.Enabled
	}
	t.Run("disable and enable elsewhere", func(t *testing.T) {
		a, b, k := setup()
		check(t, a.EnableDevice(ctx, k, false))
		converge(t, a, b)
		if on(b, k) {
			t.Error("enabled")
		}
		check(t, b.EnableDevice(ctx, k, true))
		converge(t, a, b)
		if !on(a, k) || !on(b, k) {
			t.Error("an enabling that saw the disabling has no effect")
		}
	})
	t.Run("disabled on both sides, enabled on one", func(t *testing.T) {
		a, b, k := setup()
		check(t, a.EnableDevice(ctx, k, false))
		check(t, b.EnableDevice(ctx, k, false))
		check(t, b.EnableDevice(ctx, k, true))
		converge(t, a, b)
		if on(a, k) || on(b, k) {
			t.Error("the disabling that nobody lifted is gone")
		}
		check(t, b.EnableDevice(ctx, k, true))
		converge(t, a, b)
		if !on(a, k) {
			t.Error("still disabled")
		}
	})
	t.Run("disabled again while enabled elsewhere", func(t *testing.T) {
		a, b, k := setup()
		check(t, a.EnableDevice(ctx, k, false))
		converge(t, a, b)
		check(t, b.EnableDevice(ctx, k, true))
		check(t, a.EnableDevice(ctx, k, false))
		converge(t, a, b)
		if on(a, k) || on(b, k) {
			t.Error("the second disabling is gone")
		}
	})
	t.Run("a new life is enabled", func(t *testing.T) {
		a, b, k := setup()
		check(t, a.EnableDevice(ctx, k, false))
		check(t, a.RemoveDevice(ctx, k))
		add(t, a, "phone", k)
		converge(t, a, b)
		if !on(a, k) || !on(b, k) {
			t.Error("disabled")
		}
	})
}

// TestDeletion is about what meets a deletion from the other side of a split.
func TestDeletion(t *testing.T) {
	ctx := context.Background()
	setup := func() (a, b *Store, k Key) {
		a, b = withPool(t, replica(t, 0), "10.0.0.0/24"), replica(t, 1)
		k = add(t, a, "phone", testKey(0)).Key
		converge(t, a, b)
		return a, b, k
	}
	t.Run("an edit does not bring it back", func(t *testing.T) {
		a, b, k := setup()
		check(t, a.RemoveDevice(ctx, k))
		check(t, b.RenameDevice(ctx, k, "later"))
		check(t, b.SetPresharedKey(ctx, k, Key{9}))
		converge(t, a, b)
		same(t, a, b)
		if _, err := b.Device(k); !errors.Is(err, ErrNotFound) {
			t.Error(err)
		}
		e, err := readEntityOf(b, deviceRef(k))
		check(t, err)
		if len(e.cells) != 1 {
			t.Errorf("%d cells of a deleted device are kept", len(e.cells))
		}
	})
	t.Run("enrolled again it lives", func(t *testing.T) {
		a, b, k := setup()
		check(t, a.RemoveDevice(ctx, k))
		check(t, b.RemoveDevice(ctx, k))
		add(t, b, "again", k)
		converge(t, a, b)
		same(t, a, b)
		if d, err := a.Device(k); err != nil || d.Name != "again" {
			t.Error(d, err)
		}
	})
	t.Run("an edit of the old life does not reach the new one", func(t *testing.T) {
		a, b, k := setup()
		check(t, a.RemoveDevice(ctx, k))
		add(t, a, "new", k)
		check(t, b.RenameDevice(ctx, k, "old"))
		check(t, b.SetPresharedKey(ctx, k, Key{9}))
		converge(t, a, b)
		same(t, a, b)
		if d, err := b.Device(k); err != nil || d.Name != "new" || d.PresharedKey != (Key{}) {
			t.Error(d, err)
		}
	})
	t.Run("born on both sides it is one", func(t *testing.T) {
		a, b, _ := setup()
		add(t, a, "mine", testKey(5))
		add(t, b, "yours", testKey(5))
		check(t, b.RenameDevice(ctx, testKey(5), "ours"))
		converge(t, a, b)
		same(t, a, b)
		if a.CountDevices() != 2 {
			t.Errorf("%d devices", a.CountDevices())
		}
	})
}

func readEntityOf(s *Store, r ref) (e *entity, err error) {
	err = s.view(func(txn *badger.Txn) error {
		e, err = readEntity(snapshot{txn}, r)
		return err
	})
	return e, err
}

// TestNewLife: a new life is odd, longer than the old one and than any marker that
// was made before now.
func TestNewLife(t *testing.T) {
	for _, old := range []uint64{0, 1, 2, 3, 1000, 1001} {
		for _, now := range []uint64{0, 1, 4, 1000} {
			if l := newLife(old, now); l%2 != 1 || l <= old || l < now {
				t.Errorf("after %d at %d: %d", old, now, l)
			}
		}
	}
}

// TestContest enrols devices on two sides of a split until addresses collide. When
// the split heals, the older claims keep them, the others get new ones, no address
// is given twice, and each is settled by the one gateway that gave it.
func TestContest(t *testing.T) {
	synctest.Test(t, testContest) // so that nobody's patience ends meanwhile
}

func testContest(t *testing.T) {
	a, b, c := withPool(t, replica(t, 0), "10.0.0.0/27"), replica(t, 1), replica(t, 2)
	converge(t, a, b, c)
	older := map[Key]string{}
	for i := range 10 {
		older[testKey(i)] = fmt.Sprint(add(t, a, fmt.Sprint("a", i), testKey(i)).Addresses)
	}
	time.Sleep(time.Second)
	for i := range 10 {
		add(t, b, fmt.Sprint("b", i), testKey(100+i))
	}
	pull(t, storeState{c}, storeState{a})
	pull(t, storeState{c}, storeState{b})
	// Whoever hears of the two sides in the other order shows the same.
	d := replica(t, 3)
	changed := map[string]bool{}
	d.Subscribe(func(rs []Ref) {
		for _, r := range rs {
			changed[r.ID] = true
		}
	})
	pull(t, storeState{d}, storeState{b})
	check(t, d.submit(context.Background(), newRequest(nil)))
	clear(changed)
	pull(t, storeState{d}, storeState{a})
	check(t, d.submit(context.Background(), newRequest(nil)))
	same(t, c, d)
	sound(t, d)
	for d, err := range d.Devices() {
		check(t, err)
		if !d.Addresses[0].Is4() && !changed[KeyString(d.Key)] {
			t.Errorf("subscribers were not told that %s lost its address", d.Name)
		}
	}
	contested := 0
	for d, err := range c.Devices() {
		check(t, err)
		if want, ok := older[d.Key]; ok && fmt.Sprint(d.Addresses) != want {
			t.Errorf("%s has %v, want %v", d.Name, d.Addresses, want)
		}
		if !d.Addresses[0].Is4() {
			contested++
		}
	}
	if contested == 0 {
		t.Fatal("no collision among 20 devices in a /27")
	}
	v, err := decodeDigest(c.Digest())
	check(t, err)
	if v[*c.author.Load()] != 0 {
		t.Error("a gateway that gave none of the addresses settled at once")
	}
	converge(t, a, b, c)
	same(t, a, b, c)
	seen := map[string]bool{}
	for d, err := range a.Devices() {
		check(t, err)
		if len(d.Addresses) != 2 {
			t.Fatalf("%s has %v", d.Name, d.Addresses)
		}
		for _, x := range d.Addresses {
			if seen[x.String()] {
				t.Errorf("%s twice", x)
			}
			seen[x.String()] = true
			if by, err := b.DeviceByAddress(x); err != nil || by.Key != d.Key {
				t.Errorf("device of %s is %v, %v", x, by.Name, err)
			}
		}
		if want, ok := older[d.Key]; ok && fmt.Sprint(d.Addresses) != want {
			t.Errorf("%s has %v, want %v", d.Name, d.Addresses, want)
		}
	}
	if v, _ := decodeDigest(a.Digest()); v[*c.author.Load()] != 0 || v[*a.author.Load()] != 11 || v[*b.author.Load()] <= 10 {
		t.Error("somebody else settled than who gave the addresses")
	}
	t.Logf("%d of 20 devices got another address", contested)
	sound(t, a)
}

// TestContestOfTheDead: a gateway that gave an address and is gone for good does not
// leave it contested for ever.
func TestContestOfTheDead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, dead, c, d := withPool(t, replica(t, 0), "10.0.0.8/29"), replica(t, 1), replica(t, 2), replica(t, 3)
		converge(t, a, dead, c, d)
		for i := range 2 {
			add(t, a, fmt.Sprint("a", i), testKey(i))
			time.Sleep(time.Second)
			add(t, dead, fmt.Sprint("b", i), testKey(100+i))
		}
		pull(t, storeState{c}, storeState{dead})
		for range 40 {
			for _, x := range []*Store{a, c, d} {
				for _, y := range []*Store{a, c, d} {
					if x != y {
						pull(t, storeState{x}, storeState{y})
					}
				}
			}
			time.Sleep(time.Second)
		}
		same(t, a, c, d)
		seen := map[string]bool{}
		for _, n := range names(t, c) {
			address := n[strings.IndexByte(n, ' '):]
			if !strings.Contains(address, "10.0.0.") || seen[address] {
				t.Errorf("%s", n)
			}
			seen[address] = true
		}
		sound(t, c)
	})
}

// TestContestAcrossRestart: a conflict that was not settled when a store was closed
// is settled when it runs again.
func TestContestAcrossRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		a, dead := withPool(t, replica(t, 0), "10.0.0.8/29"), replica(t, 1)
		converge(t, a, dead)
		for i := range 3 {
			add(t, a, fmt.Sprint("a", i), testKey(i))
		}
		for i := range 2 {
			add(t, dead, fmt.Sprint("b", i), testKey(100+i))
		}
		s, stop := start(t, Config{Dir: dir, Node: testNode(5)})
		pull(t, storeState{s}, storeState{a})
		pull(t, storeState{s}, storeState{dead})
		stop()
		if len(s.contests) == 0 {
			t.Fatal("no collision among 5 devices in 5 addresses")
		}
		s, stop = start(t, Config{Dir: dir, Node: testNode(5)})
		defer stop()
		time.Sleep(time.Minute)
		for _, n := range names(t, s) {
			if !strings.Contains(n, "10.0.0.") {
				t.Errorf("%s", n)
			}
		}
	})
}

// TestRekeyOnBothSides: one device, two new keys: both live, and share no address.
func TestRekeyOnBothSides(t *testing.T) {
	ctx := context.Background()
	a, b := withPool(t, replica(t, 0), "10.0.0.0/24"), replica(t, 1)
	d := add(t, a, "phone", testKey(0))
	converge(t, a, b)
	second(a.RekeyDevice(ctx, d.Key, testKey(1)))
	second(b.RekeyDevice(ctx, d.Key, testKey(2)))
	converge(t, a, b)
	same(t, a, b)
	one, err := a.Device(testKey(1))
	check(t, err)
	two, err := a.Device(testKey(2))
	check(t, err)
	if len(one.Addresses) != 2 || len(two.Addresses) != 2 || one.Addresses[0] == two.Addresses[0] || one.Addresses[1] == two.Addresses[1] {
		t.Errorf("addresses %v and %v", one.Addresses, two.Addresses)
	}
	sound(t, a)
}
