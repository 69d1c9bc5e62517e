package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/dgraph-io/badger/v4"
)

// journal collects every cell that a replica writes.
func journal(s *Store, written map[author]map[uint64][]record) error {
	return s.view(func(txn *badger.Txn) error {
		it := txn.NewIterator(keysOnly([]byte{atDot}))
		defer it.Close()
		for it.Rewind(); it.Valid(); it.Next() {
			a, seq, r, field, _ := cutDot(it.Item().Key())
			if a != *s.author.Load() {
				continue
			}
			e, err := readEntity(snapshot{txn}, r)
			if err != nil {
				return err
			}
			if written[a] == nil {
				written[a] = map[uint64][]record{}
			}
			rec := record{r, *e.get(field)}
			if !slices.ContainsFunc(written[a][seq], func(o record) bool {
				return o.ref == rec.ref && bytes.Equal(o.cell.raw, rec.cell.raw)
			}) {
				written[a][seq] = append(written[a][seq], rec)
			}
		}
		return nil
	})
}

// randomWrite does one of everything that an administrator may do.
func randomWrite(rnd *rand.Rand, s *Store, devices int) error {
	ctx := context.Background()
	k, other := testKey(rnd.IntN(devices)), testKey(rnd.IntN(devices))
	name := fmt.Sprint("d", rnd.IntN(devices))
	var err error
	switch rnd.IntN(9) {
	case 0, 1, 2:
		_, err = s.AddDevice(ctx, name, k)
	case 3:
		err = s.RemoveDevice(ctx, k)
	case 4:
		err = s.RenameDevice(ctx, k, name)
	case 5:
		_, err = s.RekeyDevice(ctx, k, other)
	case 6:
		err = s.EnableDevice(ctx, k, rnd.IntN(2) == 0)
	case 7:
		err = s.SetSettings(ctx, map[string][]byte{name: {byte(rnd.IntN(3))}, "x": {byte(rnd.IntN(9))}})
	case 8:
		err = s.PutGateway(ctx, Gateway{Node: testNode(rnd.IntN(3)), Name: name, Capacity: rnd.IntN(3)})
	}
	var exists *ExistsError
	if errors.Is(err, ErrNotFound) || errors.As(err, &exists) || errors.Is(err, ErrPoolFull) {
		return nil
	}
	return err
}

// TestParts is about what becomes of the vector when parts of a delta are lost,
// doubled or mixed.
func TestParts(t *testing.T) {
	a := replica(t, 0)
	for i := range 12 {
		check(t, a.SetSettings(context.Background(), map[string][]byte{fmt.Sprint(i): make([]byte, 60<<10)}))
	}
	t.Run("complete", func(t *testing.T) {
		b := replica(t, 1)
		ps := parts(t, storeState{a}, nil)
		if len(ps) < 3 {
			t.Fatalf("%d parts, want several", len(ps))
		}
		for i, p := range ps {
			if i < len(ps)-1 && bytes.Equal(b.Digest(), a.Digest()) {
				t.Error("the vector moved before the last part")
			}
			behind, err := b.Merge(p)
			check(t, err)
			if behind {
				t.Errorf("behind at part %d", i)
			}
		}
		if !bytes.Equal(a.Digest(), b.Digest()) {
			t.Error("not equal")
		}
		same(t, a, b)
		for range parts(t, storeState{a}, b.Digest()) {
			t.Error("something to send where nothing is missing")
		}
	})
	t.Run("one lost", func(t *testing.T) {
		ps := parts(t, storeState{a}, nil)
		for lost := range ps {
			b := replica(t, 1)
			behind := false
			for i, p := range ps {
				if i == lost {
					continue
				}
				x, err := b.Merge(p)
				check(t, err)
				behind = behind || x
			}
			if lost < len(ps)-1 && !behind {
				t.Errorf("part %d lost, not behind", lost)
			}
			if v, err := decodeDigest(b.Digest()); err != nil || len(v) > 0 {
				t.Errorf("part %d lost, vector %v, %v", lost, v, err)
			}
			pull(t, storeState{b}, storeState{a})
			same(t, a, b)
		}
	})
	t.Run("doubled and mixed", func(t *testing.T) {
		b := replica(t, 1)
		one, two := parts(t, storeState{a}, nil), parts(t, storeState{a}, nil)
		for i := range one {
			for _, p := range [][]byte{one[i], two[i], one[i], two[max(i-1, 0)]} {
				if behind, err := b.Merge(p); behind || err != nil {
					t.Fatal(behind, err)
				}
			}
		}
		same(t, a, b)
		if !bytes.Equal(a.Digest(), b.Digest()) {
			t.Error("not equal")
		}
	})
	t.Run("too many at once", func(t *testing.T) {
		b := replica(t, 1)
		first := parts(t, storeState{a}, nil)
		_, err := b.Merge(first[0])
		check(t, err)
		for range maxDeltas {
			_, err := b.Merge(parts(t, storeState{a}, nil)[0])
			check(t, err)
		}
		behind := false
		for _, p := range first[1:] {
			x, err := b.Merge(p)
			check(t, err)
			behind = behind || x
		}
		if !behind || len(b.deltas.order) > maxDeltas {
			t.Error("a forgotten delta moved the vector")
		}
	})
}

