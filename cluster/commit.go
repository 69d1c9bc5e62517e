package cluster

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"
)

const (
	maxGroup = 256 // requests in one commit
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

// giveUp says that the writes of the last run are lost.
func (r *request) giveUp() {
	if r.failed != nil {
		r.failed()
	}
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
	p := &s.pipeline
	defer p.release()
	timer := time.NewTimer(s.wait())
	defer timer.Stop()
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			return p.drain()
		case <-s.closing:
			return p.drain()
		case r := <-p.inlet():
			p.take(r)
			p.gather()
		case err = <-p.landed:
			if err = p.land(err); err == nil {
				p.gather()
			}
		case <-s.raise:
			p.take(newRequest(nil))
		case <-look.C:
			_ = s.volume.look() // writes are told
			s.volume.keep()
		case <-timer.C:
		}
		if err == nil {
			err = p.launch()
		}
		if err == nil {
			err = s.upkeep()
		}
		if err != nil {
			return err
		}
		timer.Reset(s.wait())
	}
}

// wait is how long the committer has no work of its own.
func (s *Store) wait() time.Duration {
	if s.volume.readOnly.Load() {
		return time.Hour // or until there is room
	}
	return s.contests.wait(time.Now())
}

// upkeep does the committer's own work, when there is some: with nothing on its way.
func (s *Store) upkeep() error {
	if s.volume.readOnly.Load() {
		return nil
	}
	s.pipeline.own = true
	defer func() { s.pipeline.own = false }()
	if s.cloned.Swap(false) {
		if err := s.renew(); err != nil {
			return fmt.Errorf("renew incarnation: %w", err)
		}
	}
	now := time.Now()
	if err := errors.Join(s.ripen(now), s.trimConflicts()); err != nil {
		return fmt.Errorf("keep house: %w", err)
	}
	if s.contests.wait(now) == 0 {
		if err := s.settle(now); err != nil {
			return fmt.Errorf("settle addresses: %w", err)
		}
	}
	if s.due {
		if err := s.collect(); err != nil {
			return fmt.Errorf("collect deletions: %w", err)
		}
	}
	if err := s.forget(); err != nil {
		return fmt.Errorf("forget requests: %w", err)
	}
	return nil
}

func (s *Store) perform(r *request, t *tx) error {
	if r.run == nil {
		return nil
	}
	t.horizon = horizon(s.clock.now())
	t.time = s.clock.nextWithin(t.horizon)
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
func (s *Store) flush(o overlay) error {
	done := make(chan error, 1)
	if err := s.send(o, done); err != nil {
		return err
	}
	return <-done
}

// send gives an overlay to Badger, which says on done when it is durable or that it is not. It does not wait for the
// disk.
func (s *Store) send(o overlay, done chan<- error) error {
	txn := s.db.NewTransaction(true)
	for k, v := range o {
		var err error
		if v == nil {
			err = txn.Delete([]byte(k))
		} else {
			err = txn.Set([]byte(k), v)
		}
		if err != nil {
			txn.Discard()
			return err
		}
	}
	txn.CommitWith(func(err error) { done <- err })
	return nil
}

// publish shows a commit: first what reads are answered from, then the mesh and the
// subscribers hear of it, then those who wait.
func (s *Store) publish(g *group) {
	s.remember(g.writes)
	changed := map[ref]struct{}{}
	push := false
	for i, r := range g.done {
		if g.failed[i] != nil || r.tx == nil {
			continue
		}
		maps.Copy(changed, r.tx.refs)
		push = push || (r.local && len(r.tx.refs) > 0) || r.tx.seq > 0 // a merge may list conflicts
	}
	if push {
		select {
		case s.changed <- struct{}{}:
		default:
		}
	}
	s.tell(changed)
	for i, r := range g.done {
		r.done <- g.failed[i]
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
	return s.updateSealed(ctx, s.unsealed(run))
}

// updateSealed is update also while the store is sealed.
func (s *Store) updateSealed(ctx context.Context, run func(*tx) error) error {
	r := newRequest(s.once(ctx, run))
	r.actor = actorOf(ctx)
	return s.submit(ctx, r)
}

func (s *Store) submit(ctx context.Context, r *request) error {
	if err := s.volume.refusal(); err != nil {
		return err
	}
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
