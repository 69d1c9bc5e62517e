package cluster

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
)

// What is counted once a sealed store has settled is what was acknowledged, and stays so.
func TestSealedStoreSettles(t *testing.T) {
	s := withPool(t, replica(t, 0), "10.0.0.0/16")
	sealed := &SealedError{Reason: "sealed"}
	var taken, names atomic.Int64
	for round := range 20 {
		var g, begun sync.WaitGroup
		begun.Add(8)
		for range 8 {
			g.Go(func() {
				for first := true; ; first = false {
					i := names.Add(1)
					_, err := s.AddDevice(context.Background(), fmt.Sprint("d", i), testKey(int(i)))
					if err == nil {
						taken.Add(1)
					}
					if first {
						begun.Done()
					}
					if err != nil {
						if !errors.Is(err, ErrReadOnly) {
							t.Error(err)
						}
						return
					}
				}
			})
		}
		begun.Wait()
		s.Seal(sealed)
		check(t, s.Settle(t.Context()))
		count := s.CountDevices()
		g.Wait()
		if n := int(taken.Load()); n != count || n != s.CountDevices() || n == 0 {
			t.Fatalf("round %d: %d counted, %d acknowledged, %d there are", round, count, n, s.CountDevices())
		}
		s.Unseal(sealed)
	}
}

// Who seals anew takes the other's place, whose word does not open the store then.
func TestReseal(t *testing.T) {
	s := replica(t, 0)
	first, second := &SealedError{Reason: "first"}, &SealedError{Reason: "second"}
	s.Seal(first)
	s.Seal(second)
	if s.Refusal() != error(first) {
		t.Errorf("sealed twice: %v", s.Refusal())
	}
	s.Reseal(second)
	s.Unseal(first)
	if s.Refusal() != error(second) {
		t.Errorf("sealed anew: %v", s.Refusal())
	}
	s.Unseal(second)
	check(t, s.Refusal())
}