// TestDeltaForAnother: a delta that was made for a replica that knew more merges,
// but does not move the vector.
func TestDeltaForAnother(t *testing.T) {
	ctx := context.Background()
	a, b, c := replica(t, 0), replica(t, 1), replica(t, 2)
	check(t, a.SetSettings(ctx, map[string][]byte{"one": nil}))
	pull(t, storeState{b}, storeState{a})
	check(t, a.SetSettings(ctx, map[string][]byte{"two": nil}))
	for _, p := range parts(t, storeState{a}, b.Digest()) {
		behind, err := c.Merge(p)
		check(t, err)
		if !behind {
			t.Error("not behind")
		}
	}
	if _, ok, _ := c.Setting("two"); !ok {
		t.Error("the write was not applied")
	}
	if behind := pull(t, storeState{c}, storeState{a}); behind {
		t.Error("behind after a pull")
	}
	if _, ok, _ := c.Setting("one"); !ok {
		t.Error("a write was passed over")
	}
}

// TestBeyondTheSendersVector: what a replica got of a broken delta it passes on,
// also when the author is gone and both vectors are equal.
func TestBeyondTheSendersVector(t *testing.T) {
	a := replica(t, 0)
	for i := range 12 {
		check(t, a.SetSettings(context.Background(), map[string][]byte{fmt.Sprint(i): make([]byte, 60<<10)}))
	}
	ps := parts(t, storeState{a}, nil)
	b, c := replica(t, 1), replica(t, 2)
	_, err := b.Merge(ps[0])
	check(t, err)
	_, err = c.Merge(ps[1])
	check(t, err)
	if bytes.Equal(b.Digest(), c.Digest()) {
		t.Fatal("equal digests of different states")
	}
	converge(t, b, c)
	same(t, b, c)
	for _, p := range parts(t, storeState{a}, nil) {
		_, err := b.Merge(p)
		check(t, err)
	}
	converge(t, b, c)
	same(t, a, b, c)
}

// TestUnknownKinds: what a newer version writes is kept and passed on as it came.
func TestUnknownKinds(t *testing.T) {
	newer, middle, last := replica(t, 0), replica(t, 1), replica(t, 2)
	r := refOf("hologram", []byte("x"))
	check(t, newer.update(context.Background(), func(tx *tx) error {
		if err := tx.write(r, cell{life: 7}); err != nil {
			return err
		}
		return tx.put(r, "shade", []byte("blue"))
	}))
	var seen []Ref
	middle.Subscribe(func(rs []Ref) { seen = append(seen, rs...) })
	pull(t, storeState{middle}, storeState{newer})
	pull(t, storeState{last}, storeState{middle})
	same(t, newer, middle, last)
	if want := []Ref{{"hologram", "78"}}; !slices.Equal(seen, want) {
		t.Errorf("got %v, want %v", seen, want)
	}
}

