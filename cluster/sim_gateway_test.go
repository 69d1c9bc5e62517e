package cluster

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"

	"github.com/dgraph-io/badger/v4"
)

// gateway is one replica of a history: a disk, and a process while it is up.
type gateway struct {
	w       *world
	i       int
	node    Node
	skew    atomic.Int64 // nanoseconds; the committer looks at its clock also after an answer
	side    int          // of the split
	full    bool
	dead    bool // for good
	foreign bool // its disk is a copy of another's

	store   *Store // nil: down
	done    chan error
	version uint64           // of the last look, while it is up
	disk    image            // what is on it; as of the last look while it is up
	saved   []image          // older copies
	heard   map[int][]byte   // digests of others
	lives   map[ref]uint64   // greatest seen on this disk
	calm    bool             // neither crashed nor set its clock
	cells   map[ref]*decoded // entities of the disk
	rnd     *rand.Rand       // of incarnations
}

// decoded is an entity and what it was read from.
type decoded struct {
	raw    []byte
	entity *entity
}

// image is the contents of a disk.
type image map[string][]byte

func (m image) get(key []byte) ([]byte, error) { return m[string(key)], nil }

var _ reader = image(nil)

// imageOf copies what a store had on disk at a version of Badger's.
func imageOf(s *Store, version uint64) (image, error) {
	m := image{}
	err := s.view(func(txn *badger.Txn) error {
		o := badger.DefaultIteratorOptions
		o.PrefetchValues = false
		o.AllVersions = version < math.MaxUint64
		it := txn.NewIterator(o)
		defer it.Close()
		var at []byte
		for it.Rewind(); it.Valid(); it.Next() {
			item := it.Item()
			if item.Version() > version || at != nil && bytes.Equal(at, item.Key()) {
				continue
			}
			at = item.KeyCopy(at[:0])
			if item.IsDeletedOrExpired() {
				continue
			}
			v, err := item.ValueCopy(nil)
			if err != nil {
				return err
			}
			m[string(at)] = v
		}
		return nil
	})
	return m, err
}

// versionOf returns the number of the last commit.
func versionOf(s *Store) (v uint64) {
	_ = s.view(func(txn *badger.Txn) error {
		v = txn.ReadTs()
		return nil
	})
	return v
}

// Read makes a gateway the source of its incarnations.
func (g *gateway) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = byte(g.rnd.Uint32())
	}
	return len(b), nil
}

func (g *gateway) now() time.Time { return g.w.now().Add(time.Duration(g.skew.Load())) }

// start opens the store with what is on the disk.
func (g *gateway) start() {
	s, err := Open(Config{Node: g.node, Now: g.now, Log: quiet, random: g})
	g.w.check(err)
	s.part = g.w.weather.part
	if len(g.disk) > 0 {
		group := overlay{}
		for k, v := range g.disk {
			group[k] = v
		}
		g.w.check(s.flush(group))
		s.heads, s.contests = map[author]head{}, contests{}
		g.w.check(s.load(g.now))
	}
	g.store, g.done = s, make(chan error, 1)
	go func() { g.done <- s.Run(context.Background()) }()
	if g.foreign {
		g.w.check(s.MarkForeign(context.Background()))
		g.foreign = false
	}
	g.look()
}

// halt ends the process. The disk stays as it was at the last look.
func (g *gateway) halt() {
	if g.store == nil {
		return
	}
	err := errors.Join(g.store.Close(), <-g.done)
	g.store, g.version, g.heard, g.calm = nil, 0, map[int][]byte{}, false
	if err != nil {
		panic(err)
	}
}

