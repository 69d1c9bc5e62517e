package cluster

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/dgraph-io/badger/v4"
)

// DefaultHorizon is how long a member that is away holds up collection.
const DefaultHorizon = 30 * 24 * time.Hour

// collectBatch bounds the markers of one transaction.
const collectBatch = 256

// members is who must have a marker before it goes: the gateways with an admission, and what each of them said.
type members map[Node]ack

// counted lists those who hold up collection: all but those of whom another says that they are absent.
func (m members) counted() (nodes []Node) {
	for n, own := range m {
		out := false
		for by, a := range m {
			o, absent := a.absent(n)
			out = out || absent && by != n && !own.answers(o)
		}
		if !out {
			nodes = append(nodes, n)
		}
	}
	return nodes
}

// stable returns up to where all who are counted hold what each author wrote; empty if nobody is counted.
func (m members) stable() vector {
	cut := vector{}
	for i, n := range m.counted() {
		if i == 0 {
			cut = m[n].have
			continue
		}
		both := vector{}
		for a, seq := range m[n].have {
			if low := min(seq, cut[a]); low > 0 {
				both[a] = low
			}
		}
		cut = both
	}
	return cut
}

// marker is what stands of a deleted entity.
type marker struct {
	ref   ref
	cells []cell // the life first
}

// covered reports whether a vector covers all its cells.
func (m *marker) covered(v vector) bool {
	for i := range m.cells {
		if v[m.cells[i].stamp.author] < m.cells[i].seq {
			return false
		}
	}
	return true
}

// hold keeps a vector below it.
func (m *marker) hold(v vector) {
	for i := range m.cells {
		a, below := m.cells[i].stamp.author, m.cells[i].seq-1
		if v[a] = min(v[a], below); v[a] == 0 {
			delete(v, a)
		}
	}
}

func markerKey(r ref) []byte { return append([]byte{atMarker}, r...) }

// isMarker reports whether an entity is deleted and nothing else stands of it, or is made of edits of a life that is not
// here: once the vector covers them, of one that was deleted and forgotten.
func (e *entity) isMarker() bool {
	if e.life() > 0 {
		return !e.alive()
	}
	return len(e.cells) > 0 && !slices.ContainsFunc(e.cells, func(c cell) bool { return c.life == 0 })
}

// reindexMarker keeps the list of markers.
func (t *tx) reindexMarker(r ref) error {
	was, err := t.get(markerKey(r))
	switch is := t.entities[r].isMarker(); {
	case is && was == nil:
		t.set(markerKey(r), []byte{})
	case !is && was != nil:
		t.delete(markerKey(r))
	}
	return err
}

// indexMarkers makes the list of markers of a store that has none.
func (s *Store) indexMarkers() error {
	group := overlay{string(metaMarkers): {}}
	err := s.db.View(func(txn *badger.Txn) error {
		if b, err := (snapshot{txn}).get(metaMarkers); b != nil || err != nil {
			group = nil
			return err
		}
		return eachEntity(txn, nil, func(r ref, e *entity) error {
			if e.isMarker() {
				group[string(markerKey(r))] = []byte{}
			}
			return nil
		})
	})
	if err != nil {
		return err
	}
	return s.flush(group)
}

// markers calls fn with each marker of what is committed until it returns false.
func (s *Store) markers(fn func(marker) bool) error {
	return s.db.View(func(txn *badger.Txn) error {
		it := txn.NewIterator(keysOnly([]byte{atMarker}))
		defer it.Close()
		for it.Rewind(); it.Valid(); it.Next() {
			r, _, ok := cutRef(it.Item().KeyCopy(nil)[1:])
			if !ok {
				continue
			}
			e, err := readEntity(snapshot{txn}, r)
			if err != nil {
				return err
			}
			if e.isMarker() && !fn(marker{r, e.cells}) {
				return nil
			}
		}
		return nil
	})
}

// Deletions returns how many deletions are remembered until all have them.
func (s *Store) Deletions() (n int, err error) {
	if err := s.enter(); err != nil {
		return 0, err
	}
	defer s.leave()
	err = s.markers(func(marker) bool { n++; return true })
	return n, err
}

// Collect acknowledges the deletions that this replica holds, so that all may forget them once all hold them. It
// leaves out members that have been away for longer than the horizon. It is called now and then; one that finds nothing
// new writes nothing.
func (s *Store) Collect(ctx context.Context, horizon time.Duration) error {
	r := newRequest(func(t *tx) error { return s.acknowledge(t, horizon, false) })
	if err := s.submit(ctx, r); err != nil {
		return fmt.Errorf("acknowledge deletions: %w", err)
	}
	return nil
}

// collect drops the markers that everybody holds. Only the committer calls it.
func (s *Store) collect() error {
	cut, err := s.agreed()
	for err == nil && len(cut) > 0 {
		var gone []ref
		err = s.markers(func(m marker) bool {
			if m.covered(cut) {
				gone = append(gone, m.ref)
			}
			return len(gone) < collectBatch
		})
		if err != nil || len(gone) == 0 {
			break
		}
		err = s.alone(func(t *tx) error { return t.forget(gone) })
		s.log.Debug("deletions collected", "entities", len(gone))
	}
	return err
}

// agreed returns up to where all hold everything. It is empty, and to be asked for again, while this replica lacks
// something that a member knew when it acknowledged: that may be the admission of another member. What one that was
// evicted took along is not waited for.
func (s *Store) agreed() (cut vector, err error) {
	err = s.db.View(func(txn *badger.Txn) error {
		t := newTx(snapshot{txn}, nil, *s.author.Load())
		all, err := s.members(t)
		if err != nil {
			return err
		}
		for _, n := range all.counted() {
			if a := all[n]; a.seq > 0 && s.heads[a.author].seq < a.seq && !a.gone {
				return nil
			}
		}
		cut, s.due = all.stable(), false
		return nil
	})
	return cut, err
}

// forget drops entities as if they had never been.
func (t *tx) forget(gone []ref) error {
	for _, r := range gone {
		e, err := t.entity(r)
		if err != nil {
			return err
		}
		for len(e.cells) > 0 {
			if err := t.drop(r, e, len(e.cells)-1); err != nil {
				return err
			}
		}
	}
	return nil
}

// drop takes a cell out of an entity without putting another in its place.
func (t *tx) drop(r ref, e *entity, i int) error {
	c := e.cells[i]
	e.cells = slices.Delete(e.cells, i, i+1)
	if h := t.held[r]; h != nil {
		if i, ok := h.find(c.field); ok && h.cells[i].compare(&c) == 0 {
			h.cells = slices.Delete(h.cells, i, i+1)
		}
	}
	t.refs[r] = struct{}{}
	t.delete(dotKey(r, &c))
	return t.account(r, &c, -1)
}
