package cluster

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"

	"github.com/dgraph-io/badger/v4"
	"github.com/fxamacker/cbor/v2"
)

const (
	maxPart        = 256 << 10 // bytes of an encoded part
	maxRecords     = 1024      // cells of a part
	maxOp          = 192 << 10 // bytes of one local transaction: it travels in one part
	recordOverhead = 16        // bytes around a cell in a part
	partOverhead   = 64
)

// wirePart is one part of a delta in CBOR.
//
//	part 0        cells
//	part 1        cells
//	part n, last  cells, the vector that the delta was made for, the vector to move to
type wirePart struct {
	Delta   uint64       `cbor:"1,keyasint"` // random, one for all parts
	Index   uint64       `cbor:"2,keyasint"`
	Last    bool         `cbor:"3,keyasint,omitempty"`
	Records []wireRecord `cbor:"4,keyasint,omitempty"`
	From    *wireDigest  `cbor:"5,keyasint,omitempty"`
	To      *wireDigest  `cbor:"6,keyasint,omitempty"`
}

// wireRecord is a cell with its place.
type wireRecord struct {
	_    struct{} `cbor:",toarray"`
	Kind string
	ID   []byte
	Cell cbor.RawMessage
}

// Digest returns what this replica knows: equal bytes mean equal knowledge. The
// slice must not be changed.
func (s *Store) Digest() []byte { return *s.digest.Load() }

// Delta yields in parts of at most 256 KiB what the holder of a digest lacks,
// and nothing if it lacks nothing; nil is the digest of an empty store. All parts
// are of one committed state. An error ends the sequence: ErrInvalidPart for a
// digest that is none. The parts belong to the caller. The store stays open until
// the sequence has ended.
func (s *Store) Delta(digest []byte) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		from, err := decodeDigest(digest)
		if err == nil {
			err = s.view(func(txn *badger.Txn) error { return s.delta(txn, from, yield) })
		}
		if err != nil && !errors.Is(err, errEnough) {
			yield(nil, err)
		}
	}
}

// errEnough says that the consumer of a sequence wants no more.
var errEnough = errors.New("enough")

func (s *Store) delta(txn *badger.Txn, from vector, yield func([]byte, error) bool) error {
	heads, err := readHeads(txn)
	if err != nil {
		return err
	}
	if own := *s.author.Load(); from[own] > heads[own].seq {
		s.suspect(own)
	}
	to := vectorOf(heads)
	if len(from) == 0 { // of whom nothing stands: so that what is gone here does not come back there
		to = withHidden(to, heads, maxAuthors)
	}
	p := &packer{yield: yield, limit: s.part - partOverhead}
	_, _ = rand.Read(p.id[:]) // never fails, crypto/rand
	if err := p.collect(txn, from); err != nil {
		return err
	}
	if p.index == 0 && len(p.part) == 0 && from.covers(to) {
		return nil
	}
	return p.last(from, to)
}

// packer makes the parts of a delta. Cells of one transaction share a part, so
// that they are seen together.
type packer struct {
	yield func([]byte, error) bool
	limit int // bytes of records and vectors in a part of several transactions
	id    [8]byte
	index uint64

	part, op         []wireRecord // ready; of the transaction that is being collected
	partSize, opSize int

	entityRef ref // the entity read last
	entity    *entity
}

// collect walks the dots above a vector, author by author.
func (p *packer) collect(txn *badger.Txn, from vector) error {
	it := txn.NewIterator(keysOnly([]byte{atDot}))
	defer it.Close()
	var at author
	var seq uint64
	for it.Rewind(); it.Valid(); {
		a, n, r, field, ok := cutDot(it.Item().Key())
		if !ok {
			it.Next()
			continue
		}
		if known := from[a]; n <= known {
			it.Seek(dotsAbove(a, known))
			continue
		}
		if a != at || n != seq {
			if err := p.endOp(); err != nil {
				return err
			}
			at, seq = a, n
		}
		if err := p.add(snapshot{txn}, r, field); err != nil {
			return err
		}
		it.Next()
	}
	return p.endOp()
}

func (p *packer) add(r reader, at ref, field string) error {
	if p.entity == nil || p.entityRef != at {
		e, err := readEntity(r, at)
		if err != nil {
			return err
		}
		p.entityRef, p.entity = at, e
	}
	c := p.entity.get(field)
	if c == nil {
		return fmt.Errorf("index names a cell of %s that is not there", at.kind())
	}
	p.op = append(p.op, wireRecord{Kind: at.kind(), ID: at.id(), Cell: c.raw})
	p.opSize += len(at) + len(c.raw) + recordOverhead
	if p.opSize > maxOp || len(p.op) == maxRecords/2 {
		return p.endOp() // of another's making, beyond what ours may have
	}
	return nil
}

// endOp takes the collected transaction into the part, or begins a new part.
func (p *packer) endOp() error {
	if len(p.part) > 0 && (p.partSize+p.opSize > p.limit || len(p.part)+len(p.op) > maxRecords) {
		if err := p.send(wirePart{}); err != nil {
			return err
		}
	}
	p.part, p.partSize = append(p.part, p.op...), p.partSize+p.opSize
	p.op, p.opSize = nil, 0
	return nil
}

// last sends the part that ends the delta.
func (p *packer) last(from, to vector) error {
	const entry = len(author{}) + 9
	if size := (len(from) + len(to)) * entry; p.partSize+size > p.limit {
		if err := p.send(wirePart{}); err != nil {
			return err
		}
	}
	f, t := from.wire(0), to.wire(0)
	return p.send(wirePart{Last: true, From: &f, To: &t})
}

func (p *packer) send(w wirePart) error {
	w.Delta, w.Index, w.Records = binary.BigEndian.Uint64(p.id[:]), p.index, p.part
	b, err := encoder.Marshal(w)
	if err != nil {
		return fmt.Errorf("encode delta: %w", err)
	}
	p.index++
	p.part, p.partSize = nil, 0
	if !p.yield(b, nil) {
		return errEnough
	}
	return nil
}