// TestFarFuture: a cell from a clock a year ahead is kept and forwarded, an edit
// that saw it wins, and nobody's clock follows.
func TestFarFuture(t *testing.T) {
	ctx := context.Background()
	c := &fakeClock{at: wallStart}
	ahead := &fakeClock{at: wallStart.AddDate(1, 0, 0)}
	fast := open(t, Config{Node: testNode(0), Now: ahead.now})
	a, b := open(t, Config{Node: testNode(1), Now: c.now}), open(t, Config{Node: testNode(2), Now: c.now})
	check(t, fast.SetSettings(ctx, map[string][]byte{"x": []byte("future")}))
	pull(t, storeState{a}, storeState{fast})
	pull(t, storeState{b}, storeState{a})
	check(t, b.SetSettings(ctx, map[string][]byte{"x": []byte("now"), "y": nil}))
	pull(t, storeState{a}, storeState{b})
	if v, _, _ := a.Setting("x"); string(v) != "now" {
		t.Errorf("the edit that saw the value lost: %q", v)
	}
	if n := a.Stamp(); n > wallTime(c.at.Add(maxOffset))+10 {
		t.Error("a fast clock spread")
	}
}

// TestClonedGateway runs two copies of one gateway in one incarnation, which only
// a cloned machine can do. No write of either is lost.
func TestClonedGateway(t *testing.T) {
	ctx := context.Background()
	one, two, peer := replica(t, 0), replica(t, 0), replica(t, 1)
	two.author.Store(one.author.Load())
	check(t, one.SetSettings(ctx, map[string][]byte{"a": []byte("one"), "both": []byte("one")}))
	pull(t, storeState{two}, storeState{one}) // as far as the copy goes
	for i := range 3 {
		check(t, one.SetSettings(ctx, map[string][]byte{fmt.Sprint("one", i): []byte("one")}))
	}
	pull(t, storeState{peer}, storeState{one})
	check(t, two.SetSettings(ctx, map[string][]byte{"two": make([]byte, 50<<10)}))
	before := *two.author.Load()
	pull(t, storeState{two}, storeState{peer})
	if !settled([]*Store{two}) && *two.author.Load() == before {
		t.Error("the same incarnation still")
	}
	converge(t, one, two, peer)
	same(t, one, two, peer)
	for name, want := range map[string]string{"a": "one", "one0": "one", "one1": "one", "one2": "one", "two": string(make([]byte, 50<<10))} {
		if v, ok, err := peer.Setting(name); !ok || err != nil || string(v) != want {
			t.Errorf("setting %s is %.10q, %v, %v", name, v, ok, err)
		}
	}
	for _, s := range []*Store{one, two, peer} {
		sound(t, s)
	}
}

// TestCloneOfTheDead is TestClonedGateway where the other copy is gone: what it wrote
// under the numbers that this one used again comes back from the peer.
func TestCloneOfTheDead(t *testing.T) {
	ctx := context.Background()
	dead, two, peer := replica(t, 0), replica(t, 0), replica(t, 1)
	two.author.Store(dead.author.Load())
	for i := range 4 {
		check(t, dead.SetSettings(ctx, map[string][]byte{fmt.Sprint("dead", i): nil}))
		if i == 0 {
			pull(t, storeState{two}, storeState{dead})
		}
	}
	pull(t, storeState{peer}, storeState{dead})
	check(t, two.SetSettings(ctx, map[string][]byte{"two": nil}))
	converge(t, two, peer)
	same(t, two, peer)
	for _, name := range []string{"dead0", "dead1", "dead2", "dead3", "two"} {
		for i, s := range []*Store{two, peer} {
			if _, ok, err := s.Setting(name); !ok || err != nil {
				t.Errorf("replica %d: setting %s: %v, %v", i, name, ok, err)
			}
		}
	}
}

// wirePartOf makes a part from cells of a node that nobody runs.
func wirePartOf(t *testing.T, w wirePart, fields map[string]int) []byte {
	t.Helper()
	seq := uint64(0)
	for _, f := range slices.Sorted(maps.Keys(fields)) {
		seq++
		c, err := cell{
			field: f, stamp: stamp{1, authorOf(testNode(50), 1)}, seq: seq, value: make([]byte, fields[f]),
		}.seal()
		check(t, err)
		w.Records = append(w.Records, wireRecord{Kind: "setting", ID: []byte("large"), Cell: c.raw})
	}
	b, err := encoder.Marshal(w)
	check(t, err)
	return b
}