// settle waits until the committer has nothing to do.
func (g *gateway) settle() {
	s := g.store
	patient := newRequest(func(*tx) error {
		for a, due := range s.contests {
			if !due.IsZero() {
				s.contests[a] = time.Now().Add(time.Hour) // a history decides when patience ends, not the machine's clock
			}
		}
		s.ripenAt = time.Now().Add(time.Hour)
		return nil
	})
	for {
		before := s.Digest()
		for range 2 {
			g.w.check(s.submit(context.Background(), newRequest(nil)))
		}
		if len(s.raise) > 0 || !bytes.Equal(before, s.Digest()) {
			continue
		}
		for range 2 {
			g.w.check(s.submit(context.Background(), newRequest(nil)))
		}
		if bytes.Equal(before, s.Digest()) {
			g.w.check(s.submit(context.Background(), patient))
			return
		}
	}
}

// look waits until the committer is done, notes what is on the disk, and checks it.
func (g *gateway) look() {
	g.settle()
	v := versionOf(g.store)
	if v == g.version {
		return
	}
	g.version = v
	_, _ = g.w.sum.Write(g.store.Digest())
	m, err := imageOf(g.store, math.MaxUint64)
	g.w.check(err)
	g.see(m)
}

// see takes a disk as it is, and checks it.
func (g *gateway) see(m image) {
	g.take(m)
	g.w.examine(g)
}

func (g *gateway) take(m image) {
	g.disk = m
	cells := make(map[ref]*decoded, len(g.cells))
	for k, raw := range m {
		if k[0] != atEntity {
			continue
		}
		r := ref(k[1:])
		if d := g.cells[r]; d != nil && bytes.Equal(d.raw, raw) {
			cells[r] = d
			continue
		}
		e, err := decodeEntity(raw)
		g.w.check(err)
		cells[r] = &decoded{raw, e}
	}
	g.cells = cells
}

// entity returns an entity on the disk, empty if there is none.
func (g *gateway) entity(r ref) *entity {
	if d := g.cells[r]; d != nil {
		return d.entity
	}
	return &entity{}
}

// risky does something that commits and, by chance, has the process die at one of the commits, or after the last one
// and before the answer. It reports whether the process survived.
func (g *gateway) risky(do func()) bool {
	before := versionOf(g.store)
	do()
	if g.w.over || !g.w.chance(0.04) {
		g.look()
		return true
	}
	g.settle()
	after := versionOf(g.store)
	at := before + g.w.rnd.Uint64N(after-before+1)
	m, err := imageOf(g.store, at)
	g.w.check(err)
	g.w.note("gateway %d dies at commit %d of %d", g.i, at-before, after-before)
	g.halt()
	g.see(m)
	g.later()
	return false
}

// later has the process come back.
func (g *gateway) later() {
	g.w.after(g.w.upTo(pick(g.w, 0, time.Second, time.Minute, 40*24*time.Hour)), func() {
		if g.store == nil && !g.dead {
			g.w.note("gateway %d starts", g.i)
			g.start()
		}
	})
}

// replace puts another disk in a gateway's place.
func (g *gateway) replace(m image) {
	g.halt()
	g.lives = map[ref]uint64{}
	g.take(m)
	g.w.excuse()
	g.w.examine(g)
}

// farthest is how far the clock of a gateway is ahead whose date is wrong.
const farthest = 400 * 24 * time.Hour

// begin starts all gateways, as one cluster.
func (w *world) begin() {
	for i := range w.weather.gateways {
		skew := pick(
			w, 0, 0, 0, 0, w.upTo(20*time.Millisecond), -w.upTo(5*time.Second), w.upTo(time.Hour), -w.upTo(time.Hour),
		)
		if w.rnd.IntN(40) == 0 {
			skew = farthest
		}
		if w.weather.even {
			skew = 0
		}
		g := &gateway{
			w: w, i: i, node: NodeOf(testSigner(i).Public().(ed25519.PublicKey)),
			heard: map[int][]byte{}, lives: map[ref]uint64{}, calm: true,
		}
		g.skew.Store(int64(skew))
		g.rnd = rand.New(rand.NewPCG(w.seed, uint64(2+i)))
		w.all = append(w.all, g)
		g.saved = append(g.saved, image{})
		w.note("gateway %d is %v ahead", i, skew)
		g.start()
	}
	ctx := context.Background()
	for _, g := range w.all {
		w.check(w.all[0].store.Admit(ctx, Admission{Key: testSigner(g.i).Public().(ed25519.PublicKey), At: w.now()}))
	}
	w.check(w.all[0].store.SetSettings(ctx, map[string][]byte{
		settingPool: []byte(w.weather.pool), settingULA: []byte("fd00:1:2:3::/64"),
	}))
	w.all[0].look()
	for _, g := range w.all[1:] {
		w.pull(g, w.all[0])
	}
}

