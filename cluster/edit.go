package cluster

import (
	"context"
	"fmt"
	"strings"
)

// aliveDevice returns the entity of a device alive, or ErrNotFound.
func (t *tx) aliveDevice(key Key) (*entity, error) {
	e, err := t.entity(deviceRef(key))
	if err != nil {
		return nil, err
	}
	if !t.shown(deviceRef(key)).alive() {
		return nil, fmt.Errorf("device %s: %w", KeyString(key), ErrNotFound)
	}
	return e, t.revive(deviceRef(key))
}

// stands reports whether a write of a value would change nothing, now or later.
func (t *tx) stands(r ref, field string, value []byte) bool {
	return t.held[r] == nil && string(t.entities[r].value(field)) == string(value)
}

// RemoveDevice deletes a device with all that is known of it. It returns an error
// that wraps ErrNotFound.
func (s *Store) RemoveDevice(ctx context.Context, key Key) error {
	return s.update(ctx, func(t *tx) error { return t.removeDevice(key) })
}

func (t *tx) removeDevice(key Key) error {
	e, err := t.aliveDevice(key)
	if err != nil {
		return err
	}
	return t.write(deviceRef(key), cell{life: e.life() + 1})
}

// RenameDevice gives a device another name. It returns an error that wraps
// ErrNotFound, an *ExistsError or a *NameError.
func (s *Store) RenameDevice(ctx context.Context, key Key, name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	return s.update(ctx, func(t *tx) error {
		if _, err := t.aliveDevice(key); err != nil {
			return err
		}
		if err := t.freeName(name, key); err != nil {
			return err
		}
		if t.stands(deviceRef(key), fieldName, []byte(name)) {
			return nil
		}
		return t.put(deviceRef(key), fieldName, []byte(name))
	})
}

// EnableDevice enables or disables a device. An enabling lifts the disablings
// that it has seen; one made elsewhere at the same time stands. It returns an
// error that wraps ErrNotFound.
func (s *Store) EnableDevice(ctx context.Context, key Key, on bool) error {
	return s.update(ctx, func(t *tx) error {
		e, err := t.aliveDevice(key)
		if err != nil {
			return err
		}
		if on {
			return t.enable(key, e)
		}
		return t.disable(key, e)
	})
}

// disable raises this node's disabling to the next odd rank, also when it is odd
// already: the new one is not seen by an enabling that is on its way.
func (t *tx) disable(key Key, e *entity) error {
	field := fieldOff + t.author.node().String()
	rank := uint64(1)
	if c := e.get(field); c != nil {
		rank = (c.rank + 1) | 1
	}
	return t.write(deviceRef(key), cell{field: field, rank: rank})
}

// enable lifts every disabling.
func (t *tx) enable(key Key, e *entity) error {
	for _, c := range e.clone().cells {
		if !strings.HasPrefix(c.field, fieldOff) || c.rank%2 == 0 {
			continue
		}
		if err := t.write(deviceRef(key), cell{field: c.field, rank: c.rank + 1}); err != nil {
			return err
		}
	}
	return nil
}

// SetPresharedKey gives a device a preshared key; the zero key takes it away. It
// returns an error that wraps ErrNotFound.
func (s *Store) SetPresharedKey(ctx context.Context, key, psk Key) error {
	var value []byte
	if psk != (Key{}) {
		value = psk[:]
	}
	return s.update(ctx, func(t *tx) error {
		if _, err := t.aliveDevice(key); err != nil {
			return err
		}
		if t.stands(deviceRef(key), fieldPSK, value) {
			return nil
		}
		return t.put(deviceRef(key), fieldPSK, value)
	})
}

// RekeyDevice gives a device another key: one transaction that deletes the old
// one and makes the new one with the same name, addresses, preshared key and date;
// a disabled device stays disabled. It returns an error that wraps ErrNotFound,
// ErrInvalidKey, or an *ExistsError.
func (s *Store) RekeyDevice(ctx context.Context, old, key Key) (Device, error) {
	if err := validKey(key); err != nil {
		return Device{}, err
	}
	return s.updateDevice(ctx, func(t *tx) (Device, error) { return t.rekeyDevice(old, key) })
}

func (t *tx) rekeyDevice(old, key Key) (Device, error) {
	if _, err := t.aliveDevice(old); err != nil {
		return Device{}, err
	}
	if err := t.freeKey(key); err != nil {
		return Device{}, err
	}
	e := t.shown(deviceRef(old))
	was, err := deviceOf(t, old, e)
	if err != nil {
		return Device{}, err
	}
	fields := map[string][]byte{}
	for _, f := range []string{fieldName, fieldCreated, fieldPSK} {
		if c := e.get(f); c != nil {
			fields[f] = c.value
		}
	}
	for _, a := range was.Addresses {
		fields[addressField(a)] = a.AsSlice()
	}
	if err := t.removeDevice(old); err != nil {
		return Device{}, err
	}
	d, err := t.createDevice(key, fields)
	if err != nil || was.Enabled {
		return d, err
	}
	is, err := t.aliveDevice(key)
	if err != nil {
		return Device{}, err
	}
	d.Enabled = false
	return d, t.disable(key, is)
}
