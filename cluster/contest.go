package cluster

import (
	"errors"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"github.com/dgraph-io/badger/v4"
)

// Two devices enrolled on two sides of a split may claim one address. The older
// claim by stamp keeps it, everywhere at once, since it is decided by reading the
// claims; the other device shows no address of that family until a new claim is
// written for it. The gateway that wrote the losing claim writes it as soon as it
// sees the conflict, so normally exactly one does. If that one is gone for good,
// any other does, between 10 and 20 seconds after it saw the conflict. Should two
// write at once, the later stamp wins as with any field. Either way there is one
// claim per device and, as each new claim is of an address that its writer saw
// free, the conflicts end.
const patience = 10 * time.Second

// lackPatience is how long a device may claim no address of a family, before any
// gateway gives it one: who gave it another may be gone for good in the middle of
// telling so. It is long because a device whose address is merely on its way must
// not be given a second one.
const lackPatience = 10 * time.Minute

// maxSettled bounds the devices that are given addresses in one go, for one contested address.
const maxSettled = 1000

// contests are the index keys of atContest and atLack, each with the time from
// which any gateway may settle it; zero: not looked at yet.
type contests map[string]time.Time

func (c contests) load(txn *badger.Txn) {
	for _, at := range []byte{atContest, atLack} {
		it := txn.NewIterator(keysOnly([]byte{at}))
		for it.Rewind(); it.Valid(); it.Next() {
			c.note(string(it.Item().Key()), true)
		}
		it.Close()
	}
}

// note keeps track of a key that was set or deleted.
func (c contests) note(key string, set bool) {
	if set {
		c[key] = time.Time{}
	} else {
		delete(c, key)
	}
}

// wait returns how long nothing is to be done.
func (c contests) wait(now time.Time) time.Duration {
	wait := time.Hour
	for _, due := range c {
		wait = min(wait, max(due.Sub(now), 0))
	}
	return wait
}

// settle gives new claims to the devices that lost an address: those that this
// gateway gave, at once, and all others when their time has come.
func (s *Store) settle(now time.Time) error {
	for _, key := range slices.Sorted(maps.Keys(s.contests)) {
		due := s.contests[key]
		if due.After(now) {
			continue
		}
		all, lack, wait := !due.IsZero(), key[0] == atLack, patience
		if lack {
			wait = lackPatience
		}
		s.contests[key] = now.Add(wait + rand.N(wait))
		if lack && !all {
			continue // it was noticed just now
		}
		if err := s.give(key, all); err != nil {
			return err
		}
	}
	return nil
}

// give settles what an index key of atContest or atLack stands for.
func (s *Store) give(key string, all bool) error {
	at, more := []byte(key[1:]), true
	for n := 0; more && n < maxSettled; n++ {
		err := s.alone(func(t *tx) (err error) {
			if key[0] == atLack {
				more, err = t.supply(at)
			} else {
				more, err = t.settle(at, all)
			}
			if err == nil && s.actor != nil {
				err = t.audit(*s.actor)
			}
			return err
		})
		if errors.Is(err, ErrPoolFull) || errors.Is(err, ErrNoPool) {
			s.log.Warn("a device is without an address", "of", told(at), "err", err)
			return nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// settle writes a new claim for one device that lost an address, and reports
// whether it did.
func (t *tx) settle(contested []byte, all bool) (done bool, err error) {
	a, ok := netip.AddrFromSlice(contested)
	if !ok {
		return false, nil
	}
	b, err := t.get(addressKey(a))
	if err != nil {
		return false, err
	}
	keeper, err := keeperOf(t, a)
	if err != nil {
		return false, err
	}
	field := addressField(a)
	for _, k := range decodeKeys(b) {
		e, err := t.entity(deviceRef(k))
		if err != nil {
			return false, err
		}
		shown := t.shown(deviceRef(k))
		c := shown.get(field)
		if k == keeper || c == nil || shown.life() != e.life() || !all && c.stamp.author.node() != t.author.node() {
			continue
		}
		if err := t.listLoss(record{deviceRef(k), *c}); err != nil { // its owner has to be told
			return false, err
		}
		return true, t.reclaim(k, field)
	}
	return false, nil
}

// told is an index key for a log: a device's key, or an address.
func told(at []byte) string {
	if len(at) == len(Key{}) {
		return KeyString(Key(at))
	}
	a, _ := netip.AddrFromSlice(at)
	return a.String()
}

// supply writes a claim for a device that lacks one, and reports whether it did.
func (t *tx) supply(lacking []byte) (done bool, err error) {
	if len(lacking) != len(Key{}) {
		return false, nil
	}
	r := deviceRef(Key(lacking))
	e, err := t.entity(r)
	if err != nil {
		return false, err
	}
	shown := t.shown(r)
	for _, field := range families {
		if shown.life() != e.life() || claimOf(shown, field).IsValid() {
			continue
		}
		return true, t.reclaim(Key(lacking), field)
	}
	return false, nil
}

// reclaim gives a device another address of a family.
func (t *tx) reclaim(key Key, field string) error {
	a, err := t.allocate(key, field)
	if err != nil {
		return err
	}
	return t.put(deviceRef(key), field, a.AsSlice())
}
