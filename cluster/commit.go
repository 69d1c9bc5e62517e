package cluster

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/dgraph-io/badger/v4"
)

const (
	maxGroup = 128 // requests in one commit
	// maxEntries and maxBytes bound one Badger transaction, below Badger's own
	// limits of 15 % of a memory table.
	maxEntries = 10_000
	maxBytes   = 1 << 20
)

// request is one transaction on its way through the committer.
type request struct {
	run    func(*tx) error // may run more than once; nil: only raises the clock's ceiling
	failed func()          // called by the committer when run's writes were given up; may be nil
	local  bool            // wants to be pushed
	actor  *Actor          // who is recorded as its author; nil: nobody
	done   chan error      // buffered 1
	tx     *tx             // of the last run, when it was written
}

func newRequest(run func(*tx) error) *request {
	return &request{run: run, local: true, done: make(chan error, 1)}
}

// Run is the one committer: it takes waiting writes together, up to maxGroup,
// writes and syncs them as one transaction and then tells those who subscribed and
// those who wait. It returns nil when ctx is done or the store is closed,
// and an error when a commit failed, after which nothing can be written any
// more. It may be called once.
func (s *Store) Run(ctx context.Context) error {
	if s.enter() != nil {
		return nil // closed already
	}
	defer s.leave()
	if !s.running.CompareAndSwap(false, true) {
		return errors.New("committer runs already")
	}
	defer s.stopOnce.Do(func() { close(s.stopped) })
	s.actor = actorOf(ctx)
	timer := time.NewTimer(s.contests.wait(time.Now()))
	defer timer.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			return nil
		case <-s.closing:
			return nil
		case r := <-s.requests:
			err = s.commit(s.gather(r))
		case <-s.raise:
			err = s.commit([]*request{newRequest(nil)})
		case <-timer.C:
		}
		if err != nil {
			return fmt.Errorf("commit: %w", err)
		}
		if s.cloned.Swap(false) {
			if err := s.renew(); err != nil {
				return fmt.Errorf("renew incarnation: %w", err)
			}
		}
		if err := s.settle(time.Now()); err != nil {
			return fmt.Errorf("settle addresses: %w", err)
		}
		timer.Reset(s.contests.wait(time.Now()))
	}
}

// gather takes what waits behind a request.
func (s *Store) gather(first *request) []*request {
	rs := []*request{first}
	for len(rs) < maxGroup {
		select {
		case r := <-s.requests:
			rs = append(rs, r)
		default:
			return rs
		}
	}
	return rs
}

// commit runs requests in order and writes them in as few transactions as fit.
// An error of a request goes to whoever made it; the returned error is one of
// the store, and every request that was not written has got it.
func (s *Store) commit(rs []*request) error {
	for len(rs) > 0 {
		n, err := s.commitSome(rs)
		if err != nil {
			for _, r := range rs {
				r.done <- err
			}
			return err
		}
		rs = rs[n:]
	}
	return nil
}

// commitSome writes a first few of the requests, at least one, and answers them.
func (s *Store) commitSome(rs []*request) (n int, err error) {
	group := overlay{}
	var failed []error
	err = s.db.View(func(txn *badger.Txn) error {
		bytes := 0
		for _, r := range rs {
			t := newTx(snapshot{txn}, group, *s.author.Load())
			err := s.perform(r, t)
			size := t.mine.bytes()
			if err == nil && (len(t.mine) > maxEntries || size > maxBytes) {
				err = fmt.Errorf("transaction of %d entries and %d bytes: %w", len(t.mine), size, ErrTooLarge)
			}
			if err == nil && n > 0 && (len(group)+len(t.mine) > maxEntries || bytes+size > maxBytes) {
				return nil
			}
			n++
			failed = append(failed, err)
			if err != nil {
				if r.failed != nil {
					r.failed()
				}
				continue
			}
			maps.Copy(group, t.mine)
			bytes += size
			r.tx = t
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	ceiling, raised := s.clock.ceilingFor()
	if raised {
		group[string(metaCeiling)] = number(ceiling)
	}
	if err := s.flush(group); err != nil {
		return 0, err
	}
	s.clock.raised(ceiling)
	s.publish(group, rs[:n], failed)
	return n, nil
}

func (s *Store) perform(r *request, t *tx) error {
	if r.run == nil {
		return nil
	}
	t.time, _ = s.clock.next()
	if err := r.run(t); err != nil {
		return err
	}
	if r.actor != nil {
		if err := t.audit(*r.actor); err != nil {
			return err
		}
	}
	return t.finish()
}

// flush makes an overlay durable.
func (s *Store) flush(group overlay) error {
	if len(group) == 0 {
		return nil
	}
	return s.db.Update(func(txn *badger.Txn) error {
		for k, v := range group {
			var err error
			if v == nil {
				err = txn.Delete([]byte(k))
			} else {
				err = txn.Set([]byte(k), v)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// publish shows a commit: first what reads are answered from, then the mesh and the
// subscribers hear of it, then those who wait.
func (s *Store) publish(group overlay, rs []*request, failed []error) {
	s.remember(group)
	changed := map[ref]struct{}{}
	push := false
	for i, r := range rs {
		if failed[i] != nil || r.tx == nil {
			continue
		}
		maps.Copy(changed, r.tx.refs)
		push = push || (r.local && len(r.tx.refs) > 0)
	}
	if push {
		select {
		case s.changed <- struct{}{}:
		default:
		}
	}
	s.tell(changed)
	for i, r := range rs {
		r.done <- failed[i]
	}
}

// tell calls the subscribers.
func (s *Store) tell(changed map[ref]struct{}) {
	if len(changed) == 0 {
		return
	}
	refs := make([]Ref, 0, len(changed))
	for r := range changed {
		if k := r.kind(); k != kindAudit && k != kindAuditCut { // nobody decides by them
			refs = append(refs, r.public())
		}
	}
	if len(refs) == 0 {
		return
	}
	slices.SortFunc(refs, compareRefs)
	s.mu.Lock()
	subscribers := s.subscribers
	s.mu.Unlock()
	for _, fn := range subscribers {
		fn(refs)
	}
}

// update runs a local transaction and waits until it is durable. When ctx ends
// first, the transaction may still be carried out.
func (s *Store) update(ctx context.Context, run func(*tx) error) error {
	r := newRequest(run)
	r.actor = actorOf(ctx)
	return s.submit(ctx, r)
}

func (s *Store) submit(ctx context.Context, r *request) error {
	select {
	case s.requests <- r:
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-s.stopped:
		return ErrClosed
	case <-s.closing:
		return ErrClosed
	}
	select {
	case err := <-r.done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-s.stopped:
		select {
		case err := <-r.done:
			return err
		default:
			return ErrClosed
		}
	}
}
