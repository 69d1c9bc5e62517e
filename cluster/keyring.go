package cluster

import (
	"bytes"
	"cmp"
	"context"
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

	// maxGeneration bounds the generation of a key, and maxStep by how much it may be above that of the one before: by
	// this one, a key that leaves no room for newer ones is ignored.
	maxGeneration = 1 << 32
	maxStep       = 1000

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
	Knew       []byte `cbor:"7,keyasint,omitempty"` // names the evictions that its maker knew
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
	if len(w.Secret) != len(k.Secret) || len(w.By) != len(Node{}) || w.Generation == 0 || w.Generation > maxGeneration {
		return k, false, false
	}
	k.Secret, k.By = [32]byte(w.Secret), Node(w.By)
	k.Generation, k.Made, k.Urgent, k.knew = w.Generation, time.UnixMilli(w.Made).UTC(), w.Urgent, w.Knew
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
	err = s.judge(func(txn *badger.Txn, v *verdicts) error {
		r, err = readRing(snapshot{txn}, v)
		return err
	})
	return r, err
}

// readRing reads the keys that hold. A cluster key does not if another was made by one who knew of more evictions, and
// none does that is void.
func readRing(s source, v *verdicts) (Ring, error) {
	r := Ring{Former: map[KeyID]KeyKind{}, Held: map[Node]map[KeyKind]Holding{}}
	err := eachIn(s, kindKey, func(id []byte, e *entity) error {
		k, gone, ok := keyOf(id, e)
		if !ok {
			return nil
		}
		void, err := v.void(s, e.get(fieldSecret))
		if err != nil {
			return err
		}
		switch {
		case gone:
			r.Former[k.ID] = k.Kind
		case void:
			r.spend(k)
		default:
			k.Covers = bytes.Equal(k.knew, v.sum())
			r.Keys = append(r.Keys, k)
		}
		return nil
	})
	if err != nil {
		return r, err
	}
	for _, kind := range KeyKinds {
		b, ok, err := readSetting(s, firstKeys[kind])
		if err != nil {
			return r, err
		}
		if !ok || len(b) != 32 {
			continue
		}
		k := RingKey{ID: KeyIDOf(kind, [32]byte(b)), Kind: kind, Secret: [32]byte(b), Covers: v.sum() == nil}
		if _, gone := r.Former[k.ID]; !gone {
			r.Keys = append(r.Keys, k)
		}
	}
	r.order()
	return r, eachIn(s, kindRing, func(id []byte, e *entity) error {
		if len(id) == len(Node{}) {
			r.Held[Node(id)] = holdingsOf(e)
		}
		return nil
	})
}

// spend takes a key for one that holds no more though its secret stands yet.
func (r *Ring) spend(k RingKey) {
	r.Former[k.ID] = k.Kind
	r.Spent = append(r.Spent, k)
}

// order sorts the keys, the newest first, and drops those that do not hold.
func (r *Ring) order() {
	slices.SortFunc(r.Keys, func(a, b RingKey) int { return cmp.Compare(a.Generation, b.Generation) })
	last := map[KeyKind]uint64{}
	r.Keys = slices.DeleteFunc(r.Keys, func(k RingKey) bool {
		before, later := last[k.Kind]
		if later && k.Generation > before+maxStep {
			return true
		}
		last[k.Kind] = k.Generation
		return false
	})
	covered := r.Covered(JoinKey)
	for _, k := range r.Keys {
		if k.Kind == JoinKey && covered && !k.Covers {
			r.spend(k)
		}
	}
	r.Keys = slices.DeleteFunc(r.Keys, func(k RingKey) bool { return k.Kind == JoinKey && covered && !k.Covers })
	slices.SortFunc(r.Keys, func(a, b RingKey) int {
		if a.newer(&b) {
			return -1
		}
		return 1
	})
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
