package cluster

import (
	"context"
	"maps"
	"slices"

	"github.com/dgraph-io/badger/v4"
)

const fieldValue = "value"

// Settings that say who may join. The store does not read them.
const (
	SettingJoins     = "joins"      // "on" or "off"
	SettingJoinHosts = "join-hosts" // prefixes between commas; empty: anywhere
)

// settings that the store itself reads.
const (
	settingPool = "pool"
	settingULA  = "ula"
)

// Setting returns the value of a setting and whether it is set. The slice
// belongs to the caller.
func (s *Store) Setting(name string) (value []byte, ok bool, err error) {
	err = s.view(func(txn *badger.Txn) error {
		value, ok, err = readSetting(snapshot{txn}, name)
		return err
	})
	return value, ok, err
}

func settingRef(name string) ref { return refOf(kindSetting, []byte(name)) }

func readSetting(r reader, name string) ([]byte, bool, error) {
	if len(name) > maxID {
		return nil, false, nil
	}
	e, err := readShown(r, settingRef(name))
	if err != nil {
		return nil, false, err
	}
	c := e.get(fieldValue)
	if c == nil {
		return nil, false, nil
	}
	return c.value, true, nil
}

// SetSettings writes settings, all or none. Values have at most MaxValue bytes,
// all together at most 192 KiB; a value that stands already is not written.
// Names have 1 to 128 bytes.
func (s *Store) SetSettings(ctx context.Context, values map[string][]byte) error {
	for name := range values {
		if err := checkLength("setting name", len(name), maxID); err != nil {
			return err
		}
		if name == "" {
			return &LimitError{What: "setting name", Min: 1, Max: maxID}
		}
		if err := checkLength("setting "+name, len(values[name]), MaxValue); err != nil {
			return err
		}
		if name == SettingMaxInstances && len(values[name]) > 0 {
			if _, err := ParseMaxInstances(values[name]); err != nil {
				return err
			}
		}
	}
	return s.update(ctx, func(t *tx) error { return t.setSettings(values) })
}

func (t *tx) setSettings(values map[string][]byte) error {
	for _, name := range slices.Sorted(maps.Keys(values)) {
		e, err := t.entity(settingRef(name))
		if err != nil {
			return err
		}
		if e.get(fieldValue) != nil && t.stands(settingRef(name), fieldValue, values[name]) {
			continue
		}
		if err := t.put(settingRef(name), fieldValue, values[name]); err != nil {
			return err
		}
	}
	return nil
}