// TestLargeEntities: a part whose cells belong to large entities is merged in several
// transactions; one that fits in none does not move the vector.
func TestLargeEntities(t *testing.T) {
	ctx := context.Background()
	a, b := replica(t, 0), replica(t, 1)
	for i := range 40 {
		check(t, a.SetSettings(ctx, map[string][]byte{fmt.Sprint(i): make([]byte, 60<<10)}))
	}
	pull(t, storeState{b}, storeState{a})
	for i := range 40 { // small fields beside the large ones, as of a newer version
		check(t, a.update(ctx, func(tx *tx) error { return tx.put(settingRef(fmt.Sprint(i)), "note", []byte{1}) }))
	}
	if n := len(parts(t, storeState{a}, b.Digest())); n != 1 {
		t.Fatalf("%d parts, want one", n)
	}
	converge(t, a, b)
	same(t, a, b)

	for i := range 8 {
		fields := map[string]int{}
		for j := range 3 {
			fields[fmt.Sprint(i, "-", j)] = 60 << 10
		}
		part := wirePartOf(t, wirePart{Delta: 7, Index: uint64(i)}, fields)
		if _, err := b.Merge(part); err != nil {
			if !errors.Is(err, ErrTooLarge) {
				t.Fatal(err)
			}
			to := vector{authorOf(testNode(50), 1): 3}.wire(0)
			last := wirePartOf(t, wirePart{Delta: 7, Index: uint64(i) + 1, Last: true, From: &wireDigest{}, To: &to}, nil)
			if behind, err := b.Merge(last); !behind || err != nil {
				t.Errorf("the vector moved past a part that was not merged: %v, %v", behind, err)
			}
			return
		}
	}
	t.Fatal("the large entity was taken")
}

// TestCloneSeenByDigest: a digest alone that is ahead of our own writes is enough.
func TestCloneSeenByDigest(t *testing.T) {
	s := replica(t, 0)
	check(t, s.SetSettings(context.Background(), map[string][]byte{"a": nil}))
	own := *s.author.Load()
	for range parts(t, storeState{s}, vector{own: 9}.digest(0)) {
		continue
	}
	settled([]*Store{s})
	settled([]*Store{s})
	if *s.author.Load() == own {
		t.Error("the same incarnation still")
	}
	check(t, s.view(func(txn *badger.Txn) error {
		heads, err := readHeads(txn)
		if heads[own] != (head{}) {
			t.Errorf("the old incarnation's head is %+v: what its other copy wrote would not come in", heads[own])
		}
		return err
	}))
	sound(t, s)
}

// TestRestoredBackup puts an old copy of a store in a gateway's place. Its newer
// writes come back from the others, and its next ones are seen by them.
func TestRestoredBackup(t *testing.T) {
	ctx := context.Background()
	now, old, peer := replica(t, 0), replica(t, 0), replica(t, 1)
	check(t, now.SetSettings(ctx, map[string][]byte{"a": []byte("1")}))
	pull(t, storeState{old}, storeState{now}) // the backup, which has another incarnation when opened
	check(t, now.SetSettings(ctx, map[string][]byte{"b": []byte("2")}))
	pull(t, storeState{peer}, storeState{now})
	check(t, old.SetSettings(ctx, map[string][]byte{"c": []byte("3")}))
	converge(t, old, peer)
	same(t, old, peer)
	for name, want := range map[string]string{"a": "1", "b": "2", "c": "3"} {
		if v, _, _ := peer.Setting(name); string(v) != want {
			t.Errorf("setting %s is %q", name, v)
		}
	}
}

// TestDeadIncarnations: the vector does not grow with every restart.
func TestDeadIncarnations(t *testing.T) {
	dir := t.TempDir()
	for i := range 8 {
		s, stop := start(t, Config{Dir: dir, Node: testNode(0)})
		check(t, s.SetSettings(context.Background(), map[string][]byte{"started": {byte(i)}}))
		v, err := decodeDigest(s.Digest())
		check(t, err)
		if len(v) != 1 {
			t.Errorf("run %d: %d authors in the vector", i, len(v))
		}
		sound(t, s)
		stop()
	}
}

