package cluster

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func tai(n byte) (b [12]byte) {
	b[11] = n
	return b
}

// table returns the sessions of the i-th node.
func table(i int, incarnation uint64) *Sessions {
	return NewSessions(testNode(i), incarnation, quiet)
}

func session(device int, epoch uint64) Session {
	return Session{
		Device: testKey(device), Epoch: epoch, Since: wallStart, Handshake: wallStart,
		Endpoint: netip.MustParseAddrPort("192.0.2.7:1234"), Claimed: epoch%3 == 0,
		Index: uint32(epoch % 7), Previous: uint32(epoch % 5), // few, so that some meet
	}
}

func meet(t testing.TB, all ...*Sessions) {
	t.Helper()
	for range 3 {
		for _, a := range all {
			for _, b := range all {
				if a != b {
					pull(t, sessionsState{a}, sessionsState{b})
				}
			}
		}
	}
	for _, s := range all[1:] {
		if !bytes.Equal(s.Digest(), all[0].Digest()) {
			t.Fatal("tables do not converge")
		}
	}
}

// answers is everything that a table says.
func answers(s *Sessions, devices, nodes int) string {
	var b bytes.Buffer
	for i := range devices {
		o, ok := s.Owner(testKey(i))
		r, x := s.Clocks(testKey(i))
		fmt.Fprintln(&b, i, ok, o.Owner, o.Epoch, o.Released, o.Handshake, r, x)
	}
	for i := range nodes {
		fmt.Fprintln(&b, s.Count(testNode(i)), len(s.OwnedBy(testNode(i))))
	}
	fmt.Fprintln(&b, len(slices.Collect(s.Owned())))
	return b.String()
}

// consistent fails unless counts and lists say what Owner says.
func consistent(t testing.TB, s *Sessions) {
	t.Helper()
	want := map[Node]int{}
	for k := range s.devices {
		if o, ok := s.Owner(k); ok {
			want[o.Owner]++
		}
	}
	total := 0
	for n := range s.newest {
		if s.Count(n) != want[n] || len(s.OwnedBy(n)) != want[n] {
			t.Fatalf("node %v: count %d, owned %d, want %d", n, s.Count(n), len(s.OwnedBy(n)), want[n])
		}
		total += want[n]
	}
	if got := len(slices.Collect(s.Owned())); got != total {
		t.Fatalf("%d owned, want %d", got, total)
	}
	for i, k := range s.indices {
		if !slices.ContainsFunc(s.devices[k], func(r *row) bool { return r.Index == i || r.Previous == i }) {
			t.Fatalf("index %d leads to a device without it", i)
		}
	}
	for at, c := range s.columns {
		last := uint64(0)
		n := 0
		for r := c.first; r != nil; r = r.next {
			if r.seq <= last || c.rows[r.Device] != r {
				t.Fatalf("column %v is not in order", at)
			}
			last = r.seq
			n++
		}
		if n != len(c.rows) || c.last != nil && c.last.seq != last {
			t.Fatalf("column %v: %d linked, %d rows", at, n, len(c.rows))
		}
	}
}

func TestSessions(t *testing.T) {
	a, b := table(0, 1), table(1, 1)
	var told []Session
	b.Subscribe(func(s Session) { told = append(told, s) })
	s := session(0, 5)
	s.Received, s.Sent = tai(3), tai(4)
	a.Put(s)
	select {
	case <-a.Changed():
	default:
		t.Error("not to be pushed")
	}
	pull(t, sessionsState{b}, sessionsState{a})
	want := s
	want.Owner = testNode(0)
	if got, ok := b.Owner(testKey(0)); !ok || got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if !slices.Equal(told, []Session{want}) {
		t.Errorf("told %v", told)
	}
	// A larger epoch takes over; of equal ones, the larger node.
	b.Put(session(0, 5))
	if o, _ := b.Owner(testKey(0)); o.Owner != testNode(1) {
		t.Error("the larger node does not own")
	}
	meet(t, a, b)
	s.Epoch = 6
	a.Put(s)
	meet(t, a, b)
	if o, _ := b.Owner(testKey(0)); o.Owner != testNode(0) || b.Count(testNode(0)) != 1 || b.Count(testNode(1)) != 0 {
		t.Errorf("owner %v", o)
	}
	// Released by its owner, nobody owns it, not even who had it before.
	told = nil
	s.Released = true
	a.Put(s)
	meet(t, a, b)
	if _, ok := b.Owner(testKey(0)); ok || b.Count(testNode(0)) != 0 {
		t.Error("still owned")
	}
	if len(told) != 1 || !told[0].Released || told[0].Owner != testNode(0) {
		t.Errorf("told %v", told)
	}
	if r, x := b.Clocks(testKey(0)); r != tai(3) || x != tai(4) {
		t.Error(r, x)
	}
	consistent(t, a)
	consistent(t, b)
}