// crash kills a process.
func (w *world) crash(g *gateway) {
	if g.store == nil {
		return
	}
	w.note("gateway %d dies", g.i)
	g.halt()
	g.later()
}

// save copies a disk.
func (w *world) save(g *gateway) {
	if g.dead {
		return
	}
	w.note("gateway %d is copied", g.i)
	g.saved = append(g.saved, g.disk)
	if len(g.saved) > 4 {
		g.saved = slices.Delete(g.saved, 0, 1)
	}
}

// restore starts a gateway with an older copy of a disk: mostly of its own.
func (w *world) restore(g *gateway) {
	of := g
	if w.chance(0.2) {
		of = pick(w, w.all...)
	}
	if g.dead || !w.chance(0.5) {
		return
	}
	w.note("gateway %d gets an older copy of %d", g.i, of.i)
	w.setBack++
	g.foreign = of != g
	g.replace(pick(w, of.saved...))
	if w.chance(0.3) {
		w.note("gateway %d is alone", g.i)
		g.side = 100 + g.i
	}
	if w.chance(0.5) {
		g.start()
		return
	}
	g.later()
}

// die takes a gateway away for good, with its disk. Two stay.
func (w *world) die(g *gateway) {
	if left := w.living(); len(left) < 3 || g.dead || !w.chance(0.3) {
		return
	}
	w.note("gateway %d is gone for good", g.i)
	g.halt()
	g.dead, g.disk, g.cells = true, image{}, nil
	w.excuse()
	w.evict(g)
}

func (w *world) living() (left []*gateway) {
	for _, g := range w.all {
		if !g.dead {
			left = append(left, g)
		}
	}
	return left
}

// fill takes the room on a disk, or gives it back.
func (w *world) fill(g *gateway) {
	g.full = !g.full
	w.note("gateway %d is full: %v", g.i, g.full)
}

// jump sets a wall clock.
func (w *world) jump(g *gateway) {
	skew := pick(w, 0, 0, w.upTo(10*time.Second), -w.upTo(time.Hour), w.upTo(time.Hour))
	g.skew.Store(int64(skew))
	g.calm = false
	w.note("gateway %d is %v ahead now", g.i, skew)
}

// sleep lets much time pass.
func (w *world) sleep(*gateway) { w.wait(w.upTo(pick(w, time.Hour, 48*time.Hour))) }

// split parts the gateways, mostly in two.
func (w *world) split(*gateway) {
	sides := 2 + w.rnd.IntN(2)
	text := ""
	for _, g := range w.all {
		g.side = w.rnd.IntN(sides)
		text += fmt.Sprint(" ", g.side)
	}
	w.note("split%s", text)
}

func (w *world) heal(*gateway) {
	w.note("healed")
	for _, g := range w.all {
		g.side = 0
	}
}

// impatient has a gateway settle contested addresses also where another should have.
func (w *world) impatient(g *gateway) {
	if g.store == nil || g.full {
		return
	}
	w.note("gateway %d loses patience", g.i)
	g.impatient()
	g.look()
}

func (g *gateway) impatient() {
	s := g.store
	g.w.check(s.submit(context.Background(), newRequest(func(*tx) error {
		for a, due := range s.contests {
			if !due.IsZero() {
				s.contests[a] = time.Unix(1, 0)
			}
		}
		return nil
	})))
}
