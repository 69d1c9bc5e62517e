package cluster

import (
	"fmt"
	"maps"
	"runtime"

	"github.com/dgraph-io/badger/v4"
)

const (
	// company is the number of requests at which a group leaves without waiting for more.
	company = 32
	// yields is how often the committer lets others run before a group leaves.
	yields = 8
)

// pipeline is what the committer has in hand. While one group is being synced, the
// next is carried out in memory, on top of it: if the first fails, so does the
// second. Nobody is told of a group before it is durable.
//
//	requests ─► next ─► flying ─► told
//	          carried   handed
//	          out       to Badger
//
// Only the committer uses it.
type pipeline struct {
	store  *Store
	send   func(o overlay, done chan<- error) error // [Store.send], but in a test of failures
	base   *badger.Txn                              // a committed state, with all before flying; nil: not open
	next   *group
	flying *group     // nil: none
	landed chan error // buffered 1: what became of flying
	held   *request   // does not fit into next
	last   int        // requests in the group before
	own    bool       // next is the committer's own work, which a disk that is nearly full does not stop half-way
}

// group is requests that are written together.
type group struct {
	writes  overlay
	bytes   int
	done    []*request // in the order in which they were carried out
	failed  []error    // of each
	ceiling uint64     // of the clock, durable with it
}

func newGroup() *group { return &group{writes: overlay{}} }

// inlet is where the next request comes from, nil while none is taken.
func (p *pipeline) inlet() <-chan *request {
	if p.held != nil || len(p.next.done) >= maxGroup {
		return nil
	}
	return p.store.requests
}

// gather takes what waits. Those who were answered together come back together, so a group that is smaller than the
// one before lets them run first.
func (p *pipeline) gather() {
	for n := 0; ; {
		select {
		case r := <-p.inlet():
			p.take(r)
			continue
		default:
		}
		if p.flying != nil || n == yields || len(p.next.done) >= min(p.last, company) {
			return
		}
		n++
		runtime.Gosched()
	}
}

// take carries a request out in memory, or holds it for the group after the next.
func (p *pipeline) take(r *request) {
	s, g := p.store, p.next
	if p.base == nil {
		p.base = s.db.NewTransaction(false)
	}
	t := newTx(p.reader(), g.writes, *s.author.Load())
	t.may = s.mayWrite
	err := s.perform(r, t)
	size := t.mine.bytes()
	if err == nil && (len(t.mine) > maxEntries || size > maxBytes) {
		err = fmt.Errorf("transaction of %d entries and %d bytes: %w", len(t.mine), size, ErrTooLarge)
	}
	if err == nil && len(g.done) > 0 && (len(g.writes)+len(t.mine) > maxEntries || g.bytes+size > maxBytes) {
		p.held = r
		return
	}
	g.done, g.failed = append(g.done, r), append(g.failed, err)
	if err != nil {
		r.giveUp()
		return
	}
	maps.Copy(g.writes, t.mine)
	g.bytes += size
	r.tx = t
}

// reader reads what next builds upon.
func (p *pipeline) reader() source {
	if p.flying == nil {
		return snapshot{p.base}
	}
	return layered{p.flying.writes, snapshot{p.base}}
}

// layered reads writes that are not durable yet, and below them.
type layered struct {
	over  overlay
	below source
}

func (l layered) get(key []byte) ([]byte, error) {
	if b, ok := l.over[string(key)]; ok {
		return b, nil
	}
	return l.below.get(key)
}

// launch sends the next group on its way, unless there is none or one is under way. What there is no room for is
// refused.
func (p *pipeline) launch() error {
	g := p.next
	if p.flying != nil || len(g.done) == 0 {
		return nil
	}
	if err := p.store.volume.look(); err != nil && !p.own {
		p.refuse(g, err)
		p.next = newGroup()
		p.release()
		p.retry()
		return p.launch()
	}
	if p.base == nil { // opened later it would wait for this group
		p.base = p.store.db.NewTransaction(false)
	}
	p.flying, p.next, p.last = g, newGroup(), len(g.done)
	ceiling, raised := p.store.clock.ceilingFor()
	if raised {
		g.writes[string(metaCeiling)] = number(ceiling)
		g.ceiling = ceiling
	}
	if len(g.writes) == 0 {
		p.landed <- nil
	} else if err := p.send(g.writes, p.landed); err != nil {
		return p.land(err)
	}
	p.retry()
	return nil
}

// retry carries out the request that did not fit before.
func (p *pipeline) retry() {
	if r := p.held; r != nil {
		p.held = nil
		p.take(r)
	}
}

// land takes in what became of the group under way. An error of the store goes to all who wait.
func (p *pipeline) land(err error) error {
	g := p.flying
	p.release()
	if err != nil {
		err = fmt.Errorf("commit: %w", err)
		p.refuse(g, err)
		p.refuse(p.next, err)
		if p.held != nil {
			p.held.giveUp()
			p.held.done <- err
		}
		p.flying, p.next, p.held = nil, newGroup(), nil
		return err
	}
	p.flying = nil
	p.store.clock.raised(g.ceiling)
	p.store.publish(g)
	return nil
}

// refuse answers requests whose writes are given up.
func (p *pipeline) refuse(g *group, err error) {
	for i, r := range g.done {
		if g.failed[i] == nil {
			r.giveUp()
		}
		r.done <- err
	}
}

// drain waits until everything that was taken is durable.
func (p *pipeline) drain() error {
	for {
		if err := p.launch(); err != nil {
			return err
		}
		if p.flying == nil {
			return nil
		}
		if err := p.land(<-p.landed); err != nil {
			return err
		}
	}
}

// release lets go of the state that is read, which then may be older than what is committed.
func (p *pipeline) release() {
	if p.base != nil {
		p.base.Discard()
		p.base = nil
	}
}
