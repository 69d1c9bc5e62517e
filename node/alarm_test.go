package node

import (
	"testing"
	"time"

	"gatemesh/cluster"
	"gatemesh/mesh"
)

func TestAlarms(t *testing.T) {
	var a alarms
	now := time.Unix(1000, 0)
	one, two := cluster.Node{1}, cluster.Node{2}
	if _, news := a.set(alarmLag, one, false, "x", now); news {
		t.Error("an end without a beginning is news")
	}
	if _, news := a.set(alarmLag, one, true, "x", now); !news {
		t.Error("a beginning is no news")
	}
	if _, news := a.set(alarmLag, one, true, "y", now); news {
		t.Error("it is news twice")
	}
	if _, news := a.set(alarmLag, two, true, "x", now); !news || len(a.all(now)) != 2 {
		t.Error("another peer's is no news")
	}
	now = now.Add(time.Minute)
	if x, news := a.set(alarmLag, one, false, "", now); !news || x.Solved != now || x.Text != "y" {
		t.Errorf("solved: %+v, %v", x, news)
	}
	if _, news := a.set(alarmLag, one, true, "again", now); !news || len(a.all(now)) != 3 {
		t.Error("a second time is no news")
	}
	if n := len(a.all(now.Add(alarmsKept + time.Second))); n != 2 {
		t.Errorf("%d kept after a day, want those that stand", n)
	}
	for i := range 2 * maxAlarms {
		peer := cluster.Node{3, byte(i), byte(i >> 8)}
		a.set(alarmPush, peer, true, "", now)
		a.set(alarmPush, peer, false, "", now)
	}
	if n := len(a.list); n > maxAlarms {
		t.Errorf("%d kept", n)
	}
}

func TestLag(t *testing.T) {
	ours, old := []byte("ours"), []byte("old")
	now := time.Unix(1000, 0)
	lacks := func(d []byte) bool { return string(d) == "old" }
	var l lag
	l.look(mesh.Progress{}, false, ours, lacks, now)
	if l.late(now.Add(time.Hour)) || l.refuses() {
		t.Error("one that was never heard is late")
	}
	l.look(mesh.Progress{Theirs: old, Heard: now, Failed: 1}, true, ours, lacks, now)
	if l.late(now.Add(lagLimit)) || !l.late(now.Add(lagLimit+1)) {
		t.Error("not late at the limit")
	}
	l.look(mesh.Progress{}, false, ours, lacks, now.Add(time.Second))
	if !l.late(now.Add(lagLimit + 1)) {
		t.Error("not late once it is gone")
	}
	l.look(mesh.Progress{Theirs: old, Heard: now, Failed: failureLimit}, true, ours, lacks, now)
	if !l.refuses() {
		t.Error("failures do not count")
	}
	l.look(mesh.Progress{Theirs: ours, Heard: now, Failed: failureLimit}, true, ours, lacks, now)
	l.look(mesh.Progress{Theirs: old, Heard: now, Failed: failureLimit}, true, ours, lacks, now)
	if l.refuses() || l.late(now.Add(lagLimit)) {
		t.Error("what was before it was in step counts")
	}
}