// TestRestartedOwner: a new incarnation owns nothing of the old one, everywhere,
// also while it has no session; the clocks stay.
func TestRestartedOwner(t *testing.T) {
	a, b := table(0, 1), table(1, 1)
	for i := range 5 {
		s := session(i, 5)
		s.Received = tai(byte(i + 1))
		a.Put(s)
	}
	meet(t, a, b)
	var told []Session
	b.Subscribe(func(s Session) { told = append(told, s) })
	a = table(0, 2)
	late := table(2, 1)
	meet(t, a, b, late)
	for i, s := range []*Sessions{a, b, late} {
		if n := s.Count(testNode(0)); n != 0 {
			t.Errorf("table %d: %d sessions of a process that is gone", i, n)
		}
		if r, _ := s.Clocks(testKey(4)); r != tai(5) {
			t.Errorf("table %d: clock %v", i, r)
		}
		consistent(t, s)
	}
	if len(told) != 5 || !told[0].Released {
		t.Errorf("told %v", told)
	}
	a.Put(session(0, 1)) // its epoch is below the old one's, which does not count
	meet(t, a, b, late)
	if o, ok := b.Owner(testKey(0)); !ok || o.Epoch != 1 {
		t.Error(o, ok)
	}
}

// TestEarlierRunAhead: a gateway that finds a later incarnation of its own goes above.
func TestEarlierRunAhead(t *testing.T) {
	old, peer := table(0, 100), table(1, 1)
	old.Put(session(0, 5))
	meet(t, old, peer)
	now := table(0, 50)
	now.Put(session(1, 6))
	meet(t, now, peer)
	if o, ok := peer.Owner(testKey(1)); !ok || o.Owner != testNode(0) {
		t.Error("the running process does not own its session")
	}
	if _, ok := peer.Owner(testKey(0)); ok {
		t.Error("the process that is gone owns a session")
	}
	consistent(t, now)
	consistent(t, peer)
}

// TestExpired: what is forgotten does not come back from who still has it.
func TestExpired(t *testing.T) {
	a, b, c := table(0, 1), table(1, 1), table(2, 1)
	for i := range 4 {
		s := session(i, 5)
		s.Handshake = wallStart.Add(time.Duration(i) * time.Minute)
		s.Released = i == 1
		a.Put(s)
	}
	meet(t, a, b, c)
	a2 := table(0, 2)
	meet(t, a2, b, c)
	cut := wallStart.Add(2 * time.Minute)
	b.Expire(cut)
	for range 3 {
		pull(t, sessionsState{b}, sessionsState{c})
		pull(t, sessionsState{c}, sessionsState{b})
	}
	if n := len(b.devices); n != 2 {
		t.Errorf("%d devices came back or went", n)
	}
	b.Expire(cut.Add(time.Hour))
	for range 3 {
		pull(t, sessionsState{b}, sessionsState{c})
	}
	if len(b.devices) != 0 {
		t.Error("came back")
	}
	for _, s := range []*Sessions{c, a2} {
		s.Expire(cut.Add(time.Hour))
	}
	for _, s := range []*Sessions{a2, b, c} {
		s.Expire(cut.Add(time.Hour))
	}
	meet(t, a2, b, c)
	if n := len(b.columns); n != 3 {
		t.Errorf("%d columns, want the newest three", n)
	}
	// A newcomer gets nothing of it, and who is away past the horizon brings nothing.
	late := table(3, 1)
	pull(t, sessionsState{late}, sessionsState{b})
	if len(late.devices) != 0 {
		t.Error("a newcomer got what is forgotten")
	}
	pull(t, sessionsState{b}, sessionsState{a})
	if len(b.devices) != 0 {
		t.Error("a table that was away brought back what is forgotten")
	}
	consistent(t, b)
}

