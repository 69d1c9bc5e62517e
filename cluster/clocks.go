package cluster

import (
	"bytes"
	"context"
	"maps"
	"slices"
	"time"

	"github.com/dgraph-io/badger/v4"
)

// clocksPerWrite bounds one transaction of SaveClocks, and so how long other writes wait for it.
const clocksPerWrite = 2048

func clockKey(k Key) []byte { return append([]byte{atClock}, k[:]...) }

// SaveClocks keeps, on this disk only, the greatest TAI64N received from devices, so that an old initiation is known
// as such after a restart. A value below the one that is kept changes nothing. A device that is gone has none; its
// clock goes in the transaction that removes it.
func (s *Store) SaveClocks(ctx context.Context, clocks map[Key][12]byte) error {
	for keys := range slices.Chunk(slices.Collect(maps.Keys(clocks)), clocksPerWrite) {
		r := newRequest(func(t *tx) error { return t.saveClocks(keys, clocks) })
		r.local = false // nothing for the others
		if err := s.submit(ctx, r); err != nil {
			return err
		}
	}
	return nil
}

func (t *tx) saveClocks(keys []Key, clocks map[Key][12]byte) error {
	for _, k := range keys {
		device, err := t.get(viewKey(k))
		if err != nil {
			return err
		}
		known, err := t.get(clockKey(k))
		if err != nil {
			return err
		}
		if c := clocks[k]; device != nil && bytes.Compare(known, c[:]) < 0 {
			t.set(clockKey(k), c[:])
		}
	}
	return nil
}

// Clock returns what SaveClocks keeps of a device, zero if nothing.
func (s *Store) Clock(k Key) (received [12]byte, err error) {
	err = s.view(func(txn *badger.Txn) error {
		b, err := snapshot{txn}.get(clockKey(k))
		copy(received[:], b)
		return err
	})
	return received, err
}

// Now is the time of the hybrid logical clock, to the millisecond: the wall clock, but never before what it was, also
// across a restart with the wall clock set back, and at most 500 ms ahead of the wall clock by what others said.
func (s *Store) Now() time.Time { return time.UnixMilli(int64(s.Stamp() >> 16)) } //nolint:gosec // 48 bits
