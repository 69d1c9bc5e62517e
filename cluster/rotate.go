package cluster

import (
	"context"
	"crypto/rand"
	"fmt"
	"slices"
)

// maxEnded is how many keys are ended in one transaction.
const maxEnded = 100

// RotateKey makes a new key of a kind, which is to take the place of all that there are. Urgent and behind are as in
// [RingKey]. It returns a *LimitError if too many hold already.
func (s *Store) RotateKey(ctx context.Context, kind KeyKind, urgent bool, behind ...Node) (k RingKey, err error) {
	err = s.update(ctx, func(t *tx) error {
		v, r, err := t.ring()
		if err != nil {
			return err
		}
		if n := len(r.Of(kind)); n >= MaxKeys {
			return &LimitError{What: "number of " + string(kind) + " keys", Got: n + 1, Max: MaxKeys}
		}
		if k, err = s.newKey(&v, &r, kind, urgent); err != nil {
			return err
		}
		if err := t.addKey(&k); err != nil {
			return err
		}
		return t.leaveBehind(k.ID, behind)
	})
	k.Behind = behind
	return k, err
}

// RenewKeys makes new keys of the kinds of which none was made by a member that knew of all evictions, as when two
// sides of a split evicted one each. It returns those that it made.
func (s *Store) RenewKeys(ctx context.Context) (made []RingKey, err error) {
	var ended []RingKey
	err = s.update(ctx, func(t *tx) error {
		v, r, err := t.ring()
		if err != nil {
			return err
		}
		made, ended, err = s.renewKeys(t, &v, &r, r.Uncovered()...)
		return err
	})
	if err == nil {
		s.endKeys(ctx, ended)
	}
	return made, err
}

// ring reads the keys that hold in a transaction, and the evictions by which they do.
func (t *tx) ring() (v verdicts, r Ring, err error) {
	if v, err = readVerdicts(t); err == nil {
		r, err = readRing(t, &v)
	}
	return v, r, err
}

// renewKeys makes keys that are in a hurry. It returns those that hold no more by that, and by what was before: the
// cluster keys if that kind is among them.
func (s *Store) renewKeys(t *tx, v *verdicts, r *Ring, kinds ...KeyKind) (made, ended []RingKey, err error) {
	for _, kind := range kinds {
		k, err := s.newKey(v, r, kind, true)
		if err != nil {
			return nil, nil, err
		}
		if err := t.addKey(&k); err != nil {
			return nil, nil, err
		}
		made = append(made, k)
		if kind == JoinKey {
			ended = append(ended, r.Of(kind)...)
		}
	}
	return made, append(ended, r.Spent...), nil
}

// endKeys takes the secrets away of keys that hold no more. Those that it cannot stay among those that are spent.
func (s *Store) endKeys(ctx context.Context, keys []RingKey) {
	if err := s.RemoveKeys(ctx, keys...); err != nil {
		s.log.Warn("secrets stand of keys that hold no more", "err", err)
	}
}

// newKey draws a key that is newer than all of a ring.
func (s *Store) newKey(v *verdicts, r *Ring, kind KeyKind, urgent bool) (RingKey, error) {
	k := RingKey{Kind: kind, Made: s.clock.now(), By: s.node, Urgent: urgent, Covers: true, knew: v.sum()}
	for _, o := range r.Of(kind) {
		k.Generation = max(k.Generation, o.Generation)
	}
	k.Generation++
	if urgent { // it is newer than those that do not cover, whatever their generation
		k.Generation = min(k.Generation, maxGeneration)
	}
	if k.Generation > maxGeneration {
		return k, &LimitError{What: "generation of " + string(kind) + " keys", Got: maxGeneration + 1, Max: maxGeneration}
	}
	_, _ = rand.Read(k.Secret[:]) // never fails, crypto/rand
	k.ID = KeyIDOf(kind, k.Secret)
	return k, nil
}

func (t *tx) addKey(k *RingKey) error {
	value, err := encoder.Marshal(wireKey{
		Kind: string(k.Kind), Secret: k.Secret[:], Generation: k.Generation, Made: k.Made.UnixMilli(), By: k.By[:],
		Urgent: k.Urgent, Knew: k.knew,
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

// RemoveKeys ends keys, for good, in as many transactions as it takes. One that does not hold any more is left alone.
func (s *Store) RemoveKeys(ctx context.Context, keys ...RingKey) error {
	for some := range slices.Chunk(keys, maxEnded) {
		if err := s.update(ctx, func(t *tx) error { return t.removeKeys(some) }); err != nil {
			return err
		}
	}
	return nil
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