// TestSessionLaws merges the parts of several tables in any order, number and
// grouping, with parts missing for a while: what comes out is one state.
func TestSessionLaws(t *testing.T) {
	const devices, nodes = 4, 3
	rapid.Check(t, func(t *rapid.T) {
		var all [][]byte
		writers := map[column]*Sessions{}
		for range rapid.IntRange(1, 20).Draw(t, "writes") {
			at := column{testNode(rapid.IntRange(0, nodes-1).Draw(t, "node")), rapid.Uint64Range(1, 2).Draw(t, "incarnation")}
			w := writers[at]
			if w == nil {
				w = NewSessions(at.node, at.incarnation, quiet)
				writers[at] = w
			}
			before := w.Digest()
			s := session(rapid.IntRange(0, devices-1).Draw(t, "device"), rapid.Uint64Range(1, 4).Draw(t, "epoch"))
			s.Released = rapid.Bool().Draw(t, "released")
			s.Received = tai(rapid.Byte().Draw(t, "received"))
			w.Put(s)
			for p, err := range w.Delta(before) {
				if err != nil {
					t.Fatal(err)
				}
				all = append(all, p)
			}
			if rapid.Bool().Draw(t, "whole") {
				for p := range w.Delta(nil) {
					all = append(all, p)
				}
			}
		}
		merge := func(parts [][]byte) *Sessions {
			s := table(99, 1)
			for _, p := range parts {
				if _, err := s.Merge(p); err != nil {
					t.Fatal(err)
				}
			}
			// What came out of order is behind; a pull brings the rest.
			for _, at := range slices.SortedFunc(maps.Keys(writers), column.compare) {
				for p := range writers[at].Delta(s.Digest()) {
					if behind, err := s.Merge(p); err != nil || behind {
						t.Fatal(behind, err)
					}
				}
			}
			return s
		}
		want := merge(all)
		for _, parts := range [][][]byte{
			rapid.Permutation(all).Draw(t, "order"),
			append(slices.Clone(all), all...),
			all[:rapid.IntRange(0, len(all)).Draw(t, "cut")],
		} {
			got := merge(parts)
			if answers(got, devices, nodes) != answers(want, devices, nodes) {
				t.Fatalf("got\n%s\nwant\n%s", answers(got, devices, nodes), answers(want, devices, nodes))
			}
			if !bytes.Equal(got.Digest(), want.Digest()) {
				t.Fatal("digests differ")
			}
		}
	})
}

// TestSessionHistories runs gateways that serve, release, restart, forget, lose parts
// and are cut off. After quiet, all tables give the same answers.
func TestSessionHistories(t *testing.T) {
	const devices, nodes = 12, 4
	for seed := range uint64(200) {
		rnd := rand.New(rand.NewPCG(seed, 2))
		all := make([]*Sessions, nodes)
		for i := range all {
			all[i] = table(i, 1)
		}
		now, epoch := wallStart, uint64(1)
		for range 200 {
			i := rnd.IntN(nodes)
			switch rnd.IntN(12) {
			case 0:
				all[i] = table(i, all[i].self.incarnation+1)
			case 1:
				all[i].Expire(now.Add(-time.Minute))
			case 2, 3, 4, 5:
				now = now.Add(time.Second)
				epoch++
				s := session(rnd.IntN(devices), epoch-uint64(rnd.IntN(2)))
				s.Handshake, s.Released = now, rnd.IntN(4) == 0
				all[i].Put(s)
			default:
				j := rnd.IntN(nodes)
				for _, p := range parts(t, sessionsState{all[j]}, all[i].Digest()) {
					for range rnd.IntN(3) {
						_, err := all[i].Merge(p)
						check(t, err)
					}
				}
			}
			consistent(t, all[i])
		}
		for range 2 {
			for _, s := range all {
				s.Expire(now.Add(-time.Minute))
			}
			meet(t, all...)
		}
		for i, s := range all {
			if answers(s, devices, nodes) != answers(all[0], devices, nodes) {
				t.Fatalf("seed %d: table %d differs", seed, i)
			}
		}
	}
}

