package cluster

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"github.com/fxamacker/cbor/v2"
)

// Limits of what a replica takes from another.
const (
	MaxValue = 64 << 10 // bytes of a cell's value
	maxKind  = 32       // bytes of a kind
	maxID    = 128      // bytes of an id
	maxField = 64       // bytes of a field's name
	maxCell  = MaxValue + 4<<10

	// maxEntity bounds what a writer makes of an entity, in bytes: a quarter of what one commit can hold, so that it
	// still can when several gateways have added to it apart.
	maxEntity = 256 << 10
)

// codec is deterministic CBOR (RFC 8949, section 4.2.1), bounded.
var (
	encoder = must(cbor.CoreDetEncOptions().EncMode())
	decoder = must(cbor.DecOptions{
		DupMapKey:        cbor.DupMapKeyEnforcedAPF,
		IndefLength:      cbor.IndefLengthForbidden,
		TagsMd:           cbor.TagsForbidden,
		MaxNestedLevels:  8,
		MaxArrayElements: 8192,
		MaxMapPairs:      64,
	}.DecMode())
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// author is a node in one incarnation: 16 bytes of node, 8 of incarnation.
type author [24]byte

func authorOf(n Node, incarnation uint64) (a author) {
	copy(a[:], n[:])
	binary.BigEndian.PutUint64(a[16:], incarnation)
	return a
}

func (a author) node() Node          { return Node(a[:16]) }
func (a author) incarnation() uint64 { return binary.BigEndian.Uint64(a[16:]) }

// stamp orders writes: by hybrid time, then by author. The zero stamp is before
// all others.
type stamp struct {
	time   uint64
	author author
}

func (s stamp) compare(o stamp) int {
	if c := cmp.Compare(s.time, o.time); c != 0 {
		return c
	}
	return bytes.Compare(s.author[:], o.author[:])
}

const stampSize = 8 + len(author{})

func (s stamp) append(b []byte) []byte {
	return append(binary.BigEndian.AppendUint64(b, s.time), s.author[:]...)
}

// when is the stamp's wall time, to the millisecond.
func (s stamp) when() time.Time { return time.UnixMilli(int64(s.time >> 16)).UTC() } //nolint:gosec // 48 bits

// maxOver bounds how many nodes' writes a cell of ours names. One that it no longer
// names counts as not seen if it comes again, which lists a conflict too much.
const maxOver = 16

// seen returns what a cell has seen that follows from others: of each node the newest
// of their stamps, ascending by node. The slices stay as they are.
func seen(stamps ...[]stamp) (all []stamp) {
	for _, s := range slices.Concat(stamps...) {
		i, ok := slices.BinarySearchFunc(all, s, func(a, b stamp) int {
			return bytes.Compare(a.author[:len(Node{})], b.author[:len(Node{})])
		})
		switch {
		case !ok:
			all = slices.Insert(all, i, s)
		case all[i].compare(s) < 0:
			all[i] = s
		}
	}
	for len(all) > maxOver {
		oldest := slices.MinFunc(all, stamp.compare)
		all = slices.DeleteFunc(all, func(s stamp) bool { return s == oldest })
	}
	return all
}

// history is the stamps of a cell and of all that it has seen.
func (c *cell) history() []stamp { return seen(c.over, []stamp{c.stamp}) }

// saw reports whether the writer of c had seen o, or what followed from it. Of one node
// the writes of one field are ordered by their stamps, so the newest of them says it.
func (c *cell) saw(o *cell) bool {
	return slices.ContainsFunc(c.over, func(s stamp) bool {
		return s.author.node() == o.stamp.author.node() && s.time >= o.stamp.time
	})
}

// cell is one field of one entity. It never changes; raw is its encoding as its
// author made it and is what is stored and forwarded.
type cell struct {
	field string
	life  uint64
	rank  uint64
	stamp stamp
	seq   uint64
	over  []stamp // what it overwrote, see seen; ascending by node
	value []byte
	raw   []byte
}

// wireCell is a cell in CBOR. Keys that are unknown survive in cell.raw.
type wireCell struct {
	Field  string `cbor:"1,keyasint"`
	Life   uint64 `cbor:"2,keyasint,omitempty"`
	Rank   uint64 `cbor:"3,keyasint,omitempty"`
	Time   uint64 `cbor:"4,keyasint"`
	Author []byte `cbor:"5,keyasint"`
	Seq    uint64 `cbor:"6,keyasint"`
	Over   []byte `cbor:"7,keyasint,omitempty"`
	Value  []byte `cbor:"8,keyasint,omitempty"`
}

// seal makes the encoding of a cell of ours.
func (c cell) seal() (cell, error) {
	w := wireCell{
		Field: c.field, Life: c.life, Rank: c.rank, Time: c.stamp.time,
		Author: c.stamp.author[:], Seq: c.seq, Value: c.value,
	}
	for _, s := range c.over {
		w.Over = s.append(w.Over)
	}
	raw, err := encoder.Marshal(w)
	if err != nil {
		return cell{}, fmt.Errorf("encode cell: %w", err)
	}
	c.raw = raw
	return c, nil
}

// openCell reads a cell. It keeps raw.
func openCell(raw []byte) (cell, error) {
	var w wireCell
	if len(raw) > maxCell {
		return cell{}, fmt.Errorf("cell of %d bytes: %w", len(raw), ErrInvalidPart)
	}
	if err := decoder.Unmarshal(raw, &w); err != nil {
		return cell{}, fmt.Errorf("%w: cell: %w", ErrInvalidPart, err)
	}
	switch {
	case len(w.Field) > maxField, len(w.Value) > MaxValue,
		len(w.Author) != len(author{}), len(w.Over)%stampSize != 0 || len(w.Over) > 4*maxOver*stampSize,
		w.Seq == 0, max(w.Life, w.Rank, w.Time, w.Seq) >= maxCount,
		w.Field == "" && w.Life == 0:
		return cell{}, fmt.Errorf("%w: cell out of bounds", ErrInvalidPart)
	}
	c := cell{
		field: w.Field, life: w.Life, rank: w.Rank,
		stamp: stamp{w.Time, author(w.Author)}, seq: w.Seq, value: w.Value, raw: raw,
	}
	for b := range slices.Chunk(w.Over, stampSize) {
		c.over = append(c.over, stamp{binary.BigEndian.Uint64(b), author(b[8:])})
	}
	return c, nil
}

// compare is the order of the cells of one field; the greatest wins.
func (c *cell) compare(o *cell) int {
	return cmp.Or(
		cmp.Compare(c.life, o.life),
		cmp.Compare(c.rank, o.rank),
		c.stamp.compare(o.stamp),
		bytes.Compare(c.raw, o.raw),
	)
}

// print returns 64 bits that stand for the cell at its place. The exclusive or
// over all cells stands for the state.
func (c *cell) print(r ref) uint64 {
	h := sha256.New()
	h.Write([]byte(r))
	h.Write(c.raw)
	return binary.BigEndian.Uint64(h.Sum(nil))
}
