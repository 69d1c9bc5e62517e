package cluster

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/dgraph-io/badger/v4"
)

// Fields of a device. Its life is the cell of the empty field.
const (
	fieldName    = "name"
	fieldCreated = "created" // Unix milliseconds, decimal
	fieldIPv4    = "ip4"     // 4 bytes: the address it claims
	fieldIPv6    = "ip6"     // 16 bytes
	fieldPSK     = "psk"     // 32 bytes or none
	// fieldOff and a node is that node's disabling: its rank is a causal length,
	// odd off, even lifted. A device is enabled if none is odd. A disabling that
	// an enabling elsewhere had not seen outlives it.
	fieldOff = "off/"
)

// families are the fields of the addresses that each device has.
var families = [...]string{fieldIPv4, fieldIPv6}

// MaxName is the greatest length of a device's name in bytes.
const MaxName = 63

// minPrefix is how many characters of a key or node find it.
const minPrefix = 6

// Device is a WireGuard client.
type Device struct {
	Key          Key
	Name         string
	Addresses    []netip.Addr // IPv4, IPv6; one that an older claim keeps is missing
	PresharedKey Key          // zero: none
	Enabled      bool
	Created      time.Time // to the millisecond
}

func deviceRef(k Key) ref { return refOf(kindDevice, k[:]) }

// claimOf returns the address that a device alive claims.
func claimOf(e *entity, field string) netip.Addr {
	if !e.alive() {
		return netip.Addr{}
	}
	a, ok := netip.AddrFromSlice(e.value(field))
	if !ok || a.Is4() != (field == fieldIPv4) {
		return netip.Addr{}
	}
	return a
}

// addressField returns the field that an address stands in.
func addressField(a netip.Addr) string {
	if a.Is4() {
		return fieldIPv4
	}
	return fieldIPv6
}

// deviceOf shows an entity as a device.
func deviceOf(r reader, key Key, e *entity) (Device, error) {
	d := Device{Key: key, Name: string(e.value(fieldName)), Created: parseTime(string(e.value(fieldCreated))), Enabled: enabled(e)}
	if psk := e.value(fieldPSK); len(psk) == len(Key{}) {
		d.PresharedKey = Key(psk)
	}
	for _, field := range families {
		a := claimOf(e, field)
		if !a.IsValid() {
			continue
		}
		keeper, err := keeperOf(r, a)
		if err != nil {
			return Device{}, err
		}
		if keeper == key {
			d.Addresses = append(d.Addresses, a)
		}
	}
	return d, nil
}

func enabled(e *entity) bool {
	for i := range e.cells {
		if strings.HasPrefix(e.cells[i].field, fieldOff) && e.cells[i].rank%2 == 1 {
			return false
		}
	}
	return true
}

// keeperOf returns the device that keeps an address: the oldest claim by stamp.
// It is the zero key if nobody claims it.
func keeperOf(r reader, a netip.Addr) (Key, error) {
	b, err := r.get(addressKey(a))
	if err != nil || len(b) < len(Key{}) {
		return Key{}, err
	}
	if len(b) == len(Key{}) {
		return Key(b), nil
	}
	var keeper Key
	var oldest stamp
	for i, k := range decodeKeys(b) {
		e, err := readShown(r, deviceRef(k))
		if err != nil {
			return Key{}, err
		}
		c := e.get(addressField(a))
		if c != nil && (i == 0 || c.stamp.compare(oldest) < 0) {
			keeper, oldest = k, c.stamp
		}
	}
	return keeper, nil
}

// Device returns a device, or an error that wraps ErrNotFound. It is made for
// being asked at each handshake: point reads, mostly from memory.
func (s *Store) Device(key Key) (d Device, err error) {
	err = s.view(func(txn *badger.Txn) error {
		d, err = readDevice(snapshot{txn}, key)
		return err
	})
	return d, err
}

