package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
)

// ErrChanged says that a device is no longer as it was when edits were planned.
var ErrChanged = errors.New("devices were changed meanwhile")

// AddressError says why a device cannot have an address.
type AddressError struct {
	Device  string // name
	Address netip.Addr
	Reason  string
}

func (e *AddressError) Error() string {
	return fmt.Sprintf("address %s of device %q %s", e.Address, e.Device, e.Reason)
}

// Desired is a device as somebody wants it.
type Desired struct {
	Name         string
	Key          Key
	Addresses    []netip.Addr // at most one of each family; one that is missing is kept, or allocated
	Enabled      bool
	PresharedKey *Key // nil: as it is; zero: none
}

// Edit leads from what is to what is wanted.
type Edit struct {
	Old *Device  // nil: it is made
	New *Desired // nil: it is removed
}

// Plan returns what leads from the devices there are to those that are wanted,
// removals first, otherwise in the order of want. A device is known by its key, else
// by its name: then it is given a new key. Errors: *NameError, ErrInvalidKey,
// *ExistsError for what is wanted twice, *AddressError.
func Plan(have []Device, want []Desired, pool, ula netip.Prefix) ([]Edit, error) {
	if err := checkDesired(want, pool, ula); err != nil {
		return nil, err
	}
	byKey, byName := map[Key]*Device{}, map[string][]*Device{}
	for i := range have {
		d := &have[i]
		byKey[d.Key], byName[d.Name] = d, append(byName[d.Name], d)
	}
	kept := map[Key]bool{}
	for i := range want {
		kept[want[i].Key] = true
	}
	explicit := map[netip.Addr]string{}
	for _, w := range want {
		for _, a := range w.Addresses {
			explicit[a] = w.Name
		}
	}
	var removals, edits []Edit
	for i := range want {
		w := &want[i]
		old := byKey[w.Key]
		if same := byName[w.Name]; old == nil && len(same) == 1 && !kept[same[0].Key] {
			old = same[0]
			kept[old.Key] = true
		}
		for _, a := range w.keeps(old) {
			if other, ok := explicit[a]; ok {
				return nil, &AddressError{other, a, "is that of " + w.Name}
			}
		}
		if old == nil || w.differs(old) {
			edits = append(edits, Edit{old, w})
		}
	}
	for i := range have {
		if !kept[have[i].Key] {
			removals = append(removals, Edit{Old: &have[i]})
		}
	}
	return append(removals, edits...), nil
}

// keeps returns the addresses that a device keeps because nothing else is wanted.
func (w *Desired) keeps(old *Device) []netip.Addr {
	if old == nil {
		return nil
	}
	return filter(old.Addresses, func(a netip.Addr) bool {
		return !slices.ContainsFunc(w.Addresses, func(b netip.Addr) bool { return a.Is4() == b.Is4() })
	})
}

func (w *Desired) differs(d *Device) bool {
	return w.Key != d.Key || w.Name != d.Name || w.Enabled != d.Enabled ||
		w.PresharedKey != nil && *w.PresharedKey != d.PresharedKey ||
		slices.ContainsFunc(w.Addresses, func(a netip.Addr) bool { return !slices.Contains(d.Addresses, a) })
}

// checkDesired refuses what cannot be, and what is wanted twice.
func checkDesired(want []Desired, pool, ula netip.Prefix) error {
	names, keys, addresses := map[string]Key{}, map[Key]bool{}, map[netip.Addr]string{}
	for _, w := range want {
		if err := checkName(w.Name); err != nil {
			return err
		}
		if err := validKey(w.Key); err != nil {
			return fmt.Errorf("device %q: %w", w.Name, err)
		}
		if other, ok := names[w.Name]; ok {
			return &ExistsError{Field: "name", Value: w.Name, ID: KeyString(other)}
		}
		if keys[w.Key] {
			return &ExistsError{Field: "key", Value: KeyString(w.Key), ID: KeyString(w.Key)}
		}
		names[w.Name], keys[w.Key] = w.Key, true
		families := map[string]bool{}
		for _, a := range w.Addresses {
			reason := checkAddress(a, pool, ula)
			if other, ok := addresses[a]; ok {
				reason = "is that of " + other
			}
			if families[addressField(a)] {
				reason = "is the second of its family"
			}
			if reason != "" {
				return &AddressError{w.Name, a, reason}
			}
			addresses[a], families[addressField(a)] = w.Name, true
		}
	}
	return nil
}

// checkAddress returns why no device can have an address; "" if one can.
func checkAddress(a netip.Addr, pool, ula netip.Prefix) string {
	prefix := ula
	if a.Is4() {
		prefix = pool
	}
	own := GatewayAddresses(pool, ula)
	switch {
	case a.Zone() != "" || !prefix.Contains(a):
		return "is not in " + prefix.String()
	case a == prefix.Masked().Addr(), a == own[0], a == own[1]:
		return "is not for devices"
	case a.Is4() && !prefix.Contains(a.Next()):
		return "is the broadcast address"
	}
	return ""
}

