package cluster

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"crypto/ed25519"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/dgraph-io/badger/v4"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if child() || member() {
		return
	}
	goleak.VerifyTestMain(
		m,
		// Kept by glog, which Badger's ristretto links, for the life of a process.
		goleak.IgnoreTopFunction("github.com/golang/glog.(*fileSink).flushDaemon"),
		// Left by Badger when it cannot open a store.
		goleak.IgnoreTopFunction("github.com/dgraph-io/badger/v4.(*DB).monitorCache"),
		goleak.IgnoreTopFunction("github.com/dgraph-io/ristretto/v2/z.(*AllocatorPool).freeupAllocators"),
	)
}

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

// testNode returns the i-th node.
func testNode(i int) Node {
	var n Node
	binary.BigEndian.PutUint64(n[:], uint64(i)+1)
	return n
}

// testKey returns the i-th device key, a true one.
func testKey(i int) Key {
	if k, ok := testKeys.Load(i); ok {
		return k.(Key)
	}
	var seed [32]byte
	binary.BigEndian.PutUint64(seed[8:], uint64(i)+1)
	private, err := ecdh.X25519().NewPrivateKey(seed[:])
	if err != nil {
		panic(err)
	}
	k := Key(private.PublicKey().Bytes())
	testKeys.Store(i, k)
	return k
}

var testKeys sync.Map // int to Key

func testSigner(i int) ed25519.PrivateKey {
	var seed [32]byte
	binary.BigEndian.PutUint64(seed[:], uint64(i)+1)
	return ed25519.NewKeyFromSeed(seed[:])
}

// open opens a store and runs it until the test ends.
func open(t testing.TB, cfg Config) *Store {
	t.Helper()
	s, stop := start(t, cfg)
	t.Cleanup(stop)
	return s
}

