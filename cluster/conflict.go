package cluster

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"

	"github.com/dgraph-io/badger/v4"
	"github.com/fxamacker/cbor/v2"
)

// A conflict is a write that was overwritten by one that had not seen it. Whichever
// replica meets the two writes it in the transaction in which they meet, as an entity whose
// id follows from the lost cell: however many replicas meet it, and with whatever cell that
// stands by then, it is one conflict, and all list the same. Its life is 1 while it is listed
// and 2 for ever when it was resolved or went for lack of room, so that a replica that meets
// the lost cell late does not list it again.
//
// The author of a cell has it until something supersedes it there. What that is had seen
// the cell, or the author lists the conflict. So none is missed while he lives, and if he does
// not, none whose cell another replica had.

const (
	fieldLost = "lost"
	// maxConflicts bounds how many are listed; the oldest go.
	maxConflicts = 1000
	// maxLost bounds the bytes of a lost cell that is kept with its conflict; of a larger one the value is left out.
	maxLost = MaxValue - 1024
)

// wireLoss is the value of a conflict's one field in CBOR.
type wireLoss struct {
	_       struct{} `cbor:",toarray"`
	Kind    string
	ID      []byte
	Cell    cbor.RawMessage
	Omitted bool // the cell's value was too large
}

// listable reports whether a lost write is listed: what an administrator writes, and not
// what gateways say of themselves.
func listable(r ref, field string) bool {
	switch r.kind() {
	case kindDevice:
		return r.isDevice() && (field == fieldName || field == fieldPSK || strings.HasPrefix(field, fieldOff))
	case kindSetting:
		return field == fieldValue
	case kindGateway:
		return len(r.id()) == len(Node{}) && (field == "name" || field == "public" || field == "capacity")
	}
	return false
}

// lose takes notice of writes that an applied cell overwrote, or that overwrote it,
// without having been seen. e is the entity after it.
func (t *tx) lose(r ref, e *entity, c cell, taken bool, gone []cell) {
	for i := range gone {
		if listable(r, gone[i].field) && !c.saw(&gone[i]) {
			t.losses = append(t.losses, record{r, gone[i]})
		}
	}
	t.lapse(r, e, c, taken, gone)
	if taken || !listable(r, c.field) {
		return
	}
	by := e.get(c.field)
	if c.life < e.life() {
		by = e.get("")
	}
	if by != nil && !bytes.Equal(by.raw, c.raw) && !by.saw(&c) {
		t.losses = append(t.losses, record{r, c})
	}
}

// listLosses lists what was lost, unless the same stands anyway.
func (t *tx) listLosses() error {
	losses := t.losses
	t.losses = nil
	for _, l := range losses {
		e, err := t.entity(l.ref)
		if err != nil {
			return err
		}
		if s := e.get(l.cell.field); s != nil && sameValue(s, &l.cell) {
			continue
		}
		if err := t.listLoss(l); err != nil {
			return err
		}
	}
	return nil
}

// sameValue reports whether two cells of a field say the same.
func sameValue(a, b *cell) bool {
	if strings.HasPrefix(a.field, fieldOff) {
		return a.rank%2 == b.rank%2
	}
	return bytes.Equal(a.value, b.value)
}

func conflictRef(r ref, c *cell) ref {
	h := sha256.New()
	h.Write([]byte(r))
	h.Write(c.raw)
	return refOf(kindConflict, h.Sum(nil)[:16])
}

// listLoss writes a conflict that was not listed before.
func (t *tx) listLoss(l record) error {
	at := conflictRef(l.ref, &l.cell)
	e, err := t.entity(at)
	if err != nil || len(e.cells) > 0 {
		return err
	}
	w := wireLoss{Kind: l.ref.kind(), ID: l.ref.id(), Cell: l.cell.raw}
	if len(l.cell.raw) > maxLost {
		bare := l.cell
		bare.value = nil
		if bare, err = bare.seal(); err != nil {
			return err
		}
		w.Cell, w.Omitted = bare.raw, true
	}
	value, err := encoder.Marshal(w)
	if err != nil {
		return fmt.Errorf("encode conflict: %w", err)
	}
	if err := t.write(at, cell{life: 1}); err != nil {
		return err
	}
	return t.put(at, fieldLost, value)
}

// loss is a conflict as it is stored.
type loss struct {
	record
	omitted bool
}

// lossOf reads a conflict; ok is false if it is none or not listed any more.
func lossOf(e *entity) (l loss, ok bool) {
	var w wireLoss
	if !e.alive() || decoder.Unmarshal(e.value(fieldLost), &w) != nil {
		return l, false
	}
	if len(w.Kind) == 0 || len(w.Kind) > maxKind || len(w.ID) == 0 || len(w.ID) > maxID {
		return l, false
	}
	c, err := openCell(w.Cell)
	l = loss{record{refOf(w.Kind, w.ID), c}, w.Omitted}
	return l, err == nil
}

// countConflicts keeps the number of conflicts listed.
func (t *tx) countConflicts(r ref) error {
	if r.kind() != kindConflict || t.before[r].alive() == t.entities[r].alive() {
		return nil
	}
	n, err := readNumber(t, metaConflicts)
	if err != nil {
		return err
	}
	if t.entities[r].alive() {
		n++
	} else {
		n--
	}
	t.setNumber(metaConflicts, n)
	return nil
}

// trimConflicts ends the oldest conflicts beyond maxConflicts.
func (s *Store) trimConflicts() error {
	if s.conflicts <= maxConflicts {
		return nil
	}
	var old []record
	err := s.db.View(func(txn *badger.Txn) error {
		return eachOf(txn, kindConflict, func(id []byte, e *entity) error {
			if e.alive() {
				l, _ := lossOf(e)
				old = append(old, record{refOf(kindConflict, id), l.cell})
			}
			return nil
		})
	})
	if err != nil || len(old) <= maxConflicts {
		return err
	}
	slices.SortFunc(old, func(a, b record) int {
		return bytes.Compare(append(a.cell.stamp.append(nil), a.ref...), append(b.cell.stamp.append(nil), b.ref...))
	})
	old = old[:len(old)-maxConflicts]
	s.log.Warn("more conflicts than are listed; the oldest go", "listed", maxConflicts, "gone", len(old))
	for some := range slices.Chunk(old, 512) {
		err := s.alone(func(t *tx) error {
			for _, r := range some {
				if err := t.write(r.ref, cell{life: 2}); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}