// TestManySessions splits a large table into parts, and is behind when one is lost.
func TestManySessions(t *testing.T) {
	a := table(0, 1)
	for i := range 5000 {
		s := session(0, uint64(i)+1)
		s.Device = Key{byte(i), byte(i >> 8)}
		a.Put(s)
	}
	ps := parts(t, sessionsState{a}, nil)
	if len(ps) < 5 {
		t.Fatalf("%d parts", len(ps))
	}
	b := table(1, 1)
	behind := false
	for i, p := range ps {
		if i == 2 {
			continue
		}
		x, err := b.Merge(p)
		check(t, err)
		behind = behind || x
	}
	if !behind {
		t.Error("not behind")
	}
	if pull(t, sessionsState{b}, sessionsState{a}) {
		t.Error("behind after a pull")
	}
	if b.Count(testNode(0)) != 5000 {
		t.Errorf("%d sessions", b.Count(testNode(0)))
	}
	pull(t, sessionsState{a}, sessionsState{b})
	for range parts(t, sessionsState{a}, b.Digest()) {
		t.Error("something to send where nothing is missing")
	}
}

func FuzzSessionMerge(f *testing.F) {
	a := table(0, 1)
	s := session(0, 1)
	s.Received = tai(1)
	a.Put(s)
	a.Put(session(1, 2))
	for p := range a.Delta(nil) {
		f.Add(p)
	}
	f.Add([]byte{0x80})
	f.Fuzz(func(t *testing.T, b []byte) {
		s := table(1, 1)
		s.Put(session(1, 1))
		if _, err := s.Merge(b); err != nil {
			if !errors.Is(err, ErrInvalidPart) {
				t.Fatal(err)
			}
			return
		}
		consistent(t, s)
		other := table(2, 1)
		pull(t, sessionsState{other}, sessionsState{s})
	})
}

func FuzzSessionDigest(f *testing.F) {
	a := table(0, 1)
	a.Put(session(0, 1))
	f.Add(a.Digest())
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		for p, err := range a.Delta(b) {
			if err != nil {
				if !errors.Is(err, ErrInvalidPart) {
					t.Fatal(err)
				}
				continue
			}
			if _, err := decodeSessionPart(p); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// A confirmation overtakes whatever is known of the device, though its stamp be
// older: the clock of another gateway may be fast.
func TestConfirmOvertakes(t *testing.T) {
	a, b := NewSessions(Node{1}, 1, nil), NewSessions(Node{2}, 1, nil)
	at := time.UnixMilli(1000)
	k := Key{7}
	b.Put(Session{Device: k, Epoch: 1 << 40, Handshake: at})
	for part, err := range b.Delta(nil) {
		if err != nil {
			t.Fatal(err)
		}
		if _, err := a.Merge(part); err != nil {
			t.Fatal(err)
		}
	}
	if _, ok := a.Own(k); ok {
		t.Fatal("another's row is our own")
	}
	a.Confirm(Session{Device: k, Handshake: at}, 5)
	if s, ok := a.Owner(k); !ok || s.Owner != (Node{1}) || s.Epoch != 1<<40+1 {
		t.Fatalf("owner %+v, %v", s, ok)
	}
	if s, ok := a.Own(k); !ok || s.Epoch != 1<<40+1 {
		t.Fatalf("own row %+v, %v", s, ok)
	}
	a.Confirm(Session{Device: k, Handshake: at}, 1<<41)
	if s, _ := a.Owner(k); s.Epoch != 1<<41 {
		t.Fatalf("epoch %d, want the stamp", s.Epoch)
	}
}
