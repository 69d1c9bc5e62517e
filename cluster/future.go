package cluster

import (
	"time"

	"github.com/dgraph-io/badger/v4"
)

// A cell stamped more than farAhead beyond the wall clock comes from a gateway whose date is
// wrong (a wrong time zone is off by less). It is taken, counted and forwarded as any other: what
// replicas agree on does not depend on their clocks. But it is not shown: beside the entity
// is held what is shown of it, that is the same cells without those of the far future, until
// none of them is far any more. What is held belongs to this disk alone. A replica that
// never had the cells that were displaced shows the field as if it were not set.
//
// An edit here must win over a cell of the far future, and must not be one itself. It does not
// take its stamp, but a greater rank, and the edits after it keep that rank. Where a
// life is of the far future, the device that is shown is written again, in a new one, before
// it is edited.
const farAhead = 24 * time.Hour

// horizon is the hybrid time from which cells are of the far future.
func horizon(now time.Time) uint64 { return wallTime(now.Add(farAhead)) }

func heldKey(r ref) []byte { return append([]byte{atHeld}, r...) }

// holds reports whether cells of the far future are not shown. What gateways say of themselves
// and of each other takes effect at once: the mesh lives by it.
func (r ref) holds() bool { return r.isDevice() || r.kind() == kindSetting }

// far reports whether an entity has cells of the far future.
func (e *entity) far(horizon uint64) bool {
	for i := range e.cells {
		if e.cells[i].stamp.time > horizon {
			return true
		}
	}
	return false
}

// ripen takes into what is shown the cells that are not of the far future any more. It reports
// whether that changed something.
func (e *entity) ripen(shown *entity, horizon uint64) (changed bool) {
	for _, c := range e.cells {
		if c.stamp.time <= horizon {
			taken, _ := shown.merge(c)
			changed = changed || taken
		}
	}
	return changed
}

// readShown returns an entity as it is shown.
func readShown(r reader, at ref) (*entity, error) {
	b, err := r.get(heldKey(at))
	if err != nil {
		return nil, err
	}
	if b != nil {
		return decodeEntity(b)
	}
	return readEntity(r, at)
}

// shown returns an entity as this transaction will show it. It was read before.
func (t *tx) shown(r ref) *entity {
	if h := t.held[r]; h != nil {
		return h
	}
	return t.entities[r]
}

// hold keeps what is shown when a cell was applied. was is the entity before it, needed only
// for a cell of the far future.
func (t *tx) hold(r ref, was *entity, c cell, taken bool) {
	far := c.stamp.time > t.horizon
	switch h := t.held[r]; {
	case h == nil && far && taken:
		t.held[r] = was
	case h != nil && !far:
		if shown, _ := h.merge(c); shown {
			t.refs[r] = struct{}{}
		}
	}
}

// keepHeld writes what is held of an entity, or takes it away.
func (t *tx) keepHeld(r ref) error {
	h := t.held[r]
	if h == nil {
		return nil
	}
	if !t.entities[r].far(t.horizon) {
		t.held[r] = nil
		t.delete(heldKey(r))
		return nil
	}
	b, err := h.encode()
	if err != nil {
		return err
	}
	t.set(heldKey(r), b)
	return nil
}

// revive makes the entity that is shown alive the one that stands, if a life of the far
// future stands.
func (t *tx) revive(r ref) error {
	e, h := t.entities[r], t.held[r]
	if h == nil || e.life() == h.life() {
		return nil
	}
	fields := h.clone().cells
	if err := t.write(r, cell{life: newLife(e.life(), t.time)}); err != nil {
		return err
	}
	return t.copyFields(r, fields)
}

// copyFields writes cells again as ours.
func (t *tx) copyFields(r ref, cells []cell) error {
	for i := range cells {
		c := &cells[i]
		if c.field == "" {
			continue
		}
		if err := t.write(r, cell{field: c.field, rank: c.rank, value: c.value, over: c.history()}); err != nil {
			return err
		}
	}
	return nil
}

// ripenEvery is how often what is held is looked through.
const ripenEvery = time.Minute

// ripen shows cells whose time has come.
func (s *Store) ripen(now time.Time) error {
	if s.held == 0 || now.Before(s.ripenAt) {
		return nil
	}
	s.ripenAt = now.Add(ripenEvery)
	h := horizon(s.clock.now())
	var ripe []ref
	err := s.db.View(func(txn *badger.Txn) error {
		return eachHeld(txn, func(r ref, e, shown *entity) {
			if e.ripen(shown, h) || !e.far(h) {
				ripe = append(ripe, r)
			}
		})
	})
	if err != nil {
		return err
	}
	for _, r := range ripe {
		err := s.alone(func(t *tx) error {
			_, err := t.entity(r)
			t.refs[r] = struct{}{}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// eachHeld calls fn with what is stored and what is shown of each entity that has cells of the
// far future.
func eachHeld(txn *badger.Txn, fn func(r ref, e, shown *entity)) error {
	it := txn.NewIterator(prefixed([]byte{atHeld}))
	defer it.Close()
	for it.Rewind(); it.Valid(); it.Next() {
		r, _, ok := cutRef(it.Item().KeyCopy(nil)[1:])
		if !ok {
			continue
		}
		b, err := it.Item().ValueCopy(nil)
		if err != nil {
			return err
		}
		shown, err := decodeEntity(b)
		if err != nil {
			return err
		}
		e, err := readEntity(snapshot{txn}, r)
		if err != nil {
			return err
		}
		fn(r, e, shown)
	}
	return nil
}
