package cluster

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/dgraph-io/badger/v4"
)

// A key is an entity of kind "key", named by a hash of its secret. It is written once. When it holds no more its secret
// is overwritten, for good, by a cell of a higher rank; what remains says that it was a key of this cluster. The first
// keys are settings, as they were before keys could be replaced. What a member holds is one cell of an entity of kind
// "ring", which only that member writes.
const (
	kindKey     = "key"
	kindRing    = "ring"
	fieldSecret = "secret"  // rank 0: the key; rank 1: it holds no more
	fieldBehind = "behind/" // and a node: it is not waited for
	fieldRing   = "ring"

	// MaxKeys bounds how many keys of one kind hold at a time. The bound is a writer's: more may come together when a
	// split heals.
	MaxKeys = 8
)

// The settings that hold the first keys.
var firstKeys = map[KeyKind]string{GossipKey: "gossip", JoinKey: "key"}

// KeyID names a key. It is no secret.
type KeyID [16]byte

func (id KeyID) String() string { return hex.EncodeToString(id[:]) }

// KeyIDOf names a secret.
func KeyIDOf(kind KeyKind, secret [32]byte) KeyID {
	h := sha256.New()
	h.Write([]byte("gatemesh key id v1\x00" + string(kind) + "\x00"))
	h.Write(secret[:])
	return KeyID(h.Sum(nil)[:16])
}

func keyRef(id KeyID) ref { return refOf(kindKey, id[:]) }
func ringRef(n Node) ref  { return refOf(kindRing, n[:]) }

// wireKey is the value of a key's secret in CBOR. Of one that holds no more only the kind is there.
type wireKey struct {
	Kind       string `cbor:"1,keyasint"`
	Secret     []byte `cbor:"2,keyasint,omitempty"`
	Generation uint64 `cbor:"3,keyasint,omitempty"`
	Made       int64  `cbor:"4,keyasint,omitempty"` // Unix milliseconds
	By         []byte `cbor:"5,keyasint,omitempty"`
	Urgent     bool   `cbor:"6,keyasint,omitempty"`
}

// wireHolding is what a member says of the keys of one kind in CBOR.
type wireHolding struct {
	Kind  string   `cbor:"1,keyasint"`
	Holds [][]byte `cbor:"2,keyasint"`
	Uses  []byte   `cbor:"3,keyasint"`
}

// keyOf reads a key; gone says that it holds no more, ok is false if it is none.
func keyOf(id []byte, e *entity) (k RingKey, gone, ok bool) {
	c := e.get(fieldSecret)
	var w wireKey
	if c == nil || len(id) != len(KeyID{}) || decoder.Unmarshal(c.value, &w) != nil {
		return k, false, false
	}
	k = RingKey{ID: KeyID(id), Kind: KeyKind(w.Kind)}
	if c.rank > 0 {
		return k, true, true
	}
	if len(w.Secret) != len(k.Secret) || len(w.By) != len(Node{}) || w.Generation == 0 || w.Generation >= maxCount {
		return k, false, false
	}
	k.Secret, k.By = [32]byte(w.Secret), Node(w.By)
	k.Generation, k.Made, k.Urgent = w.Generation, time.UnixMilli(w.Made).UTC(), w.Urgent
	for i := range e.cells {
		text, cut := strings.CutPrefix(e.cells[i].field, fieldBehind)
		if n, err := ParseNode(text); cut && err == nil {
			k.Behind = append(k.Behind, n)
		}
	}
	return k, false, KeyIDOf(k.Kind, k.Secret) == k.ID
}

// holdingsOf reads what a member holds; what is malformed says nothing.
func holdingsOf(e *entity) map[KeyKind]Holding {
	var ws []wireHolding
	if decoder.Unmarshal(e.value(fieldRing), &ws) != nil {
		return nil
	}
	all := map[KeyKind]Holding{}
	for _, w := range ws {
		var h Holding
		for _, b := range w.Holds {
			if len(b) == len(KeyID{}) {
				h.Holds = append(h.Holds, KeyID(b))
			}
		}
		if len(w.Uses) == len(h.Uses) {
			h.Uses = KeyID(w.Uses)
		}
		all[KeyKind(w.Kind)] = h
	}
	return all
}

// Ring returns the keys of the cluster and what its members say of them.
func (s *Store) Ring() (r Ring, err error) {
	err = s.view(func(txn *badger.Txn) error {
		r, err = readRing(txn)
		return err
	})
	return r, err
}

func readRing(txn *badger.Txn) (Ring, error) {
	r := Ring{Former: map[KeyID]KeyKind{}, Held: map[Node]map[KeyKind]Holding{}}
	err := eachOf(txn, kindKey, func(id []byte, e *entity) error {
		switch k, gone, ok := keyOf(id, e); {
		case gone:
			r.Former[k.ID] = k.Kind
		case ok:
			r.Keys = append(r.Keys, k)
		}
		return nil
	})
	if err != nil {
		return r, err
	}
	for _, kind := range KeyKinds {
		b, ok, err := readSetting(snapshot{txn}, firstKeys[kind])
		if err != nil {
			return r, err
		}
		if !ok || len(b) != 32 {
			continue
		}
		k := RingKey{ID: KeyIDOf(kind, [32]byte(b)), Kind: kind, Secret: [32]byte(b)}
		if _, gone := r.Former[k.ID]; !gone {
			r.Keys = append(r.Keys, k)
		}
	}
	slices.SortFunc(r.Keys, func(a, b RingKey) int {
		if a.newer(&b) {
			return -1
		}
		return 1
	})
	return r, eachOf(txn, kindRing, func(id []byte, e *entity) error {
		if len(id) == len(Node{}) {
			r.Held[Node(id)] = holdingsOf(e)
		}
		return nil
	})
}

