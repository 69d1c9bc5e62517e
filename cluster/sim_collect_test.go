package cluster

import (
	"context"
	"errors"
	"slices"
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

// bury notes the deletions that each disk has had: only these may be forgotten, and nothing of them may come back. A disk
// that is set back behind one needs a whole delta, and is no reason for the others to wait.
func (w *world) bury() {
	w.journal.deaths = slices.DeleteFunc(w.journal.deaths, func(d death) bool {
		missing := false
		for _, g := range w.living() {
			d.had[g] = d.had[g] || g.covers(&d.record)
			missing = missing || !d.had[g]
		}
		if !missing {
			w.gone[d.ref] = append(w.gone[d.ref], d.record)
		}
		return !missing
	})
}

// buried reports whether a disk knows of a death, once on all disks, that ended a life.
func (g *gateway) buried(r ref, life uint64) bool {
	return slices.ContainsFunc(g.w.gone[r], func(d record) bool {
		return life <= d.cell.life && decodeHead(g.disk[string(headKey(d.cell.stamp.author))]).seq >= d.cell.seq
	})
}