// editsPerWrite is how many edits are tried as one transaction.
const editsPerWrite = 128

// Carry carries edits out, and writes settings with the first of them: all in one
// transaction if they are few, else in several, in order. It returns how
// many were carried out. Errors: ErrChanged, ErrPoolFull, ErrNoPool.
func (s *Store) Carry(ctx context.Context, edits []Edit, settings map[string][]byte) (done int, err error) {
	planned, reserved := map[Key]bool{}, map[netip.Addr]struct{}{}
	for _, e := range edits {
		if e.Old != nil {
			planned[e.Old.Key] = true
		}
		if e.New != nil {
			planned[e.New.Key] = true
			for _, a := range e.New.Addresses {
				reserved[a] = struct{}{}
			}
		}
	}
	for n := editsPerWrite; done < len(edits) || len(settings) > 0; {
		some := edits[done:min(done+n, len(edits))]
		created := s.clock.now()
		err := s.update(ctx, func(t *tx) error {
			t.reserved = reserved
			if err := t.setSettings(settings); err != nil {
				return err
			}
			for _, e := range some {
				if err := t.edit(e, planned, formatTime(created)); err != nil {
					return err
				}
			}
			return nil
		})
		if errors.Is(err, ErrTooLarge) && n > 1 {
			n /= 2
			continue
		}
		if err != nil {
			return done, err
		}
		done, settings = done+len(some), nil
	}
	return done, nil
}

// edit carries one edit out, unless the device, or who has the name, is not as planned.
func (t *tx) edit(e Edit, planned map[Key]bool, created string) error {
	if e.Old != nil {
		_, err := t.aliveDevice(e.Old.Key)
		if errors.Is(err, ErrNotFound) {
			return fmt.Errorf("%w: %q is gone", ErrChanged, e.Old.Name)
		}
		if err != nil {
			return err
		}
		is := t.shown(deviceRef(e.Old.Key))
		if string(is.value(fieldName)) != e.Old.Name || enabled(is) != e.Old.Enabled {
			return fmt.Errorf("%w: %q", ErrChanged, e.Old.Name)
		}
		if e.New == nil {
			return t.removeDevice(e.Old.Key)
		}
	}
	if err := t.unplanned(*e.New, planned); err != nil {
		return err
	}
	return t.become(e.Old, *e.New, created)
}

// unplanned returns ErrChanged if a device that no edit knows has the name or an address.
func (t *tx) unplanned(w Desired, planned map[Key]bool) error {
	keys := [][]byte{nameKey(w.Name)}
	for _, a := range w.Addresses {
		keys = append(keys, addressKey(a))
	}
	for _, at := range keys {
		b, err := t.get(at)
		if err != nil {
			return err
		}
		if i := slices.IndexFunc(decodeKeys(b), func(k Key) bool { return k != w.Key && !planned[k] }); i >= 0 {
			return fmt.Errorf("%w: %s has the name or an address of %q", ErrChanged, KeyString(decodeKeys(b)[i]), w.Name)
		}
	}
	return nil
}

// become makes a device what is wanted.
func (t *tx) become(old *Device, w Desired, created string) error {
	fields := map[string][]byte{fieldName: []byte(w.Name)}
	for _, a := range w.Addresses {
		fields[addressField(a)] = a.AsSlice()
	}
	if w.PresharedKey != nil && *w.PresharedKey != (Key{}) {
		fields[fieldPSK] = w.PresharedKey[:]
	}
	switch {
	case old == nil:
		if err := t.freeKey(w.Key); err != nil {
			return fmt.Errorf("%w: %w", ErrChanged, err)
		}
		fields[fieldCreated] = []byte(created)
		if _, err := t.createDevice(w.Key, fields); err != nil {
			return err
		}
	case old.Key != w.Key:
		if _, err := t.rekeyDevice(old.Key, w.Key); err != nil {
			return err
		}
	}
	e, err := t.aliveDevice(w.Key)
	if err != nil {
		return err
	}
	if w.PresharedKey != nil && fields[fieldPSK] == nil {
		fields[fieldPSK] = []byte{}
	}
	for _, f := range []string{fieldName, fieldIPv4, fieldIPv6, fieldPSK} {
		v, ok := fields[f]
		if !ok || t.stands(deviceRef(w.Key), f, v) {
			continue
		}
		if err := t.put(deviceRef(w.Key), f, v); err != nil {
			return err
		}
	}
	switch {
	case t.held[deviceRef(w.Key)] == nil && enabled(e) == w.Enabled:
		return nil
	case w.Enabled:
		return t.enable(w.Key, e)
	}
	return t.disable(w.Key, e)
}
