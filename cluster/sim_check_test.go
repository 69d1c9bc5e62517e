package cluster

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"testing"
)

// annals are every cell that any gateway ever wrote to a disk.
type annals struct {
	authors []author
	by      map[author]*authored
	deaths  []death
}

// death is the end of a life, and who has ever had it.
type death struct {
	record
	had map[*gateway]bool
}

// authored is what one author wrote.
type authored struct {
	head  uint64                // greatest seq
	cells map[uint64][]record   // by seq
	dots  map[string]*dotRecord // by their keys
}

type dotRecord struct{ raw []byte }

func (j *annals) init() { j.by = map[author]*authored{} }

func (j *annals) of(a author) *authored {
	if j.by[a] == nil {
		j.by[a] = &authored{cells: map[uint64][]record{}, dots: map[string]*dotRecord{}}
		j.authors = append(j.authors, a)
	}
	return j.by[a]
}

// acknowledged is a cell whose writer was told that it is durable.
type acknowledged struct {
	record
	by      *gateway
	what    string
	away    bool // the writer's disk is an older one
	excused bool // no disk has it any more
}

// covers reports whether a disk has a cell, or one that supersedes it.
func (g *gateway) covers(r *record) bool {
	e := g.entity(r.ref)
	if r.cell.life < e.life() {
		return true
	}
	c := e.get(r.cell.field)
	return c != nil && c.compare(&r.cell) >= 0 || r.cell.life > 0 && g.buried(r.ref, r.cell.life)
}

// acknowledge checks that an edit is at its writer, and remembers it.
func (w *world) acknowledge(g *gateway, what string, wants []want) {
	for _, x := range wants {
		e := g.entity(x.ref)
		if !x.ok(e) {
			w.fail("gateway %d was told that it %s, but does not have it", g.i, what)
		}
		if c := e.get(x.field); c != nil {
			w.acked = append(w.acked, acknowledged{record: record{x.ref, *c}, by: g, what: what})
		}
	}
}

// excuse is called when a disk went back or away: what was only there is lost.
func (w *world) excuse() {
	for i := range w.acked {
		a := &w.acked[i]
		a.away = a.away || !a.by.covers(&a.record)
		a.excused = a.excused || !slices.ContainsFunc(w.all, func(g *gateway) bool { return g.covers(&a.record) })
	}
}

// examine checks all that must hold at a gateway at any time.
func (w *world) examine(g *gateway) {
	w.known(g)
	w.bury()
	w.vector(g)
	for i := range w.acked {
		if a := &w.acked[i]; a.by == g && !a.away && !g.covers(&a.record) {
			w.fail("gateway %d was told that it %s, and has it no more", g.i, a.what)
		}
	}
	for r, d := range g.cells {
		life := d.entity.life()
		if !d.entity.alive() && g.buried(r, g.lives[r]) {
			continue // edits, or an earlier end, of what is deleted and forgotten
		}
		if life < g.lives[r] {
			w.fail("gateway %d: life %d of %q after %d", g.i, life, r, g.lives[r])
		}
		g.lives[r] = life
	}
	if g.store != nil && g.calm && g.store.clock.latest() > wallTime(g.now().Add(maxOffset))+1<<10 {
		w.fail("gateway %d: its clock followed another beyond %v", g.i, maxOffset)
	}
}

// known checks that every cell on a disk is one that its author wrote, that no author and seq stand for two
// transactions, and takes new ones into the journal.
func (w *world) known(g *gateway) {
	own := map[author]uint64{} // heads before
	for k, v := range g.disk {
		if k[0] != atDot {
			continue
		}
		a, seq, r, field, _ := cutDot([]byte(k))
		c := g.entity(r).get(field)
		if c == nil || c.stamp.author != a || c.seq != seq || len(v) > 0 {
			w.fail("gateway %d: the dot %q is of no cell", g.i, k)
		}
		by := w.journal.of(a)
		if d := by.dots[k]; d != nil {
			if !bytes.Equal(d.raw, c.raw) {
				w.fail("gateway %d: seq %d of %s stands for two transactions", g.i, seq, name(a))
			}
			continue
		}
		head, met := own[a]
		if !met {
			head = by.head
			own[a] = head
		}
		if a.node() != g.node || seq <= head {
			w.fail("gateway %d: seq %d of %s has a cell of %q that its author did not write", g.i, seq, name(a), r)
		}
		by.dots[k] = &dotRecord{c.raw}
		by.cells[seq] = append(by.cells[seq], record{r, *c})
		if field == "" && c.life%2 == 0 {
			w.journal.deaths = append(w.journal.deaths, death{record{r, *c}, map[*gateway]bool{}})
		}
		by.head = max(by.head, seq)
	}
	for _, a := range w.journal.authors {
		if h := decodeHead(g.disk[string(headKey(a))]); a.node() == g.node {
			w.journal.of(a).head = max(w.journal.of(a).head, h.seq)
		}
	}
}

