package cluster

import (
	"errors"
	"testing"
	"time"
)

// A gateway that has left is no member anywhere, is not admitted again, and is not waited for.
func TestLeave(t *testing.T) {
	ctx := t.Context()
	if err := replica(t, 0).Leave(ctx); !errors.Is(err, ErrNotFound) {
		t.Errorf("left without having been admitted: %v", err)
	}
	c := newCrew(t, 3)
	a, b, gone := c.all[0], c.all[1], c.all[2]
	add(t, a, "laptop", testKey(0))
	c.equal()
	c.remove(b, 0)
	c.round(a, b)
	c.round(a, b)
	c.want("it is a member", 1, 1, 0)
	check(t, gone.Leave(ctx))
	check(t, gone.Leave(ctx)) // once more
	converge(t, a, gone)      // it says so, and no more
	c.round(a, b)
	c.round(a, b)
	for _, s := range []*Store{a, b} {
		all, err := s.Admissions()
		left, err2 := s.Departed(gone.node)
		if err != nil || err2 != nil || len(all) != 2 || !left {
			t.Errorf("%v, %v, %v, %v", all, left, err, err2)
		}
	}
	again := memberAdmission(2)
	again.At = wallStart.Add(time.Hour)
	check(t, a.Admit(ctx, again))
	if _, ok, err := a.Admitted(gone.node); ok || err != nil {
		t.Errorf("admitted again: %v", err)
	}
	c.round(a, b)
	c.round(a, b)
	c.want("it is none", 0, 0, 1)
	if left, err := a.Departed(a.node); left || err != nil {
		t.Errorf("the other has left, too: %v", err)
	}
}
