package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// record is a cell with its place.
type record struct {
	ref  ref
	cell cell
}

// part is a part of a delta, checked.
type part struct {
	delta    uint64
	index    uint64
	last     bool
	records  []record
	from, to vector
	loose    bool // only cells, counted nowhere
	mend     bool // takes cells also that the vector covers
	whole    bool // set by merge: what is not in it must go before the vector moves
	settled  bool // that is done
}

// decodePart reads a part. It keeps b.
func decodePart(b []byte) (part, error) {
	if len(b) > maxPart {
		return part{}, fmt.Errorf("%w: part of %d bytes", ErrInvalidPart, len(b))
	}
	var w wirePart
	if err := decoder.Unmarshal(b, &w); err != nil {
		return part{}, fmt.Errorf("%w: part: %w", ErrInvalidPart, err)
	}
	if len(w.Records) > maxRecords || w.Index >= maxCount || w.Last != (w.From != nil) || w.Last != (w.To != nil) {
		return part{}, fmt.Errorf("%w: part out of bounds", ErrInvalidPart)
	}
	p := part{delta: w.Delta, index: w.Index, last: w.Last, records: make([]record, len(w.Records))}
	for i, r := range w.Records {
		if len(r.Kind) == 0 || len(r.Kind) > maxKind || len(r.ID) == 0 || len(r.ID) > maxID {
			return part{}, fmt.Errorf("%w: record out of bounds", ErrInvalidPart)
		}
		c, err := openCell(r.Cell)
		if err != nil {
			return part{}, err
		}
		p.records[i] = record{refOf(r.Kind, r.ID), c}
	}
	if !w.Last {
		return p, nil
	}
	var err error
	if p.from, err = w.From.vector(); err != nil {
		return part{}, err
	}
	p.to, err = w.To.vector()
	return p, err
}

// Merge takes in one part of a delta and returns when it is durable here. An
// invalid part is refused whole. behind says that something in between is missing, so that
// this replica should ask for it with its digest. An error that wraps
// ErrInvalidPart is the sender's fault. The slice must not be changed meanwhile.
// It blocks until Run works.
func (s *Store) Merge(b []byte) (behind bool, err error) {
	p, err := decodePart(b)
	if err != nil {
		return false, err
	}
	if err := s.enter(); err != nil {
		return false, err
	}
	defer s.leave()
	s.whole.note(p)
	return s.mergePart(p)
}

// mergePart has the committer merge a part, in two halves where one transaction
// would be too large: its cells may belong to large entities.
func (s *Store) mergePart(p part) (behind bool, err error) {
	r := newRequest(func(t *tx) (err error) {
		behind, err = s.merge(t, &p)
		return err
	})
	r.local = false
	r.failed = func() { s.deltas.forget(p.delta) }
	err = s.submit(context.Background(), r)
	if half := len(p.records) / 2; errors.Is(err, ErrTooLarge) && half > 0 {
		first := part{records: p.records[:half], loose: true}
		if _, err := s.mergePart(first); err != nil {
			return false, err
		}
		p.records = p.records[half:]
		return s.mergePart(p)
	}
	if err == nil && p.whole && !p.settled {
		kept := s.whole.cells(&p)
		if kept == nil {
			return true, nil // another one has ended the need of it meanwhile
		}
		if err := s.keepOnly(kept, p.to); err != nil {
			return false, err
		}
		p.settled = true
		if behind, err = s.mergePart(p); err == nil && !behind {
			err = s.submit(context.Background(), newRequest(func(t *tx) error { return s.acknowledge(t, 0, true) }))
		}
	}
	if err != nil {
		return false, err
	}
	return behind, nil
}

// merge is the committer's side of Merge.
func (s *Store) merge(t *tx, p *part) (behind bool, err error) {
	if err := s.doubt(t, p.records); err != nil {
		return false, err
	}
	for _, r := range p.records {
		if r.foreign() {
			continue
		}
		s.clock.see(r.cell.stamp.time)
		if known, err := t.knows(&r.cell); err != nil {
			return false, err
		} else if known && !p.mend {
			continue // it stands, or was superseded, or deleted and forgotten
		}
		if err := t.apply(r.ref, r.cell); err != nil {
			return false, err
		}
	}
	if err := s.recognize(t, p); err != nil {
		return false, err
	}
	if err := errors.Join(s.onLapse(t), t.listLosses()); err != nil {
		return false, err
	}
	if p.loose {
		return false, nil
	}
	if !s.deltas.take(p.delta, p.index) {
		return true, nil
	}
	if !p.last {
		return false, nil
	}
	if enough, err := s.enough(t, p); err != nil || !enough {
		return true, err
	}
	// The argument for moving needs the whole vector: what the sender left out as
	// superseded may be superseded by anything that we said we have.
	for a, seq := range p.from {
		h, err := t.head(a)
		if err != nil {
			return false, err
		}
		if h.seq < seq {
			return true, nil
		}
	}
	for a, seq := range p.to {
		h, err := t.head(a)
		if err != nil {
			return false, err
		}
		if h.seq < seq {
			h.seq = seq
			t.setHead(a, h)
		}
	}
	return false, nil
}

// knows reports whether the vector covers a cell.
func (t *tx) knows(c *cell) (bool, error) {
	h, err := t.head(c.stamp.author)
	return h.seq >= c.seq, err
}

// enough reports whether the vector may move with a complete delta: not while this replica needs a whole one. It marks
// the whole delta that has come.
func (s *Store) enough(t *tx, p *part) (bool, error) {
	if p.settled {
		return true, s.endWhole(t)
	}
	forgot, err := s.forgot(t, p)
	if err != nil {
		return false, err
	}
	if p.whole = s.whole.cells(p) != nil; p.whole {
		return false, nil
	}
	if forgot {
		s.whole.wish()
	}
	return !forgot, nil
}

// recognize looks for writes of our own incarnation that we did not make.
func (s *Store) recognize(t *tx, p *part) error {
	own, err := t.head(t.author)
	if err != nil {
		return err
	}
	above := p.to[t.author] > own.seq || slices.ContainsFunc(p.records, func(r record) bool {
		return r.cell.stamp.author == t.author && r.cell.seq > own.seq
	})
	if above {
		s.cloned.Store(true)
	}
	return nil
}

// suspect says that another replica has seen more of our incarnation than we
// have written. It does not block.
func (s *Store) suspect(a author) {
	if !s.cloned.Swap(true) {
		s.log.Debug("a digest is ahead of our own writes", "author", fmt.Sprintf("%x", a))
	}
	select {
	case s.raise <- struct{}{}:
	default:
	}
}

// maxDeltas bounds how many deltas may be under way at once.
const maxDeltas = 256

// deltas remembers how far each incoming delta has come. A delta that is
// forgotten only has to be asked for again.
type deltas struct {
	next  map[uint64]uint64
	order []uint64 // oldest first
}

// take reports whether all parts up to this one have come. A part may come again.
func (d *deltas) take(id, index uint64) bool {
	if d.next == nil {
		d.next = map[uint64]uint64{}
	}
	next, known := d.next[id]
	switch {
	case index > next:
		return false
	case index < next:
		return true
	case !known:
		if len(d.order) == maxDeltas {
			delete(d.next, d.order[0])
			d.order = d.order[1:]
		}
		d.order = append(d.order, id)
	}
	d.next[id] = index + 1
	return true
}

func (d *deltas) forget(id uint64) {
	delete(d.next, id)
	d.order = slices.DeleteFunc(d.order, func(o uint64) bool { return o == id })
}
