package node

import (
	"fmt"
	"testing"
	"time"
)

func TestTries(t *testing.T) {
	at := time.Unix(1e9, 0)
	tr := tries{each: 3, lockout: 10 * time.Minute}
	for i := range 3 {
		if wait := tr.begin("anna", at.Add(time.Duration(i)*time.Minute)); wait != 0 {
			t.Fatalf("try %d: wait %v", i, wait)
		}
	}
	if wait := tr.begin("anna", at.Add(3*time.Minute)); wait != 9*time.Minute {
		t.Errorf("locked for %v", wait)
	}
	if wait := tr.begin("bob", at.Add(3*time.Minute)); wait != 0 {
		t.Errorf("another is locked for %v", wait)
	}
	if wait := tr.begin("anna", at.Add(12*time.Minute)); wait != 0 {
		t.Errorf("after the lockout: %v", wait)
	}
	tr.right("anna")
	for i := range 3 {
		if tr.begin("anna", at.Add(12*time.Minute)) != 0 {
			t.Errorf("a right one does not clear the wrong ones: %d", i)
		}
	}
	if tr.begin("anna", at.Add(12*time.Minute)) == 0 {
		t.Error("not locked again")
	}

	// Many names lock nobody, and what is kept of them is bounded.
	tr = tries{each: 3, lockout: 10 * time.Minute}
	for i := range maxTriers + 100 {
		if wait := tr.begin(fmt.Sprint(i), at.Add(time.Duration(i))); wait != 0 {
			t.Fatalf("%d: wait %v", i, wait)
		}
	}
	if one, all := tr.wrong(fmt.Sprint(maxTriers), at); one != 1 || all != maxTriers+100 || len(tr.by) != maxTriers {
		t.Errorf("%d and %d wrong, %d names are kept", one, all, len(tr.by))
	}
	if one, _ := tr.wrong("1", at); one != 0 {
		t.Error("the oldest is not the one that is forgotten")
	}
	if tr.begin("x", at.Add(time.Hour)) != 0 || len(tr.by) != 1 {
		t.Errorf("an hour later: %v", tr.by)
	}
	// What was not decided does not count.
	tr = tries{each: 1, lockout: 10 * time.Minute}
	for range 20 {
		if tr.begin("anna", at) != 0 {
			t.Error("counted")
		}
		tr.undo("anna")
	}
	for _, c := range []struct {
		d    time.Duration
		want string
	}{
		{time.Second, "1 minute"},
		{time.Minute, "1 minute"},
		{time.Minute + 1, "2 minutes"},
		{10 * time.Minute, "10 minutes"},
	} {
		if got := minutes(c.d); got != c.want {
			t.Errorf("%v: %s", c.d, got)
		}
	}
}
