package cluster

import (
	"context"
	"errors"
)

// collect has a gateway acknowledge deletions, and forget those that all have.
func (w *world) collect(g *gateway) {
	if g.store == nil || g.full {
		return
	}
	g.risky(func() { w.check(g.store.Collect(context.Background(), 0)) })
	w.note("gateway %d collects", g.i)
}

// evict ends the membership of a gateway that is gone for good.
func (w *world) evict(dead *gateway) {
	for _, g := range w.living() {
		if g.store == nil || g.full {
			continue
		}
		if err := g.store.Evict(context.Background(), dead.node); !errors.Is(err, ErrNotFound) {
			w.check(err)
		}
		g.look()
		return
	}
}

// bury notes the deletions that are on all disks: only these may be forgotten, and nothing of them may come back.
func (w *world) bury() {
	for i := 0; i < len(w.journal.deaths); {
		d := &w.journal.deaths[i]
		for _, g := range w.living() {
			if !g.covers(d) {
				d = nil
				break
			}
		}
		if d == nil {
			i++
			continue
		}
		if d.cell.life > w.goneLife(d.ref) {
			w.gone[d.ref] = &record{d.ref, d.cell}
		}
		w.journal.deaths = append(w.journal.deaths[:i], w.journal.deaths[i+1:]...)
	}
}

// goneLife returns the life that is over everywhere, 0 if none is.
func (w *world) goneLife(r ref) uint64 {
	if d := w.gone[r]; d != nil {
		return d.cell.life
	}
	return 0
}

// unbury is called when a disk went back or away: a death that no disk knows of any more never was.
func (w *world) unbury() {
	for r, d := range w.gone {
		known := false
		for _, g := range w.living() {
			h := decodeHead(g.disk[string(headKey(d.cell.stamp.author))])
			known = known || h.seq >= d.cell.seq || g.entity(r).life() >= d.cell.life
		}
		if !known {
			delete(w.gone, r)
		}
	}
}
