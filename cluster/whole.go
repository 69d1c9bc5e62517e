package cluster

import (
	"context"
	"slices"
	"sync"

	"github.com/dgraph-io/badger/v4"
)

// A replica that was away when the others forgot a deletion would never hear of it: its vector moves past the marker
// that is gone. So it takes one of them at its word. It shows an empty vector, is sent all there is, and drops what
// the sender's vector covers and the sender does not have: that was superseded, or deleted and forgotten. What it
// wrote itself meanwhile is beyond that vector and stays.

// maxWhole bounds the whole deltas that are followed at once.
const maxWhole = 8

// whole follows the deltas that a replica in need of one takes in.
type whole struct {
	mu      sync.Mutex // guards the fields below
	foreign bool       // the cells came from a backup, whatever the members say
	want    bool
	seen    map[uint64]*wholeDelta
}

// wholeDelta is a delta that is followed from its first part on.
type wholeDelta struct {
	next   uint64              // part
	prints map[uint64]struct{} // of the cells of those before
}

func (w *whole) wanted() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.want
}

// wish asks for one from now on. A part that came before does not count.
func (w *whole) wish() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.want {
		w.want, w.seen = true, map[uint64]*wholeDelta{}
	}
}

// note takes in a part, if it is of a delta that was seen from its beginning.
func (w *whole) note(p part) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.want {
		return
	}
	d := w.seen[p.delta]
	if d == nil {
		if p.index > 0 {
			return
		}
		if len(w.seen) == maxWhole {
			clear(w.seen)
		}
		d = &wholeDelta{prints: map[uint64]struct{}{}}
		w.seen[p.delta] = d
	}
	if p.index != d.next { // one is missing, or comes again
		return
	}
	d.next++
	for i := range p.records {
		d.prints[p.records[i].cell.print(p.records[i].ref)] = struct{}{}
	}
}

// cells returns the prints of all cells of a delta, of which this was the last part, or nil if it is not known whole.
func (w *whole) cells(p *part) map[uint64]struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.want || len(p.from) > 0 {
		return nil
	}
	if d := w.seen[p.delta]; d != nil && d.next == p.index+1 {
		return d.prints
	}
	return nil
}

// done ends the wish.
func (w *whole) done() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.want, w.foreign, w.seen = false, false, nil
}

// isForeign reports whether the cells came from a backup.
func (w *whole) isForeign() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.foreign
}

// MarkForeign says, durably, that the cells came from a backup and not from the members in their course: what the
// others have deleted and forgotten since is dropped when this replica meets one of them. It blocks until Run works.
func (s *Store) MarkForeign(ctx context.Context) error {
	return s.update(ctx, func(t *tx) error {
		s.markForeign(t)
		return nil
	})
}

// markForeign holds from now on, and with the transaction durably.
func (s *Store) markForeign(t *tx) {
	t.set(metaForeign, []byte{})
	s.whole.mu.Lock()
	defer s.whole.mu.Unlock()
	s.whole.foreign = true
}

// forgot reports whether the members may have forgotten deletions that this replica never saw: they left it out, or it
// does not know any more what it acknowledged, which a disk that was rolled back does not. It is asked with the last
// part of a delta, before the vector moves: whoever forgot something sends the acknowledgements that let him.
func (s *Store) forgot(t *tx, p *part) (bool, error) {
	if s.whole.isForeign() || s.whole.wanted() {
		return true, nil
	}
	if !s.unread && !slices.ContainsFunc(p.records, func(r record) bool { return r.ref.kind() == kindHave }) {
		return false, nil
	}
	all, err := s.members(t)
	if err != nil {
		return false, err
	}
	for n, a := range all {
		said := slices.Concat(a.without, a.lapsed)
		if n == s.node {
			said = []absence{{node: n, author: a.author, seq: a.seq}}
		}
		for _, o := range said {
			if o.node != s.node {
				continue
			}
			if h, err := t.head(o.author); err != nil || h.seq < o.seq {
				return true, err
			}
		}
	}
	s.unread = false
	return false, nil
}

// endWhole ends the need of a whole delta, in the transaction that moves the vector.
func (s *Store) endWhole(t *tx) error {
	s.whole.done()
	if b, err := t.get(metaForeign); err != nil {
		return err
	} else if b != nil {
		t.delete(metaForeign)
	}
	return nil
}

// keepOnly drops the cells that the sender of a whole delta knows and does not have. Edits of our own of what is deleted
// stay without it, here and wherever they go, until they are collected.
func (s *Store) keepOnly(kept map[uint64]struct{}, to vector) error {
	var gone []record
	err := s.view(func(txn *badger.Txn) error {
		return eachEntity(txn, nil, func(r ref, e *entity) error {
			for _, c := range e.cells {
				if _, ok := kept[c.print(r)]; !ok && c.seq <= to[c.stamp.author] {
					gone = append(gone, record{r, c})
				}
			}
			return nil
		})
	})
	if err != nil {
		return err
	}
	s.log.Warn("others have deleted and forgotten what stood here", "cells", len(gone))
	for some := range slices.Chunk(gone, collectBatch) {
		r := newRequest(func(t *tx) error { return t.dropAll(some) })
		r.local = false
		if err := s.submit(context.Background(), r); err != nil {
			return err
		}
	}
	return nil
}

// dropAll drops those of the cells that stand as they were.
func (t *tx) dropAll(gone []record) error {
	for _, g := range gone {
		e, err := t.entity(g.ref)
		if err != nil {
			return err
		}
		if i, ok := e.find(g.cell.field); ok && e.cells[i].compare(&g.cell) == 0 {
			if err := t.drop(g.ref, e, i); err != nil {
				return err
			}
		}
	}
	return nil
}
