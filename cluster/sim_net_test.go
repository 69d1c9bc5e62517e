package cluster

import (
	"bytes"
	"context"
	"fmt"
	"time"
)

func (w *world) linked(a, b *gateway) bool {
	return a != b && a.store != nil && b.store != nil && a.side == b.side
}

// lag returns how long a message takes.
func (w *world) lag() time.Duration {
	if w.chance(0.1) {
		return w.upTo(5 * w.weather.delay)
	}
	return w.upTo(w.weather.delay)
}

// ask sends a gateway's digest to another, which answers with what is missing.
func (w *world) ask(g *gateway) { w.askOf(g, pick(w, w.all...)) }

func (w *world) askOf(g, of *gateway) {
	if !w.linked(g, of) || w.chance(w.weather.loss) {
		return
	}
	digest := bytes.Clone(g.store.Digest())
	w.after(w.lag(), func() {
		if w.linked(g, of) {
			of.heard[g.i] = digest
			w.send(of, g, digest)
		}
	})
}

// push sends what others lack by what was heard of them, which may be old.
func (w *world) push(g *gateway) {
	for _, to := range w.all {
		if w.linked(g, to) && w.chance(0.6) {
			w.send(g, to, g.heard[to.i])
		}
	}
}

// send sends a delta. The link may die before its end.
func (w *world) send(g, to *gateway, digest []byte) {
	end := -1
	if w.chance(w.weather.tear) {
		end = w.rnd.IntN(4)
	}
	var lag time.Duration
	n := 0
	for part, err := range g.store.Delta(digest) {
		w.check(err)
		if n == end {
			break
		}
		lag += w.lag() / 4 // in order, mostly
		w.post(g, to, part, fmt.Sprint("part ", n), lag)
		n++
	}
	w.note("%d sends %d parts to %d, torn after %d", g.i, n, to.i, end)
	g.look() // it may have learnt that it is a clone
}

// post sends a part, by chance twice, late or not at all.
func (w *world) post(g, to *gateway, part []byte, what string, lag time.Duration) {
	if w.chance(w.weather.loss / 2) {
		return
	}
	if w.chance(w.weather.double) {
		w.after(w.lag()*3, func() { w.deliver(g, to, part, what) })
	}
	if w.chance(0.1) {
		lag += w.lag() * 2
	}
	w.after(lag, func() { w.deliver(g, to, part, what) })
}

func (w *world) deliver(from, to *gateway, part []byte, what string) {
	if to.store == nil || to.side != from.side || to.full {
		return
	}
	var behind bool
	lives := to.risky(func() {
		var err error
		behind, err = to.store.Merge(part)
		w.check(err)
	})
	w.note("%d takes %s of %d, behind %v", to.i, what, from.i, behind)
	if lives && behind {
		w.after(w.upTo(2*time.Second), func() { w.askOf(to, from) })
	}
}

// pull brings a whole delta over, at once.
func (w *world) pull(g, from *gateway) {
	for part, err := range from.store.Delta(g.store.Digest()) {
		w.check(err)
		_, err = g.store.Merge(part)
		w.check(err)
	}
	from.look()
	g.look()
}

// quiet ends all trouble, lets everybody ask everybody, and checks that all are equal.
func (w *world) quiet() {
	w.note("quiet")
	for _, g := range w.all {
		g.side, g.full = 0, false
		if g.store == nil && !g.dead {
			g.start()
		}
	}
	for n := range 16 {
		switch {
		case !w.round():
			if n >= 8 && w.setBack > 1 {
				w.mend()
			}
		case w.over && w.holds():
			w.ripen()
		default:
			w.equal()
			return
		}
	}
	w.fail("the replicas do not become equal")
}

// mend repairs by buckets what two disks that were set back may leave different: each may have taken the other's word.
func (w *world) mend() {
	left := w.living()
	for _, g := range left[1:] {
		if SameVector(g.store.Digest(), left[0].store.Digest()) {
			w.note("gateways 0 and %d compare", g.i)
			w.page(g, left[0])
			w.page(left[0], g)
		}
	}
}

// page brings what differs from one gateway to another.
func (w *world) page(from, to *gateway) {
	theirs, err := from.store.Buckets()
	ours, behind := to.store.Buckets()
	if err != nil || behind != nil {
		return
	}
	for part, next := []byte(nil), []byte{}; next != nil; {
		part, next, err = from.store.Page(ours.Differ(&theirs), next)
		if err == nil {
			_, err = to.store.Mend(part)
		}
		w.check(err)
	}
	to.look()
}

// holds reports whether a replica has cells of the far future.
func (w *world) holds() bool {
	for _, g := range w.living() {
		for k := range g.disk {
			if k[0] == atHeld {
				return true
			}
		}
	}
	return false
}

// ripen lets the time of all cells of the far future come.
func (w *world) ripen() {
	w.note("their time comes")
	w.wait(farthest)
	for _, g := range w.living() {
		w.check(g.store.submit(context.Background(), newRequest(func(*tx) error {
			g.store.ripenAt = time.Time{}
			return nil
		})))
		g.look()
	}
}

// round lets all pull from all once, and reports whether nothing is left to do.
func (w *world) round() bool {
	left := w.living()
	for _, g := range left {
		for _, of := range left {
			if g != of {
				w.pull(g, of)
			}
		}
	}
	for _, g := range left[1:] {
		if !bytes.Equal(g.store.Digest(), left[0].store.Digest()) {
			return false
		}
	}
	before := left[0].store.Digest()
	left[0].impatient()
	left[0].look()
	return bytes.Equal(before, left[0].store.Digest())
}
