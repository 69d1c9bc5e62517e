package cluster

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/dgraph-io/badger/v4"
)

// Keys in Badger. All numbers are big-endian.
//
//	e ref                 an entity: its cells
//	d author seq ref field   the dot of a stored cell: who wrote it, as his how-manieth
//	h author              the head of an author: seq (8), number of stored cells (8)
//	n name                the devices of a name: their keys, sorted
//	a address             the devices that claim an address: their keys, sorted
//	x address             an address that more than one device claims
//	l key                 a device alive that claims no address of a family
//	v key                 a device alive as it is shown, see view.go
//	g ref                 a deleted entity of which only that stands, see collect.go
//	m name                one number or text about the store itself
//	o id                  a request that was carried out, see once.go
//	f ref                 an entity as it is shown, if it has cells of the far future, see future.go
//	t key                 TAI64N received last from a device alive, see clocks.go
const (
	atEntity  = 'e'
	atDot     = 'd'
	atHead    = 'h'
	atName    = 'n'
	atAddress = 'a'
	atContest = 'x'
	atLack    = 'l'
	atView    = 'v'
	atMeta    = 'm'
	atClock   = 't'
	atOnce    = 'o'
	atHeld    = 'f'
	atMarker  = 'g'
)

var (
	metaFormat  = []byte("mformat")
	metaCeiling = []byte("mceiling")
	metaPrint   = []byte("mprint")   // exclusive or of the prints of all cells
	metaDevices = []byte("mdevices") // number of devices alive
	// metaConflicts is the number of conflicts listed.
	metaConflicts = []byte("mconflicts")
	metaMarkers   = []byte("mmarkers") // the list of markers is made
	metaForeign   = []byte("mforeign") // the cells came from a backup, see whole.go
	metaEpoch     = []byte("mepoch")   // raised with each change of an admission
)

func entityKey(r ref) []byte { return append([]byte{atEntity}, r...) }

func dotKey(r ref, c *cell) []byte {
	b := append([]byte{atDot}, c.stamp.author[:]...)
	b = binary.BigEndian.AppendUint64(b, c.seq)
	b = append(b, r...)
	return append(b, c.field...)
}

// dotsAbove is where the dots of an author above a seq begin.
func dotsAbove(a author, seq uint64) []byte {
	return binary.BigEndian.AppendUint64(append([]byte{atDot}, a[:]...), seq+1)
}

// cutDot takes apart what dotKey made.
func cutDot(b []byte) (a author, seq uint64, r ref, field string, ok bool) {
	if len(b) < 1+len(a)+8 {
		return a, 0, "", "", false
	}
	a, b = author(b[1:1+len(a)]), b[1+len(a):]
	seq, b = binary.BigEndian.Uint64(b), b[8:]
	r, b, ok = cutRef(b)
	return a, seq, r, string(b), ok
}

func headKey(a author) []byte { return append([]byte{atHead}, a[:]...) }

// head is what a replica knows of an author.
type head struct {
	seq   uint64 // every cell up to it, or one that supersedes it, is here
	cells uint64 // how many of his cells are stored
}

func decodeHead(b []byte) head {
	if len(b) != 16 {
		return head{}
	}
	return head{binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:])}
}

func (h head) encode() []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, h.seq), h.cells)
}

// reader reads one state of the store. The slice belongs to the caller until
// the state is let go; nil means that there is no such key.
type reader interface {
	get(key []byte) ([]byte, error)
}

// snapshot reads what is committed.
type snapshot struct{ txn *badger.Txn }

func (s snapshot) get(key []byte) ([]byte, error) {
	item, err := s.txn.Get(key)
	if errors.Is(err, badger.ErrKeyNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read store: %w", err)
	}
	b, err := item.ValueCopy(nil)
	if err != nil {
		return nil, fmt.Errorf("read store: %w", err)
	}
	return b, nil
}

// readEntity returns an entity, empty if there is none.
func readEntity(r reader, at ref) (*entity, error) {
	b, err := r.get(entityKey(at))
	if err != nil || b == nil {
		return &entity{}, err
	}
	return decodeEntity(b)
}

