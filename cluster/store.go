package cluster

import (
	"cmp"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/bits"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dgraph-io/badger/v4"
)

// format is the version of the layout in Badger.
const format = 1

// Config says where a store is and whose it is.
type Config struct {
	Dir  string           // of Badger, made if missing; "" keeps everything in memory
	Node Node             // whose writes these are
	Now  func() time.Time // wall clock; nil means time.Now
	Log  *slog.Logger     // nil means slog.Default

	disk   func(dir string) (free, total uint64, err error) // of a test; nil means the system's
	random io.Reader                                        // of incarnations; nil means crypto/rand. Tests give a seeded one
}

// Ref names an entity that changed.
type Ref struct {
	Kind string // "device", "gateway", "setting", "admission", or a kind of a newer version
	ID   string // base64 of a device's key, hex of a node, name of a setting
}

func compareRefs(a, b Ref) int {
	return cmp.Or(strings.Compare(a.Kind, b.Kind), strings.Compare(a.ID, b.ID))
}

// Store is the replicated state on disk. All methods may be called from several
// goroutines. Reads are answered from what is committed; writes wait for Run.
type Store struct {
	dir    string
	node   Node
	log    *slog.Logger
	db     *badger.DB
	clock  *clock
	random io.Reader // of incarnations
	part   int       // bytes of a part that Delta makes, at most maxPart

	requests chan *request // unbuffered: what is taken is carried out
	raise    chan struct{} // buffered 1: the clock is above its durable ceiling
	changed  chan struct{} // buffered 1: local writes want pushing
	closing  chan struct{} // closed by Close
	stopped  chan struct{} // closed when Run has ended
	stopOnce sync.Once
	running  atomic.Bool
	cloned   atomic.Bool // our own incarnation was seen above our head

	confirmed atomic.Bool // tokens may be spent, see token.go

	author  atomic.Pointer[author] // ours; only the committer changes it
	digest  atomic.Pointer[[]byte]
	mark    atomic.Pointer[Mark]
	devices atomic.Int64

	gate   gate
	volume *volume
	seal   atomic.Pointer[SealedError] // nil: changes are taken

	judged atomic.Pointer[judged]

	mu          sync.Mutex // guards subscribers
	subscribers []func([]Ref)

	// The committer's own; Open fills them before it runs.
	heads    map[author]head
	print    uint64
	deltas   deltas
	contests contests
	onces    onces
	pipeline pipeline
	// conflicts is how many are listed, held how many entities have cells of the far future.
	conflicts, held uint64
	ripenAt         time.Time         // before it nothing held is looked through
	nodes           map[Node]struct{} // ever admitted, or heard to acknowledge
	due             bool              // who holds what may have changed
	unread          bool              // acknowledgements have come since the vector was last found to cover ours

	whole whole
	actor *Actor // of Run's context
}

// Open opens the store of a gateway, or makes it. It returns an *InUseError if
// another process has it, and a *FormatError if a newer version wrote it. It
// starts nothing of ours; call Run.
func Open(cfg Config) (*Store, error) {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.random == nil {
		cfg.random = rand.Reader
	}
	log := cfg.Log
	db, volume, err := openDisk(cfg)
	if err != nil {
		return nil, err
	}
	s := &Store{
		dir: cfg.Dir, node: cfg.Node, log: log, db: db, volume: volume, random: cfg.random, part: maxPart,
		requests: make(chan *request), raise: make(chan struct{}, 1), changed: make(chan struct{}, 1),
		closing: make(chan struct{}), stopped: make(chan struct{}),
		heads: map[author]head{}, contests: contests{}, nodes: map[Node]struct{}{},
	}
	s.pipeline = pipeline{store: s, send: s.send, next: newGroup(), landed: make(chan error, 1)}
	s.begin()
	if err := s.load(cfg.Now); err != nil {
		_ = db.Close()
		return nil, err
	}
	return s, nil
}

// begin takes a new incarnation, at random.
func (s *Store) begin() {
	var b [8]byte
	_, _ = io.ReadFull(s.random, b[:]) // never fails, crypto/rand
	a := authorOf(s.node, binary.BigEndian.Uint64(b[:]))
	s.author.Store(&a)
}

