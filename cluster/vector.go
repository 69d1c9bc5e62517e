package cluster

import (
	"bytes"
	"fmt"
	"maps"
	"slices"

	"github.com/dgraph-io/badger/v4"
)

// maxAuthors bounds a vector, so that its encoding fits 64 KiB.
const maxAuthors = 1600

// vector says per author up to which seq everything is known.
type vector map[author]uint64

// vectorOf leaves out the authors none of whose cells stand any more: to be
// without an entry only means to be sent what has none.
func vectorOf(heads map[author]head) vector {
	v := vector{}
	for a, h := range heads {
		if h.seq > 0 && h.cells > 0 {
			v[a] = h.seq
		}
	}
	return v
}

// covers reports whether v knows everything that o knows.
func (v vector) covers(o vector) bool {
	for a, seq := range o {
		if v[a] < seq {
			return false
		}
	}
	return true
}

// wireDigest is a digest in CBOR: a vector, and the print of all cells, which
// tells apart states that share a vector but hold different cells beyond it.
type wireDigest struct {
	_       struct{} `cbor:",toarray"`
	Authors []byte   // 24 bytes each, ascending
	Seqs    []uint64
	Print   uint64
}

func (v vector) wire(print uint64) wireDigest {
	w := wireDigest{Print: print}
	for _, a := range slices.SortedFunc(maps.Keys(v), compareAuthors) {
		w.Authors = append(w.Authors, a[:]...)
		w.Seqs = append(w.Seqs, v[a])
	}
	return w
}

func compareAuthors(a, b author) int { return bytes.Compare(a[:], b[:]) }

func (w wireDigest) vector() (vector, error) {
	n := len(w.Seqs)
	if n > maxAuthors || len(w.Authors) != n*len(author{}) {
		return nil, fmt.Errorf("%w: vector of %d seqs and %d bytes of authors", ErrInvalidPart, n, len(w.Authors))
	}
	v := make(vector, n)
	for i, seq := range w.Seqs {
		if seq == 0 || seq >= maxCount {
			return nil, fmt.Errorf("%w: vector with seq %d", ErrInvalidPart, seq)
		}
		v[author(w.Authors[i*len(author{}):])] = seq
	}
	if len(v) != n {
		return nil, fmt.Errorf("%w: vector names an author twice", ErrInvalidPart)
	}
	return v, nil
}

// digest returns the encoding: the same for the same knowledge.
func (v vector) digest(print uint64) []byte {
	return must(encoder.Marshal(v.wire(print)))
}

// decodeDigest reads a digest; an empty one is that of an empty store.
func decodeDigest(b []byte) (vector, error) {
	if len(b) == 0 {
		return vector{}, nil
	}
	if len(b) > 64<<10 {
		return nil, fmt.Errorf("%w: digest of %d bytes", ErrInvalidPart, len(b))
	}
	var w wireDigest
	if err := decoder.Unmarshal(b, &w); err != nil {
		return nil, fmt.Errorf("%w: digest: %w", ErrInvalidPart, err)
	}
	return w.vector()
}

// readHeads reads the heads of one state.
func readHeads(txn *badger.Txn) (map[author]head, error) {
	heads := map[author]head{}
	it := txn.NewIterator(prefixed([]byte{atHead}))
	defer it.Close()
	for it.Rewind(); it.Valid(); it.Next() {
		k := it.Item().Key()
		if len(k) != 1+len(author{}) {
			continue
		}
		b, err := it.Item().ValueCopy(nil)
		if err != nil {
			return nil, fmt.Errorf("read heads: %w", err)
		}
		heads[author(k[1:])] = decodeHead(b)
	}
	return heads, nil
}
