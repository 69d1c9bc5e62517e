package cluster

import (
	"bytes"
	"net/netip"
	"slices"
)

// keyList is a sorted set of device keys: the value of an index entry.
type keyList []Key

func decodeKeys(b []byte) keyList {
	l := make(keyList, 0, len(b)/len(Key{}))
	for k := range slices.Chunk(b, len(Key{})) {
		if len(k) == len(Key{}) {
			l = append(l, Key(k))
		}
	}
	return l
}

func (l keyList) encode() []byte {
	b := make([]byte, 0, len(l)*len(Key{}))
	for _, k := range l {
		b = append(b, k[:]...)
	}
	return b
}

func compareKeys(a, b Key) int { return bytes.Compare(a[:], b[:]) }

func nameKey(name string) []byte { return append([]byte{atName}, name...) }

func addressKey(a netip.Addr) []byte { return append([]byte{atAddress}, a.AsSlice()...) }

func contestKey(a netip.Addr) []byte { return append([]byte{atContest}, a.AsSlice()...) }

func lackKey(k Key) []byte { return append([]byte{atLack}, k[:]...) }

// lacks reports whether a device alive claims no address of a family.
func lacks(e *entity) bool {
	return e.alive() && slices.ContainsFunc(families[:], func(f string) bool { return !claimOf(e, f).IsValid() })
}

// reindex moves the index entries and the count of a device from what it was
// before this transaction to what it is now.
func (t *tx) reindex(r ref) error {
	key := Key(r.id())
	was, is := t.before[r], t.shown(r)
	if was.alive() != is.alive() {
		n, err := readNumber(t, metaDevices)
		if err != nil {
			return err
		}
		if is.alive() {
			n++
		} else {
			n--
			t.delete(clockKey(key))
		}
		t.setNumber(metaDevices, n)
	}
	if err := t.reindexName(key, was, is); err != nil {
		return err
	}
	for _, field := range families {
		if err := t.reindexAddress(key, claimOf(was, field), claimOf(is, field)); err != nil {
			return err
		}
	}
	switch lacking := lacks(is); {
	case lacking == lacks(was):
	case lacking:
		t.set(lackKey(key), []byte{})
	default:
		t.delete(lackKey(key))
	}
	return nil
}

func (t *tx) reindexName(key Key, was, is *entity) error {
	if was.alive() == is.alive() && bytes.Equal(was.value(fieldName), is.value(fieldName)) {
		return nil
	}
	if was.alive() {
		if _, err := t.unlist(nameKey(string(was.value(fieldName))), key); err != nil {
			return err
		}
	}
	if is.alive() {
		if _, err := t.list(nameKey(string(is.value(fieldName))), key); err != nil {
			return err
		}
	}
	return nil
}

// reindexAddress keeps the claims of an address, and the list of those that are
// contested. Whoever shares a claim that came or went may now show another
// address, so it counts as changed.
func (t *tx) reindexAddress(key Key, was, is netip.Addr) error {
	if was == is {
		return nil
	}
	if was.IsValid() {
		left, err := t.unlist(addressKey(was), key)
		if err != nil {
			return err
		}
		t.contested(was, left)
	}
	if is.IsValid() {
		all, err := t.list(addressKey(is), key)
		if err != nil {
			return err
		}
		t.contested(is, all)
	}
	return nil
}

func (t *tx) contested(a netip.Addr, claims keyList) {
	if len(claims) > 1 {
		t.set(contestKey(a), []byte{})
	} else {
		t.delete(contestKey(a))
	}
	for _, k := range claims {
		t.refs[deviceRef(k)] = struct{}{}
	}
}

// list adds a key to an index entry and returns the entry.
func (t *tx) list(at []byte, key Key) (keyList, error) {
	b, err := t.get(at)
	if err != nil {
		return nil, err
	}
	l := decodeKeys(b)
	if i, ok := slices.BinarySearchFunc(l, key, compareKeys); !ok {
		l = slices.Insert(l, i, key)
	}
	t.set(at, l.encode())
	return l, nil
}

// unlist takes a key from an index entry and returns the rest.
func (t *tx) unlist(at []byte, key Key) (keyList, error) {
	b, err := t.get(at)
	if err != nil {
		return nil, err
	}
	l := slices.DeleteFunc(decodeKeys(b), func(k Key) bool { return k == key })
	if len(l) == 0 {
		t.delete(at)
	} else {
		t.set(at, l.encode())
	}
	return l, nil
}
