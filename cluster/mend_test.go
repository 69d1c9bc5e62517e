package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/dgraph-io/badger/v4"
)

// lose takes an entity off the disk behind the store's back, with its dots and indices.
func lose(t *testing.T, s *Store, r ref) {
	t.Helper()
	check(t, s.update(context.Background(), func(x *tx) error { return x.forget([]ref{r}) }))
}

// repair brings what from has in the buckets that differ to to.
func repair(t *testing.T, to, from *Store) (pages int) {
	t.Helper()
	ours, err := to.Buckets()
	check(t, err)
	theirs, err := from.Buckets()
	check(t, err)
	buckets := ours.Differ(&theirs)
	for after := []byte(nil); ; pages++ {
		part, next, err := from.Page(buckets, after)
		check(t, err)
		if len(part) > maxPart {
			t.Fatalf("page of %d bytes", len(part))
		}
		_, err = to.Mend(part)
		check(t, err)
		if next == nil {
			return pages + 1
		}
		if bytes.Compare(next, after) <= 0 {
			t.Fatal("pages do not come in order")
		}
		after = next
	}
}

// TestMend: what one of two replicas with one vector lost comes back by their buckets.
func TestMend(t *testing.T) {
	a, b := withPool(t, replica(t, 0), "10.0.0.0/24"), replica(t, 1)
	for i := range 20 {
		add(t, a, fmt.Sprint("d", i), testKey(i))
	}
	for i := range 12 {
		check(t, a.SetSettings(context.Background(), map[string][]byte{fmt.Sprint(i): make([]byte, 60<<10)}))
	}
	converge(t, a, b)
	for i := range 5 {
		lose(t, a, deviceRef(testKey(i)))
	}
	lose(t, b, settingRef("3"))
	lose(t, b, settingRef("4"))
	if !SameVector(a.Digest(), b.Digest()) || bytes.Equal(a.Digest(), b.Digest()) {
		t.Fatal("not the state that cannot be")
	}
	pull(t, storeState{a}, storeState{b})
	if _, err := a.Device(testKey(0)); !errors.Is(err, ErrNotFound) {
		t.Fatal("mended by itself")
	}
	repair(t, a, b)
	repair(t, b, a)
	same(t, a, b)
	sound(t, a)
	if !bytes.Equal(a.Digest(), b.Digest()) {
		t.Error("digests differ")
	}
	empty := replica(t, 2)
	if n := repair(t, empty, a); n < 3 {
		t.Errorf("%d pages, want several", n)
	}
	same(t, a, empty)
}

// TestBucketsReadTheDisk: buckets are made of what stands, not of what was written.
func TestBucketsReadTheDisk(t *testing.T) {
	s := withPool(t, replica(t, 0), "10.0.0.0/24")
	before, err := s.Buckets()
	check(t, err)
	check(t, s.db.Update(func(txn *badger.Txn) error { return txn.Delete(entityKey(settingRef("pool"))) }))
	after, err := s.Buckets()
	check(t, err)
	if n := len(after.Differ(&before)); n != 1 {
		t.Errorf("%d buckets differ, want 1", n)
	}
}

func TestMissing(t *testing.T) {
	a, b := withPool(t, replica(t, 0), "10.0.0.0/24"), replica(t, 1)
	cells, ahead, err := a.Missing(b.Digest())
	check(t, err)
	if cells != 2 || ahead != 0 {
		t.Errorf("an empty one lacks %d, is ahead %d", cells, ahead)
	}
	cells, ahead, err = b.Missing(a.Digest())
	check(t, err)
	if cells != 0 || ahead != 1 {
		t.Errorf("a full one lacks %d, is ahead %d", cells, ahead)
	}
	mark := a.Mark()
	if mark.In(b.Digest()) || !mark.In(a.Digest()) {
		t.Error("the mark is at the wrong one")
	}
	converge(t, a, b)
	if cells, ahead, err = a.Missing(b.Digest()); cells != 0 || ahead != 0 || err != nil || !mark.In(b.Digest()) {
		t.Error(cells, ahead, err)
	}
}