func TestInvalidParts(t *testing.T) {
	s := replica(t, 0)
	check(t, s.SetSettings(context.Background(), map[string][]byte{"a": nil}))
	p := parts(t, storeState{s}, nil)[0]
	bad := map[string][]byte{
		"empty": nil, "garbage": []byte("garbage"), "cut": p[:len(p)-1], "long": append(slices.Clone(p), 0),
		"huge": make([]byte, maxPart+1),
	}
	for _, name := range slices.Sorted(maps.Keys(bad)) {
		if _, err := s.Merge(bad[name]); !errors.Is(err, ErrInvalidPart) {
			t.Errorf("%s: %v", name, err)
		}
	}
	n := 0
	for _, err := range s.Delta([]byte("garbage")) {
		n++
		if !errors.Is(err, ErrInvalidPart) {
			t.Error(err)
		}
	}
	if n != 1 {
		t.Errorf("an invalid digest yielded %d times", n)
	}
	for range s.Delta(nil) {
		break // a consumer may stop
	}
}

// FuzzMerge feeds parts to a store: each is refused with ErrInvalidPart or merged,
// and either way the store stays sound.
func FuzzMerge(f *testing.F) {
	src := withPool(f, replica(f, 0), "10.0.0.0/24")
	add(f, src, "laptop", testKey(0))
	check(f, src.EnableDevice(context.Background(), testKey(0), false))
	for p := range src.Delta(nil) {
		f.Add(p)
	}
	f.Add([]byte{})
	f.Add([]byte{0xa0})
	f.Fuzz(func(t *testing.T, b []byte) {
		s := replica(t, 1)
		if _, err := s.Merge(b); err != nil {
			if !errors.Is(err, ErrInvalidPart) {
				t.Fatal(err)
			}
			return
		}
		sound(t, s)
		for _, err := range s.Devices() {
			check(t, err)
		}
		_, err := s.Gateways()
		check(t, err)
		_, err = s.Admissions()
		check(t, err)
		other := replica(t, 2)
		pull(t, storeState{other}, storeState{s})
		sound(t, other)
	})
}

// FuzzPart feeds parts to what needs no store: decoding is bounded, and what was
// decoded merges into entities that are stored and read back as they were.
func FuzzPart(f *testing.F) {
	src := withPool(f, replica(f, 0), "10.0.0.0/24")
	add(f, src, "laptop", testKey(0))
	for p := range src.Delta(nil) {
		f.Add(p)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := decodePart(b)
		if err != nil {
			if !errors.Is(err, ErrInvalidPart) {
				t.Fatal(err)
			}
			return
		}
		all := map[ref]*entity{}
		for _, r := range p.records {
			if all[r.ref] == nil {
				all[r.ref] = &entity{}
			}
			all[r.ref].merge(r.cell)
		}
		for r, e := range all {
			b, err := e.encode()
			check(t, err)
			back, err := decodeEntity(b)
			check(t, err)
			for i := range e.cells {
				if back.cells[i].compare(&e.cells[i]) != 0 {
					t.Fatalf("cell %d of %q came back otherwise", i, r)
				}
				a, seq, at, field, ok := cutDot(dotKey(r, &e.cells[i]))
				if !ok || a != e.cells[i].stamp.author || seq != e.cells[i].seq || at != r || field != e.cells[i].field {
					t.Fatalf("dot of cell %d of %q came back otherwise", i, r)
				}
			}
			_ = r.public()
		}
	})
}

// FuzzDigest feeds digests: each is refused with ErrInvalidPart or answered.
func FuzzDigest(f *testing.F) {
	s := replica(f, 0)
	check(f, s.SetSettings(context.Background(), map[string][]byte{"a": nil}))
	f.Add(s.Digest())
	f.Add([]byte{})
	f.Add(vector{authorOf(testNode(3), 4): 7}.digest(1))
	f.Fuzz(func(t *testing.T, b []byte) {
		for p, err := range s.Delta(b) {
			if err != nil && !errors.Is(err, ErrInvalidPart) {
				t.Fatal(err)
			}
			if err == nil {
				if _, err := decodePart(p); err != nil {
					t.Fatal(err)
				}
			}
		}
	})
}
