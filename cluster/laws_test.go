package cluster

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
)

// TestDisablingLaw: a device is enabled if and only if every disabling was seen by an
// enabling, however they were spread.
func TestDisablingLaw(t *testing.T) {
	ctx := context.Background()
	for seed := range 40 {
		rnd := rand.New(rand.NewPCG(uint64(seed), 11))
		all := []*Store{withPool(t, replica(t, 0), "10.0.0.0/24"), replica(t, 1), replica(t, 2)}
		key := testKey(0)
		add(t, all[0], "phone", key)
		converge(t, all...)
		lifted := map[int]bool{} // each disabling, and whether an enabling has seen it
		saw := make([]map[int]bool, len(all))
		lifts := make([]map[int]bool, len(all))
		for i := range saw {
			saw[i], lifts[i] = map[int]bool{}, map[int]bool{}
		}
		for step := range 25 {
			i, j := rnd.IntN(3), rnd.IntN(3)
			switch {
			case i != j:
				pull(t, storeState{all[i]}, storeState{all[j]})
				for d := range saw[j] {
					saw[i][d] = true
				}
			case rnd.IntN(2) == 0:
				check(t, all[i].EnableDevice(ctx, key, false))
				saw[i][step], lifted[step] = true, false
			default:
				check(t, all[i].EnableDevice(ctx, key, true))
				for d := range saw[i] {
					lifted[d] = true
				}
			}
		}
		converge(t, all...)
		want := true
		for _, l := range lifted {
			want = want && l
		}
		for i, s := range all {
			d, err := s.Device(key)
			check(t, err)
			if d.Enabled != want {
				t.Fatalf("seed %d: replica %d says enabled %v, want %v: %v", seed, i, d.Enabled, want, lifted)
			}
		}
		same(t, all...)
	}
}

// TestTransactionsAreWhole: what was written together is seen together: at no replica, at no
// moment, do two settings differ that are always written as one.
func TestTransactionsAreWhole(t *testing.T) {
	ctx := context.Background()
	for seed := range 12 {
		rnd := rand.New(rand.NewPCG(uint64(seed), 13))
		n := 2 + rnd.IntN(3)
		all := make([]*Store, n)
		for i := range all {
			all[i] = replica(t, i)
		}
		whole := func(s *Store) {
			a, _, err := s.Setting("a")
			check(t, err)
			z, _, err := s.Setting("z")
			check(t, err)
			if string(a) != string(z) {
				t.Fatalf("seed %d: %q beside %q", seed, a, z)
			}
		}
		type flight struct { // a part on its way
			to   int
			part []byte
		}
		var air []flight
		for step := range 40 {
			i, j := rnd.IntN(n), rnd.IntN(n)
			switch {
			case i == j:
				v := fmt.Appendf(nil, "%d", step)
				check(t, all[i].SetSettings(ctx, map[string][]byte{"a": v, "z": v, fmt.Sprint("m", step): make([]byte, 40<<10)}))
			case rnd.IntN(2) == 0:
				for _, p := range parts(t, storeState{all[i]}, all[j].Digest()) {
					air = append(air, flight{j, p})
				}
			case len(air) > 0: // parts are lost, come late and out of order
				k := rnd.IntN(len(air))
				_, err := all[air[k].to].Merge(air[k].part)
				check(t, err)
				whole(all[air[k].to])
				air = append(air[:k], air[k+1:]...)
			}
		}
		converge(t, all...)
		for _, s := range all {
			whole(s)
		}
	}
}

// TestPartsHoldWholeTransactions: wherever a part ends, it ends between two transactions.
func TestPartsHoldWholeTransactions(t *testing.T) {
	ctx := context.Background()
	for fill := range 9 {
		a := replica(t, 0)
		for i := range fill {
			check(t, a.SetSettings(ctx, map[string][]byte{fmt.Sprint(i): make([]byte, 40<<10)}))
		}
		check(t, a.SetSettings(ctx, map[string][]byte{"a": {1}, "m": make([]byte, 40<<10), "z": {1}}))
		for _, p := range parts(t, storeState{a}, nil) {
			b := replica(t, 1)
			_, err := b.Merge(p)
			check(t, err)
			_, first, err := b.Setting("a")
			check(t, err)
			_, last, err := b.Setting("z")
			check(t, err)
			if first != last {
				t.Errorf("after %d others: half a transaction", fill)
			}
		}
	}
}
