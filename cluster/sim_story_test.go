package cluster

import (
	"bytes"
	"fmt"
	"testing"
	"time"
)

// fairWorld is a world without any trouble but what a story makes.
func fairWorld(t *testing.T, seed uint64, gateways int) *world {
	w := newWorld(seed)
	w.say, w.over = t.Log, true
	w.weather = weather{gateways: gateways, even: true, devices: 40, pool: "10.0.0.0/24", part: maxPart, delay: 80 * time.Millisecond}
	return w
}

// TestSplitOf48Hours: six gateways, three and three, are edited on both sides for two days and are equal within 10
// seconds of healing. Peers find each other again within 5 seconds and tell their digests each 5, as in package mesh.
func TestSplitOf48Hours(t *testing.T) {
	w := fairWorld(t, 48, 6)
	w.say = nil
	check(t, w.run(func() {
		for _, g := range w.all {
			g.side = g.i / 3
		}
		for w.at.Load() < int64(48*time.Hour) {
			w.wait(w.upTo(10 * time.Minute))
			w.edit(pick(w, w.all...))
			w.ask(pick(w, w.all...))
		}
		w.heal(nil)
		healed := w.at.Load()
		for _, g := range w.all {
			for _, of := range w.all {
				if g != of {
					w.after(w.upTo(5*time.Second), func() { w.repeat(5*time.Second, 4, func() { w.askOf(g, of) }) })
				}
			}
		}
		for !w.digestsEqual() {
			w.wait(100 * time.Millisecond)
			if time.Duration(w.at.Load()-healed) > 10*time.Second {
				w.fail("not equal 10 s after healing")
			}
		}
		t.Logf("%d cells acknowledged in 48 h on both sides, equal %v after healing", len(w.acked), time.Duration(w.at.Load()-healed))
		w.equal()
	}))
}

// repeat does something n times.
func (w *world) repeat(every time.Duration, n int, do func()) {
	do()
	if n > 1 {
		w.after(every, func() { w.repeat(every, n-1, do) })
	}
}

func (w *world) digestsEqual() bool {
	for _, g := range w.all[1:] {
		if !bytes.Equal(g.store.Digest(), w.all[0].store.Digest()) {
			return false
		}
	}
	return true
}

// TestOlderDisk puts an older disk into one of three gateways, which is edited before it meets the others, or not
// before. What the others have comes back, and what it writes reaches them: known checks that no seq is used twice.
func TestOlderDisk(t *testing.T) {
	for _, of := range []string{"own", "another's", "empty"} {
		for _, alone := range []bool{false, true} {
			t.Run(fmt.Sprint(of, ", alone ", alone), func(t *testing.T) {
				w := fairWorld(t, 7, 3)
				check(t, w.run(func() { w.olderDisk(of, alone) }))
			})
		}
	}
}

func (w *world) olderDisk(of string, alone bool) {
	g := w.all[0]
	edits := func(n int) {
		for range n {
			w.wait(time.Second)
			w.edit(pick(w, w.all...))
		}
	}
	edits(30)
	w.quiet()
	disk := image{}
	switch of {
	case "own":
		disk = g.disk
	case "another's":
		disk, g.foreign = w.all[1].disk, true
	}
	edits(30)
	w.quiet()
	before := *g.store.author.Load()
	g.replace(disk)
	if alone {
		g.side = 1
	}
	g.start()
	if *g.store.author.Load() == before {
		w.fail("the same incarnation")
	}
	if !alone {
		w.pull(g, w.all[2])
	}
	for range 10 {
		w.edit(g)
	}
	edits(30)
	w.quiet()
	for i := range w.acked {
		if w.acked[i].excused {
			w.fail("lost: %s", w.acked[i].what)
		}
	}
}
