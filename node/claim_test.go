package node

import (
	"testing"
	"time"

	"gatemesh/cluster"
)

func TestStance(t *testing.T) {
	self, other := cluster.Node{1}, cluster.Node{2}
	claim := cluster.Session{Owner: other, Epoch: 9, Claimed: true}
	confirmation := cluster.Session{Owner: other, Epoch: 9}
	released := cluster.Session{Owner: other, Epoch: 9, Released: true}
	ours := cluster.Session{Owner: self, Epoch: 9}
	for _, c := range []struct {
		name  string
		is    stance
		row   cluster.Session
		next  stance
		moves move
	}{
		{"nothing of ours, claimed", away, claim, away, stay},
		{"nothing of ours, confirmed", away, confirmation, away, stay},
		{"a call is given up for a claim", calling, claim, away, drop},
		{"a call is given up for a confirmation", calling, confirmation, away, drop},
		{"a call goes on", calling, released, calling, stay},
		{"a claim silences", serving, claim, muted, mute},
		{"a claim silences once", muted, claim, muted, stay},
		{"a confirmation ends it", serving, confirmation, away, drop},
		{"a confirmation ends it, claimed before", muted, confirmation, away, drop},
		{"a confirmation ends what was handed over", handed, confirmation, away, drop},
		{"the heir claims what was handed to it", handed, claim, handed, stay},
		{"the claimant lets go", muted, released, serving, recall},
		{"the claimant is no more", muted, ours, serving, recall},
		{"a stale release", serving, released, serving, stay},
		{"ours", serving, ours, serving, stay},
	} {
		if next, m := c.is.after(self, c.row, true); next != c.next || m != c.moves {
			t.Errorf("%s: stance %d, move %d, want %d, %d", c.name, next, m, c.next, c.moves)
		}
	}
	if next, m := muted.after(self, cluster.Session{}, false); next != serving || m != recall {
		t.Errorf("all rows gone: %d, %d", next, m)
	}
	for _, c := range []struct {
		is             stance
		imported, want bool
	}{{serving, true, true}, {muted, true, false}, {muted, false, true}, {calling, false, true}, {handed, true, false}} {
		if c.is.confirmed(c.imported) != c.want {
			t.Errorf("stance %d, imported %v: want %v", c.is, c.imported, c.want)
		}
	}
	for _, c := range []struct {
		is      stance
		since   time.Duration
		departs bool
		want    move
	}{
		{away, 0, false, stay},
		{calling, 0, false, stay},
		{serving, 0, false, stay},
		{muted, 0, false, recall},
		{muted, 0, true, stay},
		{handed, 0, false, callAgain},
		{handed, recallAfter, false, recall},
		{handed, time.Minute, true, callAgain},
	} {
		if _, m := c.is.heard(c.since, c.departs); m != c.want {
			t.Errorf("heard in stance %d, handed for %v, departing %v: move %d, want %d", c.is, c.since, c.departs, m, c.want)
		}
	}
}
