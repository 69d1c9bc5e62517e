package cluster

import (
	"net/netip"
	"time"

	"github.com/dgraph-io/badger/v4"
)

// Claim is one of several devices' claims of one address.
type Claim struct {
	Address netip.Addr
	Device  Key
	Name    string
	Keeps   bool // it is the oldest; the others are given new addresses
	By      Node // who gave it
	At      time.Time
}

// Contested returns the claims of all addresses that more than one device claims. Normally
// there is none a moment after two sides of a split have met.
func (s *Store) Contested() (all []Claim, err error) {
	err = s.view(func(txn *badger.Txn) error {
		it := txn.NewIterator(keysOnly([]byte{atContest}))
		defer it.Close()
		for it.Rewind(); it.Valid(); it.Next() {
			a, ok := netip.AddrFromSlice(it.Item().KeyCopy(nil)[1:])
			if !ok {
				continue
			}
			claims, err := claimsOf(snapshot{txn}, a)
			if err != nil {
				return err
			}
			all = append(all, claims...)
		}
		return nil
	})
	return all, err
}

func claimsOf(r snapshot, a netip.Addr) (all []Claim, err error) {
	b, err := r.get(addressKey(a))
	if err != nil {
		return nil, err
	}
	keeper, err := keeperOf(r, a)
	if err != nil {
		return nil, err
	}
	for _, k := range decodeKeys(b) {
		e, err := readShown(r, deviceRef(k))
		if err != nil {
			return nil, err
		}
		if c := e.get(addressField(a)); c != nil {
			all = append(all, Claim{a, k, string(e.value(fieldName)), k == keeper, c.stamp.author.node(), c.stamp.when()})
		}
	}
	return all, nil
}
