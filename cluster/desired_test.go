package cluster

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/dgraph-io/badger/v4"
	"pgregory.net/rapid"
)

var (
	testPool = netip.MustParsePrefix("10.0.0.0/16")
	testULA  = netip.MustParsePrefix("fd00:1:2:3::/64")
)

func devices(t testing.TB, s *Store) (all []Device) {
	t.Helper()
	for d, err := range s.Devices() {
		check(t, err)
		all = append(all, d)
	}
	return all
}

func desired(d Device) Desired {
	return Desired{Name: d.Name, Key: d.Key, Addresses: d.Addresses, Enabled: d.Enabled, PresharedKey: &d.PresharedKey}
}

// apply brings a store to what is wanted and checks that it is there.
func apply(t testing.TB, s *Store, want []Desired) {
	t.Helper()
	edits, err := Plan(devices(t, s), want, testPool, testULA)
	check(t, err)
	n, err := s.Carry(t.Context(), edits, nil)
	check(t, err)
	if n != len(edits) {
		t.Fatalf("carried out %d of %d", n, len(edits))
	}
	left, err := Plan(devices(t, s), want, testPool, testULA)
	check(t, err)
	if len(left) > 0 || s.CountDevices() != len(want) {
		t.Fatalf("%d devices of %d, %d edits left: %+v", s.CountDevices(), len(want), len(left), left)
	}
}

// TestDesired: whatever the devices are, one application leads to what is
// wanted, names and addresses that are swapped included, and a second does nothing.
func TestDesired(t *testing.T) {
	s := withPool(t, replica(t, 0), testPool.String())
	rapid.Check(t, func(r *rapid.T) {
		var want []Desired
		names := rapid.Permutation([]string{"a", "b", "c", "d", "e", "f"}).Draw(r, "names")
		hosts := rapid.Permutation([]string{"10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6", "10.0.0.7"}).Draw(r, "hosts")
		for i, k := range rapid.Permutation([]int{0, 1, 2, 3, 4, 5}).Draw(r, "keys")[:rapid.IntRange(0, 6).Draw(r, "n")] {
			w := Desired{Name: names[i], Key: testKey(k), Enabled: rapid.Bool().Draw(r, "enabled")}
			if rapid.Bool().Draw(r, "addressed") {
				w.Addresses = append(w.Addresses, netip.MustParseAddr(hosts[i]))
			}
			if rapid.Bool().Draw(r, "keyed") {
				w.PresharedKey = &Key{byte(rapid.IntRange(0, 2).Draw(r, "psk"))}
			}
			want = append(want, w)
		}
		for { // a device that was told nothing keeps an address that is wanted elsewhere
			_, err := Plan(devices(t, s), want, testPool, testULA)
			var taken *AddressError
			if !errors.As(err, &taken) {
				check(t, err)
				break
			}
			i := slices.IndexFunc(want, func(d Desired) bool { return d.Name == taken.Device })
			want[i].Addresses = nil
		}
		apply(t, s, want)
		sound(t, s)
	})
}

// TestDesiredMany needs several transactions and a small pool, in which addresses meet.
func TestDesiredMany(t *testing.T) {
	s := withPool(t, replica(t, 0), "10.0.0.0/22")
	var want []Desired
	for i := range 500 {
		want = append(want, Desired{Name: fmt.Sprintf("d%d", i), Key: testKey(i), Enabled: i%3 > 0})
	}
	apply(t, s, want)
	seen := map[netip.Addr]bool{}
	for _, d := range devices(t, s) {
		if len(d.Addresses) != 2 || seen[d.Addresses[0]] {
			t.Fatalf("addresses of %s: %v", d.Name, d.Addresses)
		}
		seen[d.Addresses[0]] = true
	}
	for i := range want { // every name to another device, across transactions
		want[i].Name = fmt.Sprintf("d%d", (i+250)%500)
	}
	apply(t, s, want)
	sound(t, s)
}

