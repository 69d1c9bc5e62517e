package cluster

import "context"

// SealedError says that nothing is written here any more for as long as this gateway runs in its cluster. It wraps
// ErrReadOnly.
type SealedError struct {
	Reason string // in words
	Advice string // what to do
}

func (e *SealedError) Error() string { return e.Reason }

// Hint says what to do.
func (e *SealedError) Hint() string { return e.Advice }

func (e *SealedError) Unwrap() error { return ErrReadOnly }

// Seal has changes of what is replicated refused with e from now on, unless the store is sealed already. What was
// carried out before is durable and told as ever, Leave is carried out still, and what others wrote is taken in. It
// does not block.
func (s *Store) Seal(e *SealedError) { s.seal.CompareAndSwap(nil, e) }

// Settle returns when what was taken before it was called is durable and shown, or given up. On a sealed store nothing
// of this gateway changes then but by Leave. It blocks for as long as a write does, and fails as one does.
func (s *Store) Settle(ctx context.Context) error { return s.submit(ctx, newRequest(nil)) }

// Reseal is Seal also if the store is sealed already: e takes the place of what it is sealed with.
func (s *Store) Reseal(e *SealedError) { s.seal.Store(e) }

// Unseal has changes taken again if e is what they are refused with.
func (s *Store) Unseal(e *SealedError) { s.seal.CompareAndSwap(e, nil) }

// unsealed is run unless the store is sealed when its turn comes.
func (s *Store) unsealed(run func(*tx) error) func(*tx) error {
	return func(t *tx) error {
		if e := s.seal.Load(); e != nil {
			return e
		}
		return run(t)
	}
}
