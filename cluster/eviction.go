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

// An eviction is a field of an admission that names who evicted. Its value says when, and up to where the writes of
// the evicted one were known then. Replicas that know of it take nothing more from that gateway itself, which is for
// those who carry the bytes to see to. What others had taken from it before they knew stays, since what it overwrote
// is gone: it is listed for review. But what it wrote beyond what was known says nothing, at every replica, of who is a
// member, who is evicted, which keys hold and what an administrator's password is: else one side of a split would let
// in, for good, whom the evicted one has brought along.

// Eviction says that a gateway is no member any more, for good.
type Eviction struct {
	Node Node
	Name string // as it was called last
	By   Node
	At   time.Time // to the millisecond
	at   stamp
	cut  vector
	own  map[Node]bool // who had admitted itself, as far as was known; nil: not told
	// prints are of the cells that say so.
	prints []uint64
}

// wireEviction is the value of an eviction in CBOR.
type wireEviction struct {
	At  int64      `cbor:"1,keyasint"` // Unix milliseconds
	Cut wireDigest `cbor:"2,keyasint"` // heads of the evicted one's writes
	Own [][]byte   `cbor:"3,keyasint"` // who had admitted itself
}

// evictionOf reads an eviction from its cell; ok is false if that is none. After one that cannot be read nothing counts
// as known.
func evictionOf(n Node, c *cell) (v Eviction, ok bool) {
	by, cut := strings.CutPrefix(c.field, fieldEvicted)
	v = Eviction{
		Node: n, By: c.stamp.author.node(), At: c.stamp.when(), at: c.stamp, prints: []uint64{c.print(admissionRef(n))},
	}
	if !cut || by != v.By.String() || v.By == n {
		return v, false
	}
	var w wireEviction
	if decoder.Unmarshal(c.value, &w) != nil {
		return v, true
	}
	v.At = time.UnixMilli(w.At).UTC()
	if cut, err := w.Cut.vector(); err == nil {
		v.cut = cut
	}
	if w.Own != nil {
		v.own = map[Node]bool{}
	}
	for _, b := range w.Own {
		if len(b) == len(Node{}) {
			v.own[Node(b)] = true
		}
	}
	return v, true
}

// foreign reports whether a cell is of a field that another gateway has for itself, or gives an admission another life,
// which would end what others wrote of it: it has none.
func (r *record) foreign() bool {
	if r.ref.kind() != kindAdmission {
		return false
	}
	by := r.cell.stamp.author.node()
	if r.cell.field == fieldLeft {
		return r.cell.life > 0 || string(r.ref.id()) != string(by[:])
	}
	of, ok := strings.CutPrefix(r.cell.field, fieldEvicted)
	return r.cell.life > 0 || ok && of != by.String()
}

// evicts reports whether a cell at a place is an eviction.
func (c *cell) evicts(r ref) bool {
	return r.kind() == kindAdmission && strings.HasPrefix(c.field, fieldEvicted)
}

// beyond reports whether a write of the evicted one was not known when it was evicted.
func (v *Eviction) beyond(c *cell) bool { return c.seq > v.cut[c.stamp.author] }

// Evict ends the admission of a gateway, whatever is written of it elsewhere at the same time. It returns an error that
// wraps ErrNotFound.
func (s *Store) Evict(ctx context.Context, n Node) error {
	return s.update(ctx, func(t *tx) error {
		_, err := s.evict(t, n)
		return err
	})
}

// Expel is Evict, and with it, in one transaction, a new key of each kind: the cluster keys of before hold no more, the
// gossip keys go when all that are present have the new one.
//
// The secrets of those that hold no more are overwritten after that: there may be more than a transaction can hold.
func (s *Store) Expel(ctx context.Context, n Node) error {
	var ended []RingKey
	err := s.update(ctx, func(t *tx) error {
		anew, err := s.evict(t, n)
		if err != nil || !anew {
			return err
		}
		v, r, err := t.ring()
		if err != nil || len(r.Keys)+len(r.Former) == 0 {
			return err
		}
		_, ended, err = s.renewKeys(t, &v, &r, KeyKinds...)
		return err
	})
	if err == nil {
		s.endKeys(ctx, ended)
	}
	return err
}