// start opens a store and runs it until stop, which may be called twice.
func start(t testing.TB, cfg Config) (s *Store, stop func()) {
	t.Helper()
	if cfg.Log == nil {
		cfg.Log = quiet
	}
	s, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Run(context.Background()) }()
	stopped := false
	return s, func() {
		if stopped {
			return
		}
		stopped = true
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// replica opens the store of the i-th node, in memory.
func replica(t testing.TB, i int) *Store {
	t.Helper()
	return open(t, Config{Node: testNode(i)})
}

// withPool gives a store its address settings.
func withPool(t testing.TB, s *Store, pool string) *Store {
	t.Helper()
	check(t, s.SetSettings(context.Background(), map[string][]byte{
		"pool": []byte(pool), "ula": []byte("fd00:1:2:3::/64"),
	}))
	return s
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func add(t testing.TB, s *Store, name string, key Key) Device {
	t.Helper()
	d, err := s.AddDevice(context.Background(), name, key)
	check(t, err)
	return d
}

// parts returns a delta as a whole.
func parts(t testing.TB, from state, digest []byte) [][]byte {
	t.Helper()
	var all [][]byte
	for p, err := range from.Delta(digest) {
		check(t, err)
		if len(p) > 256<<10 {
			t.Fatalf("part of %d bytes", len(p))
		}
		all = append(all, p)
	}
	return all
}

// state is what the mesh asks of anything replicated.
type state interface {
	Digest() []byte
	Delta(digest []byte) func(func([]byte, error) bool)
	Merge(part []byte) (behind bool, err error)
	Changed() <-chan struct{}
}

// storeState and sessionsState have Delta's type spelled out for the test's interface.
type (
	storeState    struct{ *Store }
	sessionsState struct{ *Sessions }
)

func (s storeState) Delta(d []byte) func(func([]byte, error) bool)    { return s.Store.Delta(d) }
func (s sessionsState) Delta(d []byte) func(func([]byte, error) bool) { return s.Sessions.Delta(d) }

// pull brings to what from has and to lacks.
func pull(t testing.TB, to, from state) (behind bool) {
	t.Helper()
	for _, p := range parts(t, from, to.Digest()) {
		b, err := to.Merge(p)
		check(t, err)
		behind = behind || b
	}
	return behind
}

// converge lets all pull from all until nothing is missing.
func converge(t testing.TB, all ...*Store) {
	t.Helper()
	for range 10 {
		for i, a := range all {
			for j, b := range all {
				if i != j {
					pull(t, storeState{a}, storeState{b})
				}
			}
		}
		equal := settled(all)
		for _, s := range all {
			equal = equal && bytes.Equal(s.Digest(), all[0].Digest())
		}
		if equal {
			return
		}
	}
	t.Fatal("replicas do not converge")
}

// settled reports whether nobody writes on his own any more: a committer that has
// answered one more request has settled what came before.
func settled(all []*Store) bool {
	before := make([][]byte, len(all))
	for i, s := range all {
		before[i] = s.Digest()
	}
	for i, s := range all {
		_ = s.submit(context.Background(), newRequest(nil))
		_ = s.submit(context.Background(), newRequest(nil))
		if !bytes.Equal(before[i], s.Digest()) {
			return false
		}
	}
	return true
}

// contents is all of a store that replicas must have in common.
func contents(t testing.TB, s *Store) map[string][]byte {
	t.Helper()
	all := map[string][]byte{}
	check(t, s.view(func(txn *badger.Txn) error {
		it := txn.NewIterator(badger.DefaultIteratorOptions)
		defer it.Close()
		for it.Rewind(); it.Valid(); it.Next() {
			k := it.Item().KeyCopy(nil)
			v, err := it.Item().ValueCopy(nil)
			if err != nil {
				return err
			}
			local := [][]byte{metaCeiling, metaDisk, metaForeign, metaAudit, metaEpoch}
			if k[0] == atHead || k[0] == atHeld || slices.ContainsFunc(local, func(m []byte) bool { return bytes.Equal(k, m) }) {
				continue
			}
			if string(k) == string(metaDevices) && bytes.Equal(v, number(0)) {
				continue // as if never counted
			}
			all[string(k)] = v
		}
		return nil
	}))
	return all
}

// same fails unless all stores hold the same cells and indices.
func same(t testing.TB, all ...*Store) {
	t.Helper()
	want := contents(t, all[0])
	for i, s := range all[1:] {
		if got := contents(t, s); !reflect.DeepEqual(got, want) {
			for k, v := range want {
				if !bytes.Equal(got[k], v) {
					t.Errorf("replica %d: %q is %x, want %x", i+1, k, got[k], v)
				}
			}
			for k := range got {
				if _, ok := want[k]; !ok {
					t.Errorf("replica %d: %q is too much", i+1, k)
				}
			}
			t.FailNow()
		}
	}
}

// sound fails unless heads, prints, counts and indices of a store are what its
// entities say.
func sound(t testing.TB, s *Store) {
	t.Helper()
	got := contents(t, s)
	want := map[string][]byte{}
	cells := map[author]uint64{}
	var print uint64
	lists := map[string]keyList{}
	devices, conflicts := uint64(0), uint64(0)
	for k, v := range got {
		if k[0] != atEntity {
			continue
		}
		want[k] = v
		e, err := decodeEntity(v)
		check(t, err)
		r := ref(k[1:])
		for i := range e.cells {
			c := &e.cells[i]
			want[string(dotKey(r, c))] = []byte{}
			if e.isMarker() {
				want[string(markerKey(r))] = []byte{}
			}
			cells[c.stamp.author]++
			print ^= c.print(r)
			if c.field != "" && c.life < e.life() {
				t.Errorf("%q has a cell of a life that is over", k)
			}
		}
		if r.kind() == kindConflict && e.alive() {
			conflicts++
		}
		check(t, s.view(func(txn *badger.Txn) (err error) {
			e, err = readShown(snapshot{txn}, r)
			return err
		}))
		if !r.isDevice() || !e.alive() {
			continue
		}
		devices++
		key := Key(r.id())
		name := string(nameKey(string(e.value(fieldName))))
		lists[name] = append(lists[name], key)
		check(t, s.view(func(txn *badger.Txn) error {
			d, err := deviceOf(snapshot{txn}, key, e)
			if err != nil {
				return err
			}
			want[string(viewKey(key))], err = d.encode()
			return err
		}))
		if lacks(e) {
			want[string(lackKey(key))] = []byte{}
		}
		for _, f := range families {
			if a := claimOf(e, f); a.IsValid() {
				lists[string(addressKey(a))] = append(lists[string(addressKey(a))], key)
			}
		}
	}
	for k, l := range lists {
		slices.SortFunc(l, compareKeys)
		want[k] = l.encode()
		if k[0] == atAddress && len(l) > 1 {
			want[string(atContest)+k[1:]] = []byte{}
		}
	}
	want[string(metaFormat)], want[string(metaMarkers)] = number(format), []byte{}
	if got[string(metaPrint)] != nil {
		want[string(metaPrint)] = number(print)
	}
	if got[string(metaDevices)] != nil {
		want[string(metaDevices)] = number(devices)
	}
	if got[string(metaConflicts)] != nil || conflicts > 0 {
		want[string(metaConflicts)] = number(conflicts)
	}
	if len(got) != len(want) {
		t.Errorf("%d keys, want %d", len(got), len(want))
	}
	for k, v := range want {
		if g, ok := got[k]; !ok || !bytes.Equal(g, v) {
			t.Errorf("%q is %x, want %x", k, g, v)
		}
	}
	check(t, s.view(func(txn *badger.Txn) error {
		heads, err := readHeads(txn)
		for a, h := range heads {
			if h.cells != cells[a] {
				t.Errorf("head of %x counts %d cells, want %d", a, h.cells, cells[a])
			}
		}
		return err
	}))
	if s.CountDevices() != int(devices) {
		t.Errorf("CountDevices is %d, want %d", s.CountDevices(), devices)
	}
}

// names returns the devices as "name address", in order.
func names(t testing.TB, s *Store) (all []string) {
	t.Helper()
	for d, err := range s.Devices() {
		check(t, err)
		all = append(all, fmt.Sprint(d.Name, " ", d.Addresses))
	}
	return all
}

// fakeClock is a wall clock that stands until it is moved.
type fakeClock struct {
	mu sync.Mutex // guards at where it is written; only the test writes
	at time.Time
}

func (c *fakeClock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *fakeClock) move(d time.Duration) { c.set(c.now().Add(d)) }

func (c *fakeClock) set(at time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = at
}

var wallStart = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }
