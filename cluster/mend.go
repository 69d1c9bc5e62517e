package cluster

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/dgraph-io/badger/v4"
)

// Two replicas with one vector have the same cells, else something is broken: a disk, or this code. Then the prints of
// 256 buckets say where, and the cells of those that differ are exchanged. What one of them lacks comes back: it is not
// for a machine to decide that a cell is the one too many.

// Buckets is one print for each value of the first byte of the hash of a place. Equal prints stand for equal cells.
type Buckets [256]uint64

// Differ returns the numbers of those that are not equal.
func (b *Buckets) Differ(o *Buckets) (numbers []byte) {
	for i := range b {
		if b[i] != o[i] {
			numbers = append(numbers, byte(i))
		}
	}
	return numbers
}

func (r ref) bucket() byte { return sha256.Sum256([]byte(r))[0] }

// ErrBehind says that a replica knows that it does not know enough to tell others.
var ErrBehind = errors.New("replica waits for a whole delta")

// Buckets reads all cells and returns their prints: of what stands on the disk, not of what was written there.
func (s *Store) Buckets() (b Buckets, err error) {
	if s.whole.wanted() {
		return b, ErrBehind
	}
	err = s.view(func(txn *badger.Txn) error {
		return eachEntity(txn, nil, func(r ref, e *entity) error {
			for i := range e.cells {
				b[r.bucket()] ^= e.cells[i].print(r)
			}
			return nil
		})
	})
	return b, err
}

// Page returns the cells of some buckets as one part of at most 256 KiB, for Mend. It begins behind the place after,
// nil being the first, and returns how far it came; nil means that this was all.
func (s *Store) Page(buckets, after []byte) (part, upTo []byte, err error) {
	if s.whole.wanted() {
		return nil, nil, ErrBehind
	}
	var p packer
	p.yield = func(b []byte, _ error) bool { part = b; return true }
	err = s.view(func(txn *badger.Txn) error {
		it := txn.NewIterator(keysOnly([]byte{atEntity}))
		defer it.Close()
		for it.Seek(append([]byte{atEntity}, after...)); it.Valid(); it.Next() {
			r, _, ok := cutRef(it.Item().Key()[1:])
			if !ok || bytes.IndexByte(buckets, r.bucket()) < 0 || string(r) == string(after) {
				continue
			}
			e, err := readEntity(snapshot{txn}, r)
			if err != nil {
				return err
			}
			var size int
			for i := range e.cells {
				size += len(r) + len(e.cells[i].raw) + recordOverhead
			}
			full := p.partSize+size > maxPart-partOverhead || len(p.part)+len(e.cells) > maxRecords
			if full && len(p.part) > 0 {
				return nil
			}
			for i := range e.cells {
				p.part = append(p.part, wireRecord{Kind: r.kind(), ID: r.id(), Cell: e.cells[i].raw})
			}
			p.partSize, upTo = p.partSize+size, []byte(r)
			if full {
				return nil
			}
		}
		upTo = nil
		return nil
	})
	if err == nil {
		err = p.send(wirePart{})
	}
	return part, upTo, err
}

// Mend takes in a page of another replica, also where the vector says that nothing is missing. It returns how many
// entities changed.
func (s *Store) Mend(b []byte) (changed int, err error) {
	p, err := decodePart(b)
	if err != nil {
		return 0, err
	}
	if err := s.enter(); err != nil {
		return 0, err
	}
	defer s.leave()
	p.loose, p.mend = true, true
	r := newRequest(func(t *tx) error {
		if _, err := s.merge(t, &p); err != nil {
			return err
		}
		changed, s.due = len(t.refs), true // what all have forgotten may have come back
		return nil
	})
	r.local = false
	if err := s.submit(context.Background(), r); err != nil {
		return 0, fmt.Errorf("mend: %w", err)
	}
	return changed, nil
}

// maxMissing is the most that Missing counts.
const maxMissing = 10_000

// Missing returns how many cells the holder of a digest lacks, up to 10,000, and how many writes it knows of that are
// not here.
func (s *Store) Missing(digest []byte) (cells int, ahead uint64, err error) {
	theirs, err := decodeDigest(digest)
	if err != nil {
		return 0, 0, err
	}
	err = s.view(func(txn *badger.Txn) error {
		heads, err := readHeads(txn)
		if err != nil {
			return err
		}
		for a, seq := range theirs {
			if mine := heads[a].seq; mine < seq {
				ahead += seq - mine
			}
		}
		return eachDotAbove(txn, theirs, func() bool { cells++; return cells < maxMissing })
	})
	return cells, ahead, err
}

// eachDotAbove calls fn for each cell above a vector until it returns false.
func eachDotAbove(txn *badger.Txn, v vector, fn func() bool) error {
	it := txn.NewIterator(keysOnly([]byte{atDot}))
	defer it.Close()
	for it.Rewind(); it.Valid(); {
		a, n, _, _, ok := cutDot(it.Item().Key())
		switch {
		case !ok:
			it.Next()
		case n <= v[a]:
			it.Seek(dotsAbove(a, v[a]))
		case !fn():
			return nil
		default:
			it.Next()
		}
	}
	return nil
}

// SameVector reports whether two digests name the same writes, though they may stand for other cells.
func SameVector(a, b []byte) bool {
	v, err := decodeDigest(a)
	w, werr := decodeDigest(b)
	return err == nil && werr == nil && v.covers(w) && w.covers(v)
}

// Mark is a point in what a replica wrote: all up to it.
type Mark struct {
	author author
	seq    uint64
}

// Mark returns where this replica is. It costs nothing.
func (s *Store) Mark() Mark { return *s.mark.Load() }

// In reports whether the holder of a digest has all up to the mark.
func (m Mark) In(digest []byte) bool {
	v, err := decodeDigest(digest)
	return err == nil && v[m.author] >= m.seq
}