func readNumber(r reader, key []byte) (uint64, error) {
	b, err := r.get(key)
	if err != nil || len(b) != 8 {
		return 0, err
	}
	return binary.BigEndian.Uint64(b), nil
}

// overlay is what a transaction will write; nil deletes.
type overlay map[string][]byte

// bytes estimates what badger will count.
func (o overlay) bytes() (n int) {
	for k, v := range o {
		n += len(k) + len(v) + 16
	}
	return n
}

// tx is one request to the committer: reads, then writes, all or nothing. It
// sees the requests before it in the same commit.
type tx struct {
	read   source  // what is committed
	group  overlay // earlier requests of this commit
	mine   overlay
	author author
	time   uint64 // hybrid time of local writes
	// horizon is the hybrid time from which cells are of the far future.
	horizon uint64
	may     func(kind string) error // may a kind of a later format be written? nil: yes

	seq      uint64          // of local writes; 0 until the first
	size     int             // bytes of local cells
	before   map[ref]*entity // as it was shown
	entities map[ref]*entity
	held     map[ref]*entity         // as it is shown, if that differs
	refs     map[ref]struct{}        // what changed
	losses   []record                // writes of others that were overwritten unseen
	lapsed   map[Node]struct{}       // members that do not know what they acknowledged; nil: none
	given    map[netip.Addr]struct{} // allocated in this transaction; nil: none
	reserved map[netip.Addr]struct{} // not to be allocated; only read
}

func newTx(read source, group overlay, a author) *tx {
	return &tx{
		read: read, group: group, mine: overlay{}, author: a,
		before: map[ref]*entity{}, entities: map[ref]*entity{}, held: map[ref]*entity{}, refs: map[ref]struct{}{},
	}
}

func (t *tx) get(key []byte) ([]byte, error) {
	if b, ok := t.mine[string(key)]; ok {
		return b, nil
	}
	if b, ok := t.group[string(key)]; ok {
		return b, nil
	}
	return t.read.get(key)
}

func (t *tx) set(key, value []byte) { t.mine[string(key)] = value }
func (t *tx) delete(key []byte)     { t.mine[string(key)] = nil }

// entity returns the entity as this transaction has it so far.
func (t *tx) entity(r ref) (*entity, error) {
	if e, ok := t.entities[r]; ok {
		return e, nil
	}
	e, err := readEntity(t, r)
	if err != nil {
		return nil, err
	}
	t.entities[r] = e
	t.before[r] = e.clone()
	if !r.holds() {
		return e, nil
	}
	b, err := t.get(heldKey(r))
	if err != nil || b == nil {
		return e, err
	}
	h, err := decodeEntity(b)
	if err != nil {
		return nil, err
	}
	t.before[r] = h.clone()
	e.ripen(h, t.horizon)
	t.held[r] = h
	return e, nil
}

// apply takes one cell in: the one way into the data, for local writes and for
// those of others.
func (t *tx) apply(r ref, c cell) error {
	e, err := t.entity(r)
	if err != nil {
		return err
	}
	var was *entity
	if c.stamp.time > t.horizon {
		was = e.clone()
	}
	taken, gone := e.merge(c)
	t.lose(r, e, c, taken, gone)
	if r.holds() {
		t.hold(r, was, c, taken)
	}
	if !taken {
		return nil
	}
	t.refs[r] = struct{}{}
	for i := range gone {
		t.delete(dotKey(r, &gone[i]))
		if err := t.account(r, &gone[i], -1); err != nil {
			return err
		}
	}
	t.set(dotKey(r, &c), []byte{})
	return t.account(r, &c, 1)
}

// account counts a cell in or out.
func (t *tx) account(r ref, c *cell, n int) error {
	h, err := t.head(c.stamp.author)
	if err != nil {
		return err
	}
	h.cells += uint64(n) //nolint:gosec // n is 1 or -1, and what is counted out was counted in
	t.setHead(c.stamp.author, h)
	sum, err := readNumber(t, metaPrint)
	if err != nil {
		return err
	}
	t.setNumber(metaPrint, sum^c.print(r))
	return nil
}