// Devices yields all devices, by name, then key, all of one committed state. The
// store stays open until the sequence has ended.
func (s *Store) Devices() iter.Seq2[Device, error] {
	return func(yield func(Device, error) bool) {
		err := s.view(func(txn *badger.Txn) error {
			it := txn.NewIterator(prefixed([]byte{atName}))
			defer it.Close()
			for it.Rewind(); it.Valid(); it.Next() {
				b, err := it.Item().ValueCopy(nil)
				if err != nil {
					return fmt.Errorf("read devices: %w", err)
				}
				for _, k := range decodeKeys(b) {
					d, err := readDevice(snapshot{txn}, k)
					if err != nil {
						return err
					}
					if !yield(d, nil) {
						return errEnough
					}
				}
			}
			return nil
		})
		if err != nil && !errors.Is(err, errEnough) {
			yield(Device{}, err)
		}
	}
}

// DeviceByAddress returns the device that has an address inside the tunnel, or
// an error that wraps ErrNotFound. Of two that claim it, the older claim has it.
func (s *Store) DeviceByAddress(a netip.Addr) (d Device, err error) {
	a = a.Unmap().WithZone("")
	err = s.view(func(txn *badger.Txn) error {
		k, err := keeperOf(snapshot{txn}, a)
		if err != nil {
			return err
		}
		if k == (Key{}) {
			return fmt.Errorf("device with address %s: %w", a, ErrNotFound)
		}
		d, err = readDevice(snapshot{txn}, k)
		return err
	})
	return d, err
}

// FindDevice returns the device of a name, of a key in base64, or of the
// beginning of a key with at least 6 characters; a name goes first. It returns an
// error that wraps ErrNotFound, or an *AmbiguousError with some of the keys.
func (s *Store) FindDevice(nameOrKey string) (d Device, err error) {
	err = s.view(func(txn *badger.Txn) error {
		keys, err := findKeys(txn, nameOrKey)
		if err != nil {
			return err
		}
		switch len(keys) {
		case 0:
			return fmt.Errorf("device %q: %w", nameOrKey, ErrNotFound)
		case 1:
			d, err = readDevice(snapshot{txn}, keys[0])
			return err
		}
		e := &AmbiguousError{Name: nameOrKey}
		for _, k := range keys {
			e.IDs = append(e.IDs, KeyString(k))
		}
		slices.Sort(e.IDs)
		return e
	})
	return d, err
}

func findKeys(txn *badger.Txn, text string) (keyList, error) {
	if len(text) == 0 || len(text) > MaxName {
		return nil, nil
	}
	b, err := snapshot{txn}.get(nameKey(text))
	if err != nil || b != nil {
		return decodeKeys(b), err
	}
	if len(text) < minPrefix {
		return nil, nil
	}
	return keysBeginning(txn, text)
}

// keysBeginning returns up to 16 keys of devices alive whose base64 begins so.
func keysBeginning(txn *badger.Txn, text string) (keys keyList, err error) {
	whole := strings.TrimRight(text, "=")
	head, err := base64.RawStdEncoding.DecodeString(whole[:len(whole)/4*4])
	if err != nil || len(head) > len(Key{}) {
		return nil, nil //nolint:nilerr // text that is no base64 begins no key
	}
	kind := append([]byte{atEntity}, refOf(kindDevice, nil)...)
	kind[len(kind)-1] = byte(len(Key{}))
	it := txn.NewIterator(prefixed(append(kind, head...)))
	defer it.Close()
	for it.Rewind(); it.Valid() && len(keys) < 16; it.Next() {
		id := bytes.TrimPrefix(it.Item().Key(), kind)
		if len(id) != len(Key{}) || !strings.HasPrefix(KeyString(Key(id)), text) {
			continue
		}
		e, err := readShown(snapshot{txn}, deviceRef(Key(id)))
		if err != nil {
			return nil, err
		}
		if e.alive() {
			keys = append(keys, Key(id))
		}
	}
	return keys, nil
}
