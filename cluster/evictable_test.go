package cluster

import (
	"errors"
	"fmt"
	"testing"
)

// A gateway that has started thousands of times can be evicted, and what it wrote before stands; also one of which
// something stands of more incarnations than a vector may name.
func TestEvictAfterManyStarts(t *testing.T) {
	for _, cells := range []uint64{0, 1} {
		c := newCrew(t, 3)
		a, e := c.all[0], c.all[2]
		check(t, e.Admit(t.Context(), memberAdmission(8)))
		check(t, e.Admit(t.Context(), memberAdmission(9)))
		pull(t, storeState{a}, storeState{e})
		check(t, a.update(t.Context(), func(t *tx) error {
			for i := range uint64(3000) {
				t.setHead(authorOf(memberNode(2), i), head{seq: 1, cells: cells})
			}
			return nil
		}))
		check(t, a.Evict(t.Context(), memberNode(2)))
		admittedAt(t, map[int]bool{0: true, 1: true, 2: false, 8: true, 9: true}, a)
	}
}

// A gateway cannot fill its admission so that there is no room for an eviction.
func TestEvictFilled(t *testing.T) {
	c := newCrew(t, 3)
	a, e := c.all[0], c.all[2]
	i := 0
	for _, size := range []int{60 << 10, 1 << 10, 1} {
		for err := error(nil); !errors.Is(err, ErrTooLarge); i++ {
			check(t, err)
			err = e.update(t.Context(), func(t *tx) error {
				return t.put(admissionRef(memberNode(2)), fmt.Sprint("x", i), make([]byte, size))
			})
		}
	}
	converge(t, c.all...)
	check(t, a.Evict(t.Context(), memberNode(2)))
	converge(t, a, c.all[1])
	admittedAt(t, map[int]bool{0: true, 1: true, 2: false}, a, c.all[1])
}

// A gateway cannot make so many keys that it takes a transaction too large to end them.
func TestExpelWithManyKeys(t *testing.T) {
	c := newCrew(t, 3)
	c.keyed()
	a, e := c.all[0], c.all[2]
	for i := range 10 {
		check(t, e.update(t.Context(), func(t *tx) error {
			for j := range 250 {
				k := RingKey{Kind: JoinKey, Secret: [32]byte{byte(i), byte(j)}, Generation: 1, By: memberNode(2)}
				k.ID = KeyIDOf(k.Kind, k.Secret)
				if err := t.addKey(&k); err != nil {
					return err
				}
			}
			return nil
		}))
	}
	converge(t, c.all...)
	check(t, a.Expel(t.Context(), memberNode(2)))
	r := ring(t, a)
	if join := r.Of(JoinKey); len(join) != 1 || join[0].By != memberNode(0) || len(r.Spent) != 0 {
		t.Errorf("%d keys, %d spent", len(join), len(r.Spent))
	}
}
