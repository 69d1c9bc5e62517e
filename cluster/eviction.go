package cluster

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/dgraph-io/badger/v4"
)

// An eviction is the field "evicted" of an admission. Its value says who evicted, when, and up to where the writes of
// the evicted one were known then. Replicas that know of it take nothing more from that gateway itself, which is for
// those who carry the bytes to see to. What others had taken from it before they knew stays, since what it overwrote
// is gone: it is listed for review. But an admission that it wrote beyond what was known is none, at every replica,
// until another gateway admits the newcomer again: else one side of a split would let in, for good, whom the
// evicted one has brought along.

// Eviction says that a gateway is no member any more, for good.
type Eviction struct {
	Node Node
	Name string // as it was called last
	By   Node
	At   time.Time // to the millisecond; zero: not known
	cut  vector
}

// wireEviction is the value of an eviction in CBOR.
type wireEviction struct {
	By  []byte     `cbor:"1,keyasint"`
	At  int64      `cbor:"2,keyasint"` // Unix milliseconds
	Cut wireDigest `cbor:"3,keyasint"` // heads of the evicted one's writes
}

// evictionOf reads an eviction; ok is false if there is none. One that cannot be read is one all the same, after which
// nothing counts as known.
func evictionOf(n Node, e *entity) (v Eviction, ok bool) {
	if !e.evicted() {
		return v, false
	}
	c := e.get(fieldEvicted)
	v = Eviction{Node: n, By: c.stamp.author.node()}
	if a, ok := admissionOf(n[:], e); ok {
		v.Name = a.Name
	}
	var w wireEviction
	if decoder.Unmarshal(c.value, &w) != nil {
		return v, true
	}
	if len(w.By) == len(v.By) {
		v.By = Node(w.By)
	}
	v.At = time.UnixMilli(w.At).UTC()
	if cut, err := w.Cut.vector(); err == nil {
		v.cut = cut
	}
	return v, true
}

// beyond reports whether a write of the evicted one was not known when it was evicted.
func (v *Eviction) beyond(c *cell) bool { return c.seq > v.cut[c.stamp.author] }

// standing returns an admission and whether it stands: not evicted, and not written by an evicted gateway beyond what
// was known of it. Of one that was evicted or left, or of none, nothing is returned.
func standing(r reader, id []byte, e *entity) (Admission, bool, error) {
	a, ok := admissionOf(id, e)
	if !ok || e.departed() {
		return Admission{}, false, nil
	}
	c := e.get(fieldAdmission)
	by := c.stamp.author.node()
	if string(by[:]) == string(id) {
		return a, true, nil
	}
	writer, err := readEntity(r, admissionRef(by))
	if err != nil {
		return Admission{}, false, err
	}
	if v, gone := evictionOf(by, writer); gone && v.beyond(c) {
		return a, false, nil
	}
	return a, true, nil
}

// known returns the heads of a gateway's writes.
func (s *Store) known(n Node) (v vector, err error) {
	err = s.view(func(txn *badger.Txn) error {
		heads, err := readHeads(txn)
		if err != nil {
			return err
		}
		v = vectorOf(heads)
		maps.DeleteFunc(v, func(a author, _ uint64) bool { return a.node() != n })
		return nil
	})
	return v, err
}

// Evict ends the admission of a gateway, whatever is written of it elsewhere at the same time. It returns an error that
// wraps ErrNotFound.
func (s *Store) Evict(ctx context.Context, n Node) error {
	cut, err := s.known(n)
	if err != nil {
		return err
	}
	return s.update(ctx, func(t *tx) error { return s.evict(t, n, cut) })
}

// Expel is Evict, and with it, in one transaction, the end of the cluster keys that the gateway knows and a new
// key of each kind. The old gossip keys go when all that are present have the new one.
func (s *Store) Expel(ctx context.Context, n Node) error {
	cut, err := s.known(n)
	if err != nil {
		return err
	}
	r, err := s.Ring()
	if err != nil {
		return err
	}
	gossip, join := s.newKey(&r, GossipKey, true), s.newKey(&r, JoinKey, true)
	return s.update(ctx, func(t *tx) error {
		e, err := t.entity(admissionRef(n))
		if err != nil || e.evicted() || len(r.Keys) == 0 {
			return cmp.Or(err, s.evict(t, n, cut))
		}
		if err := s.evict(t, n, cut); err != nil {
			return err
		}
		return cmp.Or(t.addKey(&gossip), t.addKey(&join), t.removeKeys(r.Of(JoinKey)))
	})
}

