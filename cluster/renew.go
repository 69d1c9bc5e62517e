package cluster

import (
	"github.com/dgraph-io/badger/v4"
)

// renew takes a new incarnation and writes the cells of the old one again under
// it. The head of the old one is forgotten, so that what another copy of this
// machine wrote under it comes in.
func (s *Store) renew() error {
	if err := s.pipeline.drain(); err != nil {
		return err
	}
	old := *s.author.Load()
	s.begin()
	s.log.Warn("another copy of this gateway has written; taking a new incarnation", "node", s.node)
	for first := true; ; first = false {
		dots, err := s.dotsOf(old, 256)
		if err != nil {
			return err
		}
		if len(dots) == 0 && !first {
			return nil
		}
		err = s.alone(func(t *tx) error {
			h, err := t.head(old)
			if err != nil {
				return err
			}
			h.seq = 0
			t.setHead(old, h)
			return t.rewrite(dots)
		})
		if err != nil {
			return err
		}
	}
}

// dot names a stored cell.
type dot struct {
	ref   ref
	field string
}

// dotsOf returns some of an author's cells.
func (s *Store) dotsOf(a author, limit int) (dots []dot, err error) {
	prefix := append([]byte{atDot}, a[:]...)
	err = s.db.View(func(txn *badger.Txn) error {
		it := txn.NewIterator(keysOnly(prefix))
		defer it.Close()
		for it.Rewind(); it.Valid() && len(dots) < limit; it.Next() {
			if _, _, r, field, ok := cutDot(it.Item().Key()); ok {
				dots = append(dots, dot{r, field})
			}
		}
		return nil
	})
	return dots, err
}

// rewrite writes cells of ours again, as they are, under the current author: at
// least one, and no more than fit.
func (t *tx) rewrite(dots []dot) error {
	for _, d := range dots {
		e, err := t.entity(d.ref)
		if err != nil {
			return err
		}
		c := e.get(d.field)
		if c == nil {
			continue
		}
		if t.size > maxOp/2 {
			return nil
		}
		if err := t.write(d.ref, cell{field: c.field, life: c.life, rank: c.rank, value: c.value}); err != nil {
			return err
		}
	}
	return nil
}

// alone carries out a transaction of the committer's own, after all that was taken before.
func (s *Store) alone(run func(*tx) error) error {
	p := &s.pipeline
	if err := p.drain(); err != nil {
		return err
	}
	r := newRequest(run)
	p.take(r)
	if err := p.drain(); err != nil {
		return err
	}
	return <-r.done
}
