package cluster

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/dgraph-io/badger/v4"
)

// Fields of an admission.
const (
	fieldAdmission = "admission"
	fieldEvicted   = "evicted/" // and the node that evicted it, which alone writes it
	fieldLeft      = "left"     // is there when the gateway has left for good
)

// Admission says that a gateway may be a member.
type Admission struct {
	Key       ed25519.PublicKey // of the gateway; its node is NodeOf(Key)
	Name      string            // when it was admitted; at most 255 bytes
	Sponsor   Node
	At        time.Time // to the millisecond
	Statement []byte    // the sponsor's signature, as SignAdmission makes it; at most 4 KiB
	Limit     int       // max-instances as the sponsor knew it; 0: not bounded

	own  bool     // it wrote that itself
	knew []uint64 // and knew of these evictions, by their prints
}

// wireAdmission is the value of an admission's one cell in CBOR.
type wireAdmission struct {
	Key       []byte   `cbor:"1,keyasint"`
	Name      string   `cbor:"2,keyasint,omitempty"`
	Sponsor   []byte   `cbor:"3,keyasint"`
	At        int64    `cbor:"4,keyasint"` // Unix milliseconds
	Statement []byte   `cbor:"5,keyasint,omitempty"`
	Limit     int      `cbor:"6,keyasint,omitempty"`
	Knew      []uint64 `cbor:"7,keyasint,omitempty"` // of one's own admission: prints of the evictions known then
}

func admissionRef(n Node) ref { return refOf(kindAdmission, n[:]) }

// Admit records an admission, in place of an earlier one of the same key. It returns ErrEvicted for a gateway that was
// evicted.
func (s *Store) Admit(ctx context.Context, a Admission) error {
	if len(a.Key) != ed25519.PublicKeySize {
		return fmt.Errorf("admit: key of %d bytes: %w", len(a.Key), ErrInvalidKey)
	}
	if err := cmp.Or(checkLength("gateway's name", len(a.Name), 255), checkLength("statement", len(a.Statement), 4<<10)); err != nil {
		return fmt.Errorf("admit: %w", err)
	}
	n, w := NodeOf(a.Key), wireAdmission{
		Key: a.Key, Name: a.Name, Sponsor: a.Sponsor[:], At: a.At.UnixMilli(), Statement: a.Statement,
		Limit: max(a.Limit, 0),
	}
	return s.update(ctx, func(t *tx) error {
		v, err := readVerdicts(t)
		if err != nil {
			return err
		}
		if _, evicted := v.of[n]; evicted {
			return ErrEvicted
		}
		if n == s.node {
			w.Knew = v.prints
		}
		value, err := encoder.Marshal(w)
		if err != nil {
			return fmt.Errorf("encode admission: %w", err)
		}
		return t.put(admissionRef(n), fieldAdmission, value)
	})
}

// Admitted returns the admission of a gateway and whether it stands. One that is returned and does not stand was
// written by an evicted gateway, see Suspended.
func (s *Store) Admitted(n Node) (a Admission, ok bool, err error) {
	err = s.judge(func(txn *badger.Txn, v *verdicts) (err error) {
		a, ok, err = v.standing(snapshot{txn}, n)
		return err
	})
	return a, ok, err
}

// evicted reports whether anybody evicted the gateway, be it that this does not count.
func (e *entity) evicted() bool {
	return slices.ContainsFunc(e.cells, func(c cell) bool { return strings.HasPrefix(c.field, fieldEvicted) })
}

// Departed reports whether a gateway was a member and is none any more.
func (s *Store) Departed(n Node) (yes bool, err error) {
	err = s.judge(func(txn *badger.Txn, v *verdicts) (err error) {
		yes, err = v.departed(snapshot{txn}, n)
		return err
	})
	return yes, err
}

// Leave ends this gateway's own admission, for good: nobody waits for it any more. It returns an error that wraps
// ErrNotFound if it has none.
func (s *Store) Leave(ctx context.Context) error {
	return s.updateSealed(ctx, func(t *tx) error {
		e, err := t.entity(admissionRef(s.node))
		if err != nil {
			return err
		}
		if _, ok := admissionOf(s.node[:], e); !ok {
			return fmt.Errorf("gateway %s: %w", s.node, ErrNotFound)
		}
		if e.get(fieldLeft) != nil {
			return nil
		}
		return t.write(admissionRef(s.node), cell{field: fieldLeft, rank: 1})
	})
}

// Admissions returns all admissions that stand, by name, then node.
func (s *Store) Admissions() ([]Admission, error) {
	var as []Admission
	err := s.judge(func(txn *badger.Txn, v *verdicts) error {
		return v.each(snapshot{txn}, func(a Admission, stands bool) {
			if stands {
				as = append(as, a)
			}
		})
	})
	slices.SortFunc(as, func(a, b Admission) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(string(a.Key), string(b.Key)))
	})
	return as, err
}

// admissionOf reads an admission. One whose key is not that of its node is none.
func admissionOf(id []byte, e *entity) (Admission, bool) {
	var w wireAdmission
	c := e.get(fieldAdmission)
	if c == nil || decoder.Unmarshal(c.value, &w) != nil {
		return Admission{}, false
	}
	if len(w.Key) != ed25519.PublicKeySize || len(w.Sponsor) != len(Node{}) {
		return Admission{}, false
	}
	n := NodeOf(w.Key)
	if string(n[:]) != string(id) {
		return Admission{}, false
	}
	return Admission{
		Key: w.Key, Name: w.Name, Sponsor: Node(w.Sponsor),
		At: time.UnixMilli(w.At).UTC(), Statement: w.Statement, Limit: max(w.Limit, 0),
		own: n == c.stamp.author.node(), knew: w.Knew,
	}, true
}

// eachEntity calls fn with every entity of a kind, by id, all of one committed
// state. The id and the entity may be kept.
func (s *Store) eachEntity(kind string, fn func(id []byte, e *entity) error) error {
	return s.view(func(txn *badger.Txn) error { return eachOf(txn, kind, fn) })
}

func eachOf(txn *badger.Txn, kind string, fn func(id []byte, e *entity) error) error {
	prefix := append([]byte{byte(len(kind))}, kind...)
	return eachEntity(txn, prefix, func(r ref, e *entity) error { return fn(r.id(), e) })
}

// eachEntity calls fn with every entity whose place begins with a prefix. The entity may be kept.
func eachEntity(txn *badger.Txn, prefix []byte, fn func(r ref, e *entity) error) error {
	it := txn.NewIterator(prefixed(append([]byte{atEntity}, prefix...)))
	defer it.Close()
	for it.Rewind(); it.Valid(); it.Next() {
		r, _, ok := cutRef(it.Item().Key()[1:])
		if !ok {
			continue
		}
		b, err := it.Item().ValueCopy(nil)
		if err != nil {
			return fmt.Errorf("read %s: %w", r.kind(), err)
		}
		e, err := decodeEntity(b)
		if err != nil {
			return err
		}
		if err := fn(r, e); err != nil {
			return err
		}
	}
	return nil
}
