package cluster

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/dgraph-io/badger/v4"
)

const (
	onceFor    = 24 * time.Hour
	maxOnces   = 10_000   // kept at a time; the oldest go first
	maxAnswer  = 64 << 10 // bytes of one that is kept
	forgetMost = 1000     // in one transaction
)

// ErrRepeated says that the transaction was carried out before, under the same key of [Once].
var ErrRepeated = errors.New("already done")

// OnceID names a request of whoever asks, so that repeating it changes nothing.
type OnceID [16]byte

type onceKeyType struct{}

// Once has writes with the context remember the request that they belong to, in the same transaction and on this disk
// only, for a day. A second write under the same id changes nothing and returns ErrRepeated. A request that writes
// twice needs two.
func Once(ctx context.Context, id OnceID) context.Context {
	return context.WithValue(ctx, onceKeyType{}, id)
}

func onceKey(id OnceID) []byte { return append([]byte{atOnce}, id[:]...) }

// once makes run a transaction that is carried out once.
func (s *Store) once(ctx context.Context, run func(*tx) error) func(*tx) error {
	id, ok := ctx.Value(onceKeyType{}).(OnceID)
	if !ok {
		return run
	}
	now := s.clock.now()
	return func(t *tx) error {
		b, err := t.get(onceKey(id))
		if err != nil {
			return err
		}
		if b != nil {
			return ErrRepeated
		}
		t.set(onceKey(id), encodeOnce(now, nil))
		return run(t)
	}
}

// encodeOnce is what is kept of a request: when it came, and its answer when that is known.
func encodeOnce(at time.Time, answer []byte) []byte {
	return append(binary.BigEndian.AppendUint64(nil, wallTime(at)), answer...)
}

// KeepAnswer remembers what a request was answered, for a day. One beyond 64 KiB is not kept.
func (s *Store) KeepAnswer(ctx context.Context, id OnceID, answer []byte) error {
	if len(answer) > maxAnswer {
		return fmt.Errorf("answer of %d bytes: %w", len(answer), ErrTooLarge)
	}
	r := newRequest(func(t *tx) error {
		t.set(onceKey(id), encodeOnce(s.clock.now(), answer))
		return nil
	})
	r.local = false // nothing for the others
	return s.submit(ctx, r)
}

// Done says whether a transaction of the request was carried out within the last day.
func (s *Store) Done(id OnceID) (done bool, err error) {
	err = s.view(func(txn *badger.Txn) error {
		b, err := snapshot{txn}.get(onceKey(id))
		done = b != nil
		return err
	})
	return done, err
}

// Answer returns what a request was answered, nil if that is not known.
func (s *Store) Answer(id OnceID) (answer []byte, err error) {
	err = s.view(func(txn *badger.Txn) error {
		b, err := snapshot{txn}.get(onceKey(id))
		if len(b) > 8 {
			answer = b[8:]
		}
		return err
	})
	return answer, err
}

// onces are the requests that are remembered, the oldest first. One whose answer came is in it twice.
type onces struct {
	order []onceAt
	at    map[OnceID]uint64
}

type onceAt struct {
	id OnceID
	at uint64 // hybrid time
}

func (o *onces) load(txn *badger.Txn) error {
	o.at = map[OnceID]uint64{}
	it := txn.NewIterator(prefixed([]byte{atOnce}))
	defer it.Close()
	for it.Rewind(); it.Valid(); it.Next() {
		b, err := it.Item().ValueCopy(nil)
		if err != nil {
			return fmt.Errorf("read requests: %w", err)
		}
		o.note(string(it.Item().Key()), b)
	}
	slices.SortFunc(o.order, func(a, b onceAt) int { return cmp.Compare(a.at, b.at) })
	return nil
}

// note keeps track of a key of atOnce that was set, or deleted if b is nil.
func (o *onces) note(key string, b []byte) {
	if len(key) != 1+len(OnceID{}) {
		return
	}
	id := OnceID([]byte(key[1:]))
	if len(b) < 8 {
		delete(o.at, id)
		return
	}
	o.at[id] = binary.BigEndian.Uint64(b)
	o.order = append(o.order, onceAt{id, o.at[id]})
}

// old takes out some that are to be forgotten.
func (o *onces) old(now time.Time) (ids []OnceID) {
	before := wallTime(now.Add(-onceFor))
	for len(o.order) > 0 && len(ids) < forgetMost {
		first := o.order[0]
		at, known := o.at[first.id]
		if known && at == first.at {
			if at >= before && len(o.at)-len(ids) <= maxOnces {
				break
			}
			ids = append(ids, first.id)
		}
		o.order = o.order[1:]
	}
	return ids
}

// forget removes the requests whose day is over.
func (s *Store) forget() error {
	ids := s.onces.old(s.clock.now())
	if len(ids) == 0 {
		return nil
	}
	return s.alone(func(t *tx) error {
		for _, id := range ids {
			t.delete(onceKey(id))
		}
		return nil
	})
}