func (t *tx) head(a author) (head, error) {
	b, err := t.get(headKey(a))
	return decodeHead(b), err
}

func (t *tx) setHead(a author, h head) { t.set(headKey(a), h.encode()) }

func (t *tx) setNumber(key []byte, n uint64) { t.set(key, binary.BigEndian.AppendUint64(nil, n)) }

// put writes a field of ours: last writer wins, within the current life.
func (t *tx) put(r ref, field string, value []byte) error {
	return t.write(r, cell{field: field, value: value})
}

// write stamps a cell and applies it. A life of zero means the current one; over may
// name what the cell has seen beside what stands.
func (t *tx) write(r ref, c cell) error {
	if len(c.value) > MaxValue || len(r.id()) > maxID || len(c.field) > maxField {
		return fmt.Errorf("%s %s: %w: a value may have %d bytes", r.kind(), c.field, ErrTooLarge, MaxValue)
	}
	if _, later := formats[r.kind()]; later && t.may != nil {
		if err := t.may(r.kind()); err != nil {
			return err
		}
	}
	e, err := t.entity(r)
	if err != nil {
		return err
	}
	if c.life == 0 {
		c.life = e.life()
	}
	c.stamp = stamp{t.time, t.author}
	if c.field == "" { // a new life, or a death, stands against every field of the old one
		for i := range e.cells {
			c.over = seen(c.over, e.cells[i].history())
		}
	}
	if old := e.get(c.field); old != nil {
		c.over = seen(c.over, old.history())
		switch far := old.stamp.time >= t.horizon && r.holds(); {
		case !far:
			c.rank = max(c.rank, old.rank)
			c.stamp.time = max(c.stamp.time, old.stamp.time+1)
		case c.rank <= old.rank:
			c.rank += (old.rank-c.rank)/2*2 + 2 // a causal length stays odd or even
		}
	}
	if t.seq == 0 {
		h, err := t.head(t.author)
		if err != nil {
			return err
		}
		h.seq++
		t.seq = h.seq
		t.setHead(t.author, h)
	}
	c.seq = t.seq
	if c, err = c.seal(); err != nil {
		return err
	}
	if n := e.size() + len(c.raw); n > maxEntity && !c.evicts(r) { // nobody fills his own admission so as to stay
		return fmt.Errorf("%s of %d bytes: %w: it may have %d", r.kind(), n, ErrTooLarge, maxEntity)
	}
	if t.size += len(r) + len(c.raw) + recordOverhead; t.size > maxOp {
		return fmt.Errorf("transaction beyond %d bytes: %w", maxOp, ErrTooLarge)
	}
	return t.apply(r, c)
}

// finish writes the entities and keeps the indices and views.
func (t *tx) finish() error {
	for _, r := range slices.Sorted(maps.Keys(t.refs)) {
		if err := t.store(r); err != nil {
			return err
		}
		if err := t.raiseEpoch(r); err != nil {
			return err
		}
		if err := t.keepHeld(r); err != nil {
			return err
		}
		if err := t.countConflicts(r); err != nil {
			return err
		}
		if err := t.reindexMarker(r); err != nil {
			return err
		}
		if r.isDevice() {
			if err := t.reindex(r); err != nil {
				return err
			}
		}
	}
	for r := range t.refs {
		if r.isDevice() {
			if err := t.review(r); err != nil {
				return err
			}
		}
	}
	return nil
}

// store writes an entity, or takes away one of which nothing stands.
func (t *tx) store(r ref) error {
	if len(t.entities[r].cells) == 0 {
		t.delete(entityKey(r))
		return nil
	}
	b, err := t.entities[r].encode()
	if err != nil {
		return fmt.Errorf("encode entity: %w", err)
	}
	t.set(entityKey(r), b)
	return nil
}