func (s *Store) evict(t *tx, n Node, cut vector) error {
	e, err := t.entity(admissionRef(n))
	if err != nil {
		return err
	}
	if _, ok := admissionOf(n[:], e); !ok {
		return fmt.Errorf("gateway %s: %w", n, ErrNotFound)
	}
	if e.evicted() {
		return nil
	}
	rank := uint64(1)
	if c := e.get(fieldEvicted); c != nil {
		rank = c.rank + 1
	}
	value, err := encoder.Marshal(wireEviction{By: s.node[:], At: s.clock.now().UnixMilli(), Cut: cut.wire(0)})
	if err != nil {
		return fmt.Errorf("encode eviction: %w", err)
	}
	return t.write(admissionRef(n), cell{field: fieldEvicted, rank: rank, value: value})
}

// Evicted returns the eviction of a gateway and whether there is one.
func (s *Store) Evicted(n Node) (v Eviction, ok bool, err error) {
	err = s.view(func(txn *badger.Txn) error {
		e, err := readEntity(snapshot{txn}, admissionRef(n))
		if err == nil {
			v, ok = evictionOf(n, e)
		}
		return err
	})
	return v, ok, err
}

// Evictions returns all evictions, the newest first.
func (s *Store) Evictions() ([]Eviction, error) {
	var all []Eviction
	err := s.eachEntity(kindAdmission, func(id []byte, e *entity) error {
		if len(id) != len(Node{}) {
			return nil
		}
		if v, ok := evictionOf(Node(id), e); ok {
			all = append(all, v)
		}
		return nil
	})
	slices.SortFunc(all, func(a, b Eviction) int {
		return cmp.Or(b.At.Compare(a.At), bytes.Compare(a.Node[:], b.Node[:]))
	})
	return all, err
}

// Suspended returns those whose admission an evicted gateway wrote beyond what was known of it, ascending: they are no
// members until they are admitted again.
func (s *Store) Suspended() (all []Admission, err error) {
	err = s.view(func(txn *badger.Txn) error {
		return eachOf(txn, kindAdmission, func(id []byte, e *entity) error {
			a, ok := admissionOf(id, e)
			if !ok || e.departed() {
				return nil
			}
			_, stands, err := standing(snapshot{txn}, id, e)
			if err == nil && !stands {
				all = append(all, a)
			}
			return err
		})
	})
	return all, err
}

// Writing is what of one entity a gateway wrote last, for review.
type Writing struct {
	Ref    Ref
	Name   string    // "" if it has none
	Fields []string  // ascending; "" is the entity's life or death
	At     time.Time // of the newest, by its clock
	Beyond bool      // not known when the gateway was evicted: it came by way of another
}

// maxWritings bounds a review.
const maxWritings = 1000

// Writings returns what stands of a gateway's writes since a time, and all that was not known when it was evicted, the
// newest first and at most 1000. What it said of itself, and records of the audit, are left out.
func (s *Store) Writings(n Node, since time.Time) ([]Writing, error) {
	found := map[ref]*Writing{}
	err := s.view(func(txn *badger.Txn) error {
		e, err := readEntity(snapshot{txn}, admissionRef(n))
		if err != nil {
			return err
		}
		eviction, evicted := evictionOf(n, e)
		it := txn.NewIterator(keysOnly(append([]byte{atDot}, n[:]...)))
		defer it.Close()
		for it.Rewind(); it.Valid(); it.Next() {
			_, _, r, field, ok := cutDot(it.Item().Key())
			if !ok || !reviewed(r, n) {
				continue
			}
			e, err := readEntity(snapshot{txn}, r)
			if err != nil {
				return err
			}
			c := e.get(field)
			if c == nil {
				continue
			}
			beyond := evicted && eviction.beyond(c)
			if !beyond && c.stamp.when().Before(since) {
				continue
			}
			w := found[r]
			if w == nil {
				w = &Writing{Ref: r.public(), Name: nameOf(r, e)}
				found[r] = w
			}
			w.Fields, w.Beyond = append(w.Fields, publicField(field)), w.Beyond || beyond
			if at := c.stamp.when(); at.After(w.At) {
				w.At = at
			}
		}
		return nil
	})
	all := make([]Writing, 0, len(found))
	for _, w := range found {
		slices.Sort(w.Fields)
		all = append(all, *w)
	}
	slices.SortFunc(all, func(a, b Writing) int {
		return cmp.Or(b.At.Compare(a.At), strings.Compare(a.Ref.Kind, b.Ref.Kind), strings.Compare(a.Ref.ID, b.Ref.ID))
	})
	return all[:min(len(all), maxWritings)], err
}

// reviewed reports whether a write of a gateway is one that an administrator should look at.
func reviewed(r ref, by Node) bool {
	switch r.kind() {
	case kindAudit, kindAuditCut, kindHave, kindRing, kindConflict:
		return false
	case kindGateway, kindAdmission:
		return string(r.id()) != string(by[:])
	}
	return true
}

func nameOf(r ref, e *entity) string {
	if a, ok := admissionOf(r.id(), e); ok && r.kind() == kindAdmission {
		return a.Name
	}
	return string(e.value(fieldName))
}