// TestDesiredAddresses fills a small pool in one transaction: nobody is given what
// another was given just before, so nothing is left to be settled.
func TestDesiredAddresses(t *testing.T) {
	s := withPool(t, replica(t, 0), "10.0.0.0/29")
	var want []Desired
	for i := range 5 {
		want = append(want, Desired{Name: fmt.Sprintf("d%d", i), Key: testKey(i), Enabled: true})
	}
	seq := func() uint64 {
		t.Helper()
		check(t, s.SaveClocks(t.Context(), map[Key][12]byte{testKey(9): {}})) // what was to be settled is, before this
		var heads map[author]head
		check(t, s.view(func(txn *badger.Txn) (err error) {
			heads, err = readHeads(txn)
			return err
		}))
		return heads[*s.author.Load()].seq
	}
	before := seq()
	edits, err := Plan(nil, want, testPool, testULA)
	check(t, err)
	_, err = s.Carry(t.Context(), edits, nil)
	check(t, err)
	if after := seq(); after != before+1 {
		t.Errorf("%d transactions, want 1", after-before)
	}
	sound(t, s)
	if _, err := s.Carry(t.Context(), []Edit{{New: &Desired{Name: "d5", Key: testKey(5)}}}, nil); !errors.Is(err, ErrPoolFull) {
		t.Errorf("a sixth device: %v", err)
	}
}

func TestPlanRefuses(t *testing.T) {
	a := Desired{Name: "a", Key: testKey(0), Enabled: true}
	with := func(f func(*Desired)) []Desired {
		b := Desired{Name: "b", Key: testKey(1), Enabled: true}
		f(&b)
		return []Desired{a, b}
	}
	at := func(s ...string) []Desired {
		return with(func(d *Desired) {
			for _, s := range s {
				d.Addresses = append(d.Addresses, netip.MustParseAddr(s))
			}
		})
	}
	for text, want := range map[string][]Desired{
		`device "a" exists`: with(func(d *Desired) { d.Name = "a" }),
		`device with key ` + KeyString(testKey(0)) + ` exists`:        with(func(d *Desired) { d.Key = a.Key }),
		`address 10.1.0.1 of device "b" is not in 10.0.0.0/16`:        at("10.1.0.1"),
		`address 10.0.0.1 of device "b" is not for devices`:           at("10.0.0.1"),
		`address 10.0.0.0 of device "b" is not for devices`:           at("10.0.0.0"),
		`address 10.0.255.255 of device "b" is the broadcast address`: at("10.0.255.255"),
		`address fd00::1 of device "b" is not in fd00:1:2:3::/64`:     at("fd00::1"),
		`address 10.0.0.9 of device "b" is the second of its family`:  at("10.0.0.8", "10.0.0.9"),
		(&NameError{Name: "-"}).Error():                               with(func(d *Desired) { d.Name = "-" }),
		`device "b": invalid public key: point of low order`:          with(func(d *Desired) { d.Key = Key{} }),
	} {
		if _, err := Plan(nil, want, testPool, testULA); err == nil || err.Error() != text {
			t.Errorf("got %v, want %s", err, text)
		}
	}
}

// TestChangedMeanwhile carries out plans that the world has overtaken.
func TestChangedMeanwhile(t *testing.T) {
	s := withPool(t, replica(t, 0), testPool.String())
	add(t, s, "a", testKey(0))
	before := devices(t, s)
	plan := func(want ...Desired) []Edit {
		t.Helper()
		edits, err := Plan(before, want, testPool, testULA)
		check(t, err)
		return edits
	}
	add(t, s, "b", testKey(1))
	check(t, s.RenameDevice(t.Context(), testKey(0), "z"))
	digest := string(s.Digest())
	for what, edits := range map[string][]Edit{
		"changed":    plan(Desired{Name: "c", Key: testKey(0), Enabled: true}),
		"removal":    plan(),
		"name taken": plan(desired(before[0]), Desired{Name: "b", Key: testKey(2)}),
		"key taken":  plan(desired(before[0]), Desired{Name: "c", Key: testKey(1)}),
		"address taken": plan(desired(before[0]), Desired{
			Name: "c", Key: testKey(2), Addresses: devices(t, s)[0].Addresses,
		}),
	} {
		if _, err := s.Carry(t.Context(), edits, nil); !errors.Is(err, ErrChanged) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if string(s.Digest()) != digest {
		t.Error("something of a refused plan was written")
	}
}