// RotateKey makes a new key of a kind, which is to take the place of all that there are. Urgent and behind are as in
// [RingKey]. It returns a *LimitError if too many hold already.
func (s *Store) RotateKey(ctx context.Context, kind KeyKind, urgent bool, behind ...Node) (RingKey, error) {
	r, err := s.Ring()
	if err != nil {
		return RingKey{}, err
	}
	if n := len(r.Of(kind)); n >= MaxKeys {
		return RingKey{}, &LimitError{What: "number of " + string(kind) + " keys", Got: n + 1, Max: MaxKeys}
	}
	k := s.newKey(&r, kind, urgent)
	err = s.update(ctx, func(t *tx) error {
		if err := t.addKey(&k); err != nil {
			return err
		}
		return t.leaveBehind(k.ID, behind)
	})
	k.Behind = behind
	return k, err
}

// newKey draws a key that is newer than all of a ring.
func (s *Store) newKey(r *Ring, kind KeyKind, urgent bool) RingKey {
	k := RingKey{Kind: kind, Generation: 1, Made: s.clock.now(), By: s.node, Urgent: urgent}
	if known := r.Of(kind); len(known) > 0 {
		k.Generation = known[0].Generation + 1
	}
	_, _ = rand.Read(k.Secret[:]) // never fails, crypto/rand
	k.ID = KeyIDOf(kind, k.Secret)
	return k
}

func (t *tx) addKey(k *RingKey) error {
	value, err := encoder.Marshal(wireKey{
		Kind: string(k.Kind), Secret: k.Secret[:], Generation: k.Generation, Made: k.Made.UnixMilli(), By: k.By[:], Urgent: k.Urgent,
	})
	if err != nil {
		return fmt.Errorf("encode key: %w", err)
	}
	return t.put(keyRef(k.ID), fieldSecret, value)
}

// LeaveBehind says that members are not waited for before the keys older than this one are removed.
func (s *Store) LeaveBehind(ctx context.Context, id KeyID, members ...Node) error {
	return s.update(ctx, func(t *tx) error { return t.leaveBehind(id, members) })
}

func (t *tx) leaveBehind(id KeyID, members []Node) error {
	e, err := t.entity(keyRef(id))
	if err != nil {
		return err
	}
	if _, gone, ok := keyOf(id[:], e); gone || !ok {
		return fmt.Errorf("key %s: %w", id, ErrNotFound)
	}
	for _, m := range members {
		if e.get(fieldBehind+m.String()) != nil {
			continue
		}
		if err := t.put(keyRef(id), fieldBehind+m.String(), nil); err != nil {
			return err
		}
	}
	return nil
}

// RemoveKeys ends keys, for good. One that does not hold any more is left alone.
func (s *Store) RemoveKeys(ctx context.Context, keys ...RingKey) error {
	if len(keys) == 0 {
		return nil
	}
	return s.update(ctx, func(t *tx) error { return t.removeKeys(keys) })
}

func (t *tx) removeKeys(keys []RingKey) error {
	for _, k := range keys {
		e, err := t.entity(keyRef(k.ID))
		if err != nil {
			return err
		}
		if _, gone, _ := keyOf(k.ID[:], e); gone {
			continue
		}
		value, err := encoder.Marshal(wireKey{Kind: string(k.Kind)})
		if err != nil {
			return fmt.Errorf("encode key: %w", err)
		}
		if err := t.write(keyRef(k.ID), cell{field: fieldSecret, rank: 1, value: value}); err != nil {
			return err
		}
		if k.Generation > 0 {
			continue
		}
		if err := t.setSettings(map[string][]byte{firstKeys[k.Kind]: {}}); err != nil {
			return err
		}
	}
	return nil
}

// HoldKeys says what this gateway holds. What stands already is not written.
func (s *Store) HoldKeys(ctx context.Context, held map[KeyKind]Holding) error {
	var ws []wireHolding
	for _, kind := range KeyKinds {
		h, ok := held[kind]
		if !ok {
			continue
		}
		w := wireHolding{Kind: string(kind), Uses: h.Uses[:]}
		slices.SortFunc(h.Holds, func(a, b KeyID) int { return bytes.Compare(a[:], b[:]) })
		for _, id := range h.Holds {
			w.Holds = append(w.Holds, bytes.Clone(id[:]))
		}
		ws = append(ws, w)
	}
	value, err := encoder.Marshal(ws)
	if err != nil {
		return fmt.Errorf("encode ring: %w", err)
	}
	return s.update(ctx, func(t *tx) error {
		e, err := t.entity(ringRef(s.node))
		if err != nil {
			return err
		}
		if c := e.get(fieldRing); c != nil && bytes.Equal(c.value, value) {
			return nil
		}
		return t.put(ringRef(s.node), fieldRing, value)
	})
}
