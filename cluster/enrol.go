package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// checkName returns a *NameError unless the name is 1 to 63 letters, digits, '-',
// '_' or '.', the first and the last a letter or a digit.
func checkName(name string) error {
	alphanumeric := func(c byte) bool {
		return '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
	}
	ok := name != "" && len(name) <= MaxName && alphanumeric(name[0]) && alphanumeric(name[len(name)-1])
	for i := 0; ok && i < len(name); i++ {
		ok = alphanumeric(name[i]) || strings.IndexByte("-_.", name[i]) >= 0
	}
	if !ok {
		return &NameError{Name: name}
	}
	return nil
}

// AddDevice enrols a device and allocates its addresses from the settings "pool"
// and "ula". It returns an *ExistsError (name or key), a *NameError,
// ErrInvalidKey, ErrPoolFull or ErrNoPool. The device is enabled.
func (s *Store) AddDevice(ctx context.Context, name string, key Key) (Device, error) {
	if err := checkName(name); err != nil {
		return Device{}, err
	}
	if err := validKey(key); err != nil {
		return Device{}, err
	}
	created := s.clock.now()
	return s.updateDevice(ctx, func(t *tx) (Device, error) { return t.addDevice(name, key, created) })
}

// updateDevice is update for what results in a device.
func (s *Store) updateDevice(ctx context.Context, run func(*tx) (Device, error)) (Device, error) {
	var d Device
	err := s.update(ctx, func(t *tx) (err error) {
		d, err = run(t)
		return err
	})
	if err != nil {
		return Device{}, err // when ctx ended, the committer may be writing d
	}
	return d, nil
}

func (t *tx) addDevice(name string, key Key, created time.Time) (Device, error) {
	if err := t.freeName(name, key); err != nil {
		return Device{}, err
	}
	if err := t.freeKey(key); err != nil {
		return Device{}, err
	}
	return t.createDevice(key, map[string][]byte{
		fieldName:    []byte(name),
		fieldCreated: []byte(formatTime(created)),
	})
}

// createDevice begins a new life of a device with fields, and with new addresses
// where none are among them.
func (t *tx) createDevice(key Key, fields map[string][]byte) (Device, error) {
	if err := t.address(key, fields); err != nil {
		return Device{}, err
	}
	r := deviceRef(key)
	e, err := t.entity(r)
	if err != nil {
		return Device{}, err
	}
	if err := t.write(r, cell{life: newLife(e.life(), t.time)}); err != nil {
		return Device{}, err
	}
	for _, f := range []string{fieldName, fieldCreated, fieldIPv4, fieldIPv6, fieldPSK} {
		if v, ok := fields[f]; ok {
			if err := t.put(r, f, v); err != nil {
				return Device{}, err
			}
		}
	}
	return deviceOf(claimed{t, key}, key, e)
}

// address adds the addresses that are missing.
func (t *tx) address(key Key, fields map[string][]byte) error {
	for _, f := range families {
		if fields[f] != nil {
			continue
		}
		a, err := t.allocate(key, f)
		if err != nil {
			return err
		}
		fields[f] = a.AsSlice()
	}
	return nil
}

// newLife returns the causal length of a life that begins after old: odd, and
// taken from the clock, so that a marker of a deletion that was collected
// elsewhere cannot be above it.
func newLife(old, now uint64) uint64 { return max(old+1, now) | 1 }

// claimed reads a transaction in which a device is being given addresses that
// nobody else has; the index will say so when the transaction is finished.
type claimed struct {
	*tx
	key Key
}

func (c claimed) get(key []byte) ([]byte, error) {
	if len(key) > 0 && key[0] == atAddress {
		return c.key[:], nil
	}
	return c.tx.get(key)
}

func (t *tx) freeName(name string, but Key) error {
	b, err := t.get(nameKey(name))
	if err != nil {
		return err
	}
	for _, k := range decodeKeys(b) {
		if k != but {
			return &ExistsError{Field: "name", Value: name, ID: KeyString(k)}
		}
	}
	return nil
}

func (t *tx) freeKey(key Key) error {
	if _, err := t.entity(deviceRef(key)); err != nil {
		return err
	}
	if t.shown(deviceRef(key)).alive() {
		return &ExistsError{Field: "key", Value: KeyString(key), ID: KeyString(key)}
	}
	return nil
}

// pools reads the two settings that addresses are made from.
func (t *tx) pools() (pool, ula netip.Prefix, err error) {
	for _, p := range []struct {
		name string
		to   *netip.Prefix
	}{{settingPool, &pool}, {settingULA, &ula}} {
		v, ok, err := readSetting(t, p.name)
		if err != nil {
			return pool, ula, err
		}
		if !ok {
			return pool, ula, fmt.Errorf("setting %q is missing: %w", p.name, ErrNoPool)
		}
		if *p.to, err = netip.ParsePrefix(string(v)); err != nil {
			return pool, ula, fmt.Errorf("setting %q: %w: %w", p.name, ErrNoPool, err)
		}
	}
	if err := ValidatePool(pool); err != nil {
		return pool, ula, fmt.Errorf("%w: %w", ErrNoPool, err)
	}
	if !ula.Addr().Is6() || ula.Bits() != 64 {
		return pool, ula, fmt.Errorf("setting %q is not an IPv6 /64: %w", settingULA, ErrNoPool)
	}
	return pool, ula.Masked(), nil
}

// allocate returns an address of a family that nobody claims.
func (t *tx) allocate(key Key, field string) (a netip.Addr, err error) {
	pool, ula, err := t.pools()
	if err != nil {
		return netip.Addr{}, err
	}
	taken := func(a netip.Addr) bool {
		b, e := t.get(addressKey(a))
		if e != nil {
			err = e
		}
		_, given := t.given[a]
		_, reserved := t.reserved[a]
		return given || reserved || b != nil
	}
	defer func() {
		if err != nil {
			return
		}
		if t.given == nil {
			t.given = map[netip.Addr]struct{}{}
		}
		t.given[a] = struct{}{}
	}()
	if field == fieldIPv6 {
		// A device that got a new key has kept the address of its old one, so the
		// place of a hash may be taken.
		for a = Address6(ula, key); taken(a) && err == nil; {
			a = a.Next()
		}
		return a, err
	}
	a, full := Allocate(pool, key, taken)
	return a, errors.Join(err, full)
}
