package cluster

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/fxamacker/cbor/v2"
)

// Kinds of entities that this version knows.
const (
	kindDevice    = "device"
	kindGateway   = "gateway"
	kindSetting   = "setting"
	kindAdmission = "admission"
	kindConflict  = "conflict"
	kindHave      = "have" // what a member acknowledged, see ack.go
)

// ref is a kind and an id, each with its length before it.
type ref string

func refOf(kind string, id []byte) ref {
	return ref(string(byte(len(kind))) + kind + string(byte(len(id))) + string(id))
}

// cutRef splits a ref off the front of b.
func cutRef(b []byte) (r ref, rest []byte, ok bool) {
	n := 0
	for range 2 {
		if len(b) <= n || len(b) < n+1+int(b[n]) {
			return "", nil, false
		}
		n += 1 + int(b[n])
	}
	return ref(b[:n]), b[n:], true
}

func (r ref) kind() string { return string(r[1 : 1+r[0]]) }
func (r ref) id() []byte   { return []byte(r[2+r[0]:]) }

// isDevice reports whether it is of a device that this version can show.
func (r ref) isDevice() bool { return r.kind() == kindDevice && len(r.id()) == len(Key{}) }

// public returns what subscribers are told.
func (r ref) public() Ref {
	id := r.id()
	switch {
	case r.isDevice():
		return Ref{kindDevice, KeyString(Key(id))}
	case r.kind() == kindSetting:
		return Ref{kindSetting, string(id)}
	case r.kind() == kindUser:
		return Ref{kindUser, string(id)}
	}
	return Ref{r.kind(), hex.EncodeToString(id)}
}

// entity is the stored cells of one entity, by field. The life, whose field is
// empty, is the first one.
type entity struct{ cells []cell }

// get returns the cell of a field, nil if there is none.
func (e *entity) get(field string) *cell {
	i, ok := e.find(field)
	if !ok {
		return nil
	}
	return &e.cells[i]
}

func (e *entity) find(field string) (int, bool) {
	return slices.BinarySearchFunc(e.cells, field, func(c cell, f string) int {
		return strings.Compare(c.field, f)
	})
}

// value returns the value of a field, nil if there is none.
func (e *entity) value(field string) []byte {
	if c := e.get(field); c != nil {
		return c.value
	}
	return nil
}

// life returns the causal length: odd alive, even deleted, 0 never born.
func (e *entity) life() uint64 {
	if len(e.cells) > 0 && e.cells[0].field == "" {
		return e.cells[0].life
	}
	return 0
}

func (e *entity) alive() bool { return e.life()%2 == 1 }

// merge takes a cell in. It returns whether the cell is now part of the entity
// and the cells that it superseded. It is the one rule by which replicas agree:
// the result of any set of cells is the same in any order and number.
func (e *entity) merge(c cell) (taken bool, gone []cell) {
	if c.field != "" && c.life < e.life() {
		return false, nil
	}
	i, ok := e.find(c.field)
	switch {
	case !ok:
		e.cells = slices.Insert(e.cells, i, c)
	case e.cells[i].compare(&c) >= 0:
		return false, nil
	default:
		gone = append(gone, e.cells[i])
		e.cells[i] = c
	}
	if c.field == "" {
		e.cells = slices.DeleteFunc(e.cells, func(o cell) bool {
			old := o.life < c.life
			if old {
				gone = append(gone, o)
			}
			return old
		})
	}
	return true, gone
}

// size is the bytes of its cells.
func (e *entity) size() (n int) {
	for i := range e.cells {
		n += len(e.cells[i].raw)
	}
	return n
}

// clone returns a copy whose cells may be replaced.
func (e *entity) clone() *entity { return &entity{slices.Clone(e.cells)} }

// encode returns the stored form.
func (e *entity) encode() ([]byte, error) {
	raws := make([]cbor.RawMessage, len(e.cells))
	for i := range e.cells {
		raws[i] = e.cells[i].raw
	}
	return encoder.Marshal(raws)
}

// decodeEntity reads the stored form. It keeps b.
func decodeEntity(b []byte) (*entity, error) {
	var raws []cbor.RawMessage
	if err := decoder.Unmarshal(b, &raws); err != nil {
		return nil, fmt.Errorf("decode entity: %w", err)
	}
	e := &entity{cells: make([]cell, len(raws))}
	for i, raw := range raws {
		c, err := openCell(raw)
		if err != nil {
			return nil, fmt.Errorf("decode entity: %w", err)
		}
		e.cells[i] = c
	}
	return e, nil
}