func number(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

// load reads what the committer keeps in memory, and writes the format of a new store.
func (s *Store) load(now func() time.Time) error {
	var found, ceiling, devices uint64
	err := s.db.View(func(txn *badger.Txn) error {
		r := snapshot{txn}
		for key, to := range map[string]*uint64{
			string(metaFormat): &found, string(metaCeiling): &ceiling,
			string(metaPrint): &s.print, string(metaDevices): &devices, string(metaConflicts): &s.conflicts,
		} {
			n, err := readNumber(r, []byte(key))
			if err != nil {
				return err
			}
			*to = n
		}
		if found > format {
			return nil
		}
		s.contests.load(txn)
		if err := s.onces.load(txn); err != nil {
			return err
		}
		if err := s.loadNodes(txn); err != nil {
			return err
		}
		foreign, err := r.get(metaForeign)
		if err != nil {
			return err
		}
		s.whole.foreign = foreign != nil
		heads, err := readHeads(txn)
		s.heads = heads
		return errors.Join(err, eachHeld(txn, func(ref, *entity, *entity) { s.held++ }))
	})
	if err != nil {
		return fmt.Errorf("open store %s: %w", s.dir, err)
	}
	if found > format {
		return &FormatError{Dir: s.dir, Found: found, Known: format}
	}
	if found == 0 {
		if err := s.flush(overlay{string(metaFormat): number(format)}); err != nil {
			return fmt.Errorf("open store %s: %w", s.dir, err)
		}
	}
	if err := s.indexMarkers(); err != nil {
		return fmt.Errorf("open store %s: %w", s.dir, err)
	}
	s.clock = newClock(now, ceiling)
	s.show(devices)
	return nil
}

// remember takes a commit into what is kept in memory.
func (s *Store) remember(group overlay) {
	devices := uint64(s.devices.Load()) //nolint:gosec // a count
	for k, v := range group {
		switch k[0] {
		case atHead:
			s.heads[author([]byte(k[1:]))] = decodeHead(v)
		case atContest, atLack:
			s.contests.note(k, v != nil)
		case atOnce:
			s.onces.note(k, v)
		case atHeld:
			s.held++ // at least as many as there are; ripen looks
		case atEntity:
			s.noteNode(ref(k[1:]))
		}
	}
	if v, ok := group[string(metaPrint)]; ok {
		s.print = binary.BigEndian.Uint64(v)
	}
	if v, ok := group[string(metaConflicts)]; ok {
		s.conflicts = binary.BigEndian.Uint64(v)
	}
	if v, ok := group[string(metaDevices)]; ok {
		devices = binary.BigEndian.Uint64(v)
	}
	s.show(devices)
}

// show publishes what is answered without reading.
func (s *Store) show(devices uint64) {
	v := vectorOf(s.heads)
	if s.whole.wanted() {
		v = vector{}
	}
	d := v.digest(s.print)
	s.digest.Store(&d)
	own := *s.author.Load()
	s.mark.Store(&Mark{own, s.heads[own].seq})
	s.devices.Store(int64(devices & (1<<(bits.UintSize-1) - 1))) //nolint:gosec // masked
}

// Close frees the store: it ends Run, waits for readers and closes Badger. It
// may be called twice.
func (s *Store) Close() error {
	if !s.gate.close() {
		return nil
	}
	close(s.closing)
	s.gate.users.Wait()
	s.stopOnce.Do(func() { close(s.stopped) })
	return s.closeDisk()
}

// gate counts those who use the store, so that Close waits for them.
type gate struct {
	users  sync.WaitGroup
	mu     sync.Mutex // guards closed
	closed bool
}

// close shuts the gate and reports whether it was open.
func (g *gate) close() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	was := !g.closed
	g.closed = true
	return was
}

func (s *Store) enter() error {
	s.gate.mu.Lock()
	defer s.gate.mu.Unlock()
	if s.gate.closed {
		return ErrClosed
	}
	s.gate.users.Add(1)
	return nil
}

func (s *Store) leave() { s.gate.users.Done() }

// view reads one committed state.
func (s *Store) view(fn func(*badger.Txn) error) error {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.leave()
	return s.db.View(fn)
}

// Stamp returns the next time of the hybrid logical clock: 48 bit Unix
// milliseconds, 16 bit counter. Each is greater than all before, also across a
// restart with the clock set back. It does not block.
func (s *Store) Stamp() uint64 { return s.StampAfter(0) }

// StampAfter is Stamp for an event that follows from one stamped elsewhere: the
// result is also greater than seen, however fast the clock was that made it.
// That stamp pulls our clock by 500 ms at most.
func (s *Store) StampAfter(seen uint64) uint64 {
	if seen > 0 {
		s.clock.see(seen)
	}
	t, above := s.clock.next()
	if above {
		select {
		case s.raise <- struct{}{}:
		default:
		}
	}
	return max(t, seen+1)
}

// Subscribe has fn called after each commit, of our own writes or of merged
// ones, with what changed, sorted, before the write returns. It is called by the
// committer: it must not block and must not write, but may read. The slice is shared
// between subscribers.
func (s *Store) Subscribe(fn func([]Ref)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.subscribers = append(s.subscribers[:len(s.subscribers):len(s.subscribers)], fn)
}

// Changed is signalled after writes of our own.
func (s *Store) Changed() <-chan struct{} { return s.changed }

// Blank reports whether nothing stands here.
func (s *Store) Blank() (blank bool, err error) {
	err = s.view(func(txn *badger.Txn) error {
		it := txn.NewIterator(keysOnly([]byte{atEntity}))
		defer it.Close()
		it.Rewind()
		blank = !it.Valid()
		return nil
	})
	return blank, err
}

// CountDevices returns the number of devices. It costs nothing.
func (s *Store) CountDevices() int { return int(s.devices.Load()) }

// prefixed iterates over the keys with a prefix, with their values.
func prefixed(prefix []byte) badger.IteratorOptions {
	o := badger.DefaultIteratorOptions
	o.Prefix, o.PrefetchSize = prefix, 32
	return o
}

func keysOnly(prefix []byte) badger.IteratorOptions {
	return badger.IteratorOptions{Prefix: prefix}
}

// bridge takes Badger's log, from warnings upwards.
type bridge struct{ log *slog.Logger }

func (b bridge) Errorf(f string, a ...any) {
	b.log.Error("badger", "message", strings.TrimSpace(fmt.Sprintf(f, a...)))
}

func (b bridge) Warningf(f string, a ...any) {
	b.log.Warn("badger", "message", strings.TrimSpace(fmt.Sprintf(f, a...)))
}
func (bridge) Infof(string, ...any)  {}
func (bridge) Debugf(string, ...any) {}
