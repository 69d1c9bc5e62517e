package cluster

import (
	"bytes"
	"context"
	"testing"
)

// A claim is above all that is known, and is below the confirmation that follows.
func TestClaim(t *testing.T) {
	a, b := table(0, 1), table(1, 1)
	for i := range 2000 {
		a.Put(session(i, uint64(100+i)))
	}
	meet(t, a, b)
	rows := b.OwnedBy(testNode(0))
	b.Claim(rows, 500)
	meet(t, a, b)
	if a.Count(testNode(1)) != 2000 || a.Count(testNode(0)) != 0 {
		t.Fatalf("claimed %d, left %d", a.Count(testNode(1)), a.Count(testNode(0)))
	}
	for i, want := range map[int]uint64{0: 500, 400: 501, 1900: 2001} {
		if s, ok := a.Owner(testKey(i)); !ok || !s.Claimed || s.Epoch != want {
			t.Errorf("device %d: %+v, want epoch %d", i, s, want)
		}
	}
	s, _ := a.Owner(testKey(0))
	a.Confirm(s, 3)
	if s, _ := a.Owner(testKey(0)); s.Claimed || s.Owner != testNode(0) || s.Epoch != 501 {
		t.Errorf("a confirmation after a claim: %+v", s)
	}
	s, _ = a.Own(testKey(0))
	s.Released = true
	a.Put(s)
	if g, ok := a.Greatest(testKey(0)); !ok || !g.Released {
		t.Errorf("greatest %+v, %v", g, ok)
	}
	consistent(t, a)
	consistent(t, b)
}

func TestByIndex(t *testing.T) {
	a, b := table(0, 1), table(1, 1)
	row := func(device int, index, previous uint32) Session {
		s := session(device, 10)
		s.Index, s.Previous = index, previous
		return s
	}
	find := func(index uint32, device int) {
		t.Helper()
		meet(t, a, b)
		for _, x := range []*Sessions{a, b} {
			if s, ok := x.ByIndex(index); ok != (device >= 0) || ok && s.Device != testKey(device) {
				t.Errorf("index %d is of %+v, %v, want device %d", index, s, ok, device)
			}
			consistent(t, x)
		}
	}
	a.Put(row(0, 7, 0))
	find(7, 0)
	a.Put(row(0, 8, 7))
	find(8, 0)
	find(7, 0)
	a.Put(row(0, 9, 8))
	find(7, -1)
	find(0, -1)
	// Taken over: the new owner is found by the indices that the old one drew.
	s, _ := b.Owner(testKey(0))
	b.Claim([]Session{s}, 0)
	find(9, 0)
	if s, _ := a.ByIndex(9); s.Owner != testNode(1) {
		t.Errorf("owner %v, want the claimant", s.Owner)
	}
	// One of two with the same index is found, and the other when that has new keys.
	a.Put(row(1, 9, 0))
	find(9, 1)
	a.Put(row(1, 10, 0))
	if s, ok := a.ByIndex(9); ok && s.Device != testKey(0) {
		t.Errorf("index 9 leads to %+v", s)
	}
	b.Put(row(0, 11, 0))
	find(11, 0)
	s = row(0, 11, 0)
	s.Released, s.Epoch = true, 99
	b.Put(s)
	find(11, -1)
}

// Clocks outlive a restart, only grow, and go with their device.
func TestSaveClocks(t *testing.T) {
	cfg := Config{Dir: t.TempDir(), Node: testNode(0), Log: quiet}
	s, stop := start(t, cfg)
	withPool(t, s, "10.0.0.0/24")
	ctx := context.Background()
	add(t, s, "d0", testKey(0))
	add(t, s, "d1", testKey(1))
	digest := s.Digest()
	check(t, s.SaveClocks(ctx, map[Key][12]byte{testKey(0): tai(5), testKey(1): tai(6), testKey(2): tai(7)}))
	check(t, s.SaveClocks(ctx, map[Key][12]byte{testKey(0): tai(4)}))
	check(t, s.SaveClocks(ctx, nil))
	if !bytes.Equal(digest, s.Digest()) {
		t.Error("clocks are replicated")
	}
	stop()
	s = open(t, cfg)
	want := func(device int, n byte) {
		t.Helper()
		if c, err := s.Clock(testKey(device)); err != nil || c != tai(n) {
			t.Errorf("device %d: %x, %v, want %d", device, c, err, n)
		}
	}
	want(0, 5)
	want(1, 6)
	want(2, 0) // never enrolled
	check(t, s.RemoveDevice(ctx, testKey(1)))
	want(1, 0)
	want(0, 5)
	if before := s.Now(); s.Now().Before(before) {
		t.Error("time goes back")
	}
}

func TestRenewed(t *testing.T) {
	a, b := table(0, 1), table(1, 1)
	s := session(0, 5)
	s.Received = tai(3)
	a.Put(s)
	meet(t, a, b)
	for _, x := range []*Sessions{a, b} {
		if got := x.Renewed(); len(got) != 1 || got[testKey(0)] != tai(3) {
			t.Errorf("renewed %v", got)
		}
	}
	a.Put(s)
	s.Received = tai(2)
	b.Put(s)
	meet(t, a, b)
	if got := b.Renewed(); len(got) != 0 {
		t.Errorf("renewed again: %v", got)
	}
}