// evict reports whether the gateway was none before.
func (s *Store) evict(t *tx, n Node) (anew bool, err error) {
	v, err := readVerdicts(t)
	if err != nil {
		return false, err
	}
	e, err := t.entity(admissionRef(n))
	if err != nil {
		return false, err
	}
	if _, ok := admissionOf(n[:], e); !ok || n == s.node {
		return false, fmt.Errorf("gateway %s: %w", n, ErrNotFound)
	}
	if _, evicted := v.of[n]; evicted {
		return false, nil
	}
	cut, err := s.cutOf(t, n)
	if err != nil {
		return false, err
	}
	w := wireEviction{At: s.clock.now().UnixMilli(), Cut: cut.wire(0), Own: [][]byte{}}
	err = v.each(t, func(a Admission, stands bool) {
		if own := NodeOf(a.Key); stands && a.own && own != n {
			w.Own = append(w.Own, own[:])
		}
	})
	if err != nil {
		return false, err
	}
	value, err := encoder.Marshal(w)
	if err != nil {
		return false, fmt.Errorf("encode eviction: %w", err)
	}
	return true, t.put(admissionRef(n), fieldEvicted+s.node.String(), value)
}

// cutOf returns up to where a gateway's writes are known. It leaves out the incarnations of which nothing stands; of more
// than a vector may name those of which most stands are in it.
func (s *Store) cutOf(t *tx, n Node) (vector, error) {
	heads := map[author]head{}
	for a := range s.heads {
		h, err := t.head(a)
		if err != nil {
			return nil, err
		}
		if a.node() == n && h.cells > 0 {
			heads[a] = h
		}
	}
	all := slices.SortedFunc(maps.Keys(heads), func(a, b author) int {
		return cmp.Or(cmp.Compare(heads[b].cells, heads[a].cells), compareAuthors(a, b))
	})
	cut := vector{}
	for _, a := range all[:min(len(all), maxAuthors)] {
		if h := heads[a]; h.seq > 0 {
			cut[a] = h.seq
		}
	}
	return cut, nil
}

// Evicted returns the eviction of a gateway and whether there is one.
func (s *Store) Evicted(n Node) (v Eviction, ok bool, err error) {
	err = s.judge(func(_ *badger.Txn, all *verdicts) error {
		v, ok = all.of[n]
		return nil
	})
	return v, ok, err
}

// Evictions returns all evictions, the newest first.
func (s *Store) Evictions() ([]Eviction, error) {
	var all []Eviction
	err := s.judge(func(_ *badger.Txn, v *verdicts) error {
		all = slices.SortedFunc(maps.Values(v.of), func(a, b Eviction) int {
			return cmp.Or(b.At.Compare(a.At), bytes.Compare(a.Node[:], b.Node[:]))
		})
		return nil
	})
	return all, err
}

// Suspended returns those who are no members until a member admits them again, ascending: an evicted gateway admitted
// them, or who admitted them, beyond what was known of it, or they admitted themselves.
func (s *Store) Suspended() (all []Admission, err error) {
	err = s.judge(func(txn *badger.Txn, v *verdicts) error {
		return v.each(snapshot{txn}, func(a Admission, stands bool) {
			if !stands {
				all = append(all, a)
			}
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
	// Beyond says that it was not known when the gateway was evicted and came by way of another, or that the gateway's
	// admission does not stand.
	Beyond bool
}

// maxWritings bounds a review.
const maxWritings = 1000

// Writings returns what stands of a gateway's writes since a time, and all that is void, the newest first and at most
// 1000. What it said of itself, and records of the audit, are left out.
func (s *Store) Writings(n Node, since time.Time) ([]Writing, error) {
	found := map[ref]*Writing{}
	err := s.judge(func(txn *badger.Txn, v *verdicts) error {
		it := txn.NewIterator(keysOnly(append([]byte{atDot}, n[:]...)))
		defer it.Close()
		var last ref
		var e *entity // last; what was written of one entity at once stands side by side
		for it.Rewind(); it.Valid(); it.Next() {
			_, _, r, field, ok := cutDot(it.Item().Key())
			if !ok || !reviewed(r, n) {
				continue
			}
			if e == nil || r != last {
				var err error
				if e, err = readEntity(snapshot{txn}, r); err != nil {
					return err
				}
				last = r
			}
			c := e.get(field)
			if c == nil {
				continue
			}
			beyond, err := v.void(snapshot{txn}, c)
			if err != nil {
				return err
			}
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