// latest returns the greatest time given or seen.
func (c *clock) latest() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.last
}

func name(a author) string { return fmt.Sprintf("%x/%x", a[7:8], a[16:18]) }

// vector checks that a gateway has everything that it claims to know: the invariant of version vectors.
func (w *world) vector(g *gateway) {
	for _, a := range w.journal.authors {
		h := decodeHead(g.disk[string(headKey(a))])
		by := w.journal.of(a)
		for seq := uint64(1); seq <= h.seq; seq++ {
			for i := range by.cells[seq] {
				if r := &by.cells[seq][i]; !g.covers(r) {
					w.fail("gateway %d claims seq %d of %s but lacks its cell %q of %q", g.i, seq, name(a), r.cell.field, r.ref)
				}
			}
		}
	}
}

// equal checks all that must hold after quiet.
func (w *world) equal() {
	left := w.living()
	var stores []*Store
	for _, g := range left {
		stores = append(stores, g.store)
		if !bytes.Equal(g.store.Digest(), left[0].store.Digest()) {
			w.fail("after quiet, the digest of gateway %d differs", g.i)
		}
		for i := range w.acked {
			if a := &w.acked[i]; !a.excused && !g.covers(&a.record) {
				w.fail("after quiet, gateway %d lacks what %d was told: it %s", g.i, a.by.i, a.what)
			}
		}
	}
	for r, d := range left[0].cells {
		if d.entity.alive() && slices.ContainsFunc(left, func(g *gateway) bool { return g.buried(r, d.entity.life()) }) {
			w.fail("%q came back", r)
		}
	}
	for _, s := range stores {
		sound(reporter{}, s)
	}
	if w.holds() { // who never had what a cell of the far future displaced shows the field as if it were not set
		w.sameCells()
		return
	}
	same(reporter{}, stores...)
	w.addresses(left[0])
}

// sameCells checks that all have the same cells, whatever they show of them.
func (w *world) sameCells() {
	left := w.living()
	for _, g := range left[1:] {
		for _, pair := range [][2]*gateway{{g, left[0]}, {left[0], g}} {
			for r, d := range pair[0].cells {
				if !bytes.Equal(d.raw, pair[1].disk[string(entityKey(r))]) {
					w.fail("after quiet, %q differs between gateways %d and %d", r, g.i, left[0].i)
				}
			}
		}
	}
}

// addresses checks that no address has two devices, and that each device has one of each family.
func (w *world) addresses(g *gateway) {
	seen := map[netip.Addr]string{}
	for d, err := range g.store.Devices() {
		w.check(err)
		if len(d.Addresses) != len(families) {
			w.fail("after quiet, %s has the addresses %v", d.Name, d.Addresses)
		}
		for _, a := range d.Addresses {
			if seen[a] != "" {
				w.fail("%s and %s have %v", seen[a], d.Name, a)
			}
			seen[a] = d.Name
		}
	}
}

// reporter makes a violation of what a helper of tests reports.
type reporter struct{ testing.TB }

func (reporter) Helper()                     {}
func (reporter) Error(a ...any)              { panic(violation(fmt.Sprint(a...))) }
func (reporter) Errorf(f string, a ...any)   { panic(violation(fmt.Sprintf(f, a...))) }
func (r reporter) Fatal(a ...any)            { r.Error(a...) }
func (r reporter) Fatalf(f string, a ...any) { r.Errorf(f, a...) }
func (r reporter) FailNow()                  { r.Error("failed") }
