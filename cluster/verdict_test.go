package cluster

import (
	"context"
	"testing"
	"time"

	"github.com/dgraph-io/badger/v4"
)

// Whoever reads a commit reads what follows from the evictions in it, be it that the committer has not taken it in yet.
func TestVerdictsOfWhatIsRead(t *testing.T) {
	s, err := Open(Config{Node: memberNode(0), Log: quiet})
	check(t, err)
	read, told := make(chan struct{}), make(chan struct{})
	evicting := false
	s.pipeline.send = func(o overlay, done chan<- error) error {
		err := s.flush(o)
		if evicting {
			close(read)
			<-told
			evicting = false
		}
		done <- err
		return nil
	}
	ran := make(chan error, 1)
	go func() { ran <- s.Run(context.Background()) }()
	for i := range 2 {
		check(t, s.Admit(t.Context(), memberAdmission(i)))
	}
	admittedAt(t, map[int]bool{0: true, 1: true}, s)
	done := make(chan error, 1)
	go func() {
		done <- s.update(t.Context(), func(t *tx) error {
			evicting = true // the committer's
			_, err := s.evict(t, memberNode(1))
			return err
		})
	}()
	<-read
	admittedAt(t, map[int]bool{0: true, 1: false}, s)
	if _, ok, err := s.Evicted(memberNode(1)); err != nil || !ok {
		t.Errorf("evicted: %v, %v", ok, err)
	}
	close(told)
	check(t, <-done)
	admittedAt(t, map[int]bool{0: true, 1: false}, s)
	check(t, s.Close())
	check(t, <-ran)
}

// Who was evicted by one whose evictions do not count is a member to collection as well: it is waited for, and nobody
// calls it absent.
func TestCollectionHeedsWhatCounts(t *testing.T) {
	c := newCrew(t, 3)
	a, b, e := c.all[0], c.all[1], c.all[2]
	check(t, b.Evict(t.Context(), memberNode(2)))
	c.clock.move(time.Second)
	check(t, e.Evict(t.Context(), memberNode(0)))
	pull(t, storeState{a}, storeState{e})
	converge(t, a, b)
	admittedAt(t, map[int]bool{0: true, 1: true, 2: false}, a, b)
	add(t, b, "laptop", testKey(0))
	converge(t, a, b)
	c.remove(b, 0)
	check(t, b.Collect(t.Context(), DefaultHorizon)) // a has not acknowledged it
	check(t, b.view(func(txn *badger.Txn) error {
		all, err := b.members(newTx(snapshot{txn}, nil, *b.author.Load()))
		if o, absent := all[memberNode(1)].absent(memberNode(0)); absent {
			t.Errorf("called absent: %v", o)
		}
		if _, absent := all[memberNode(1)].absent(memberNode(2)); !absent {
			t.Error("the evicted one is waited for")
		}
		return err
	}))
}
