package mesh

import (
	"fmt"
	"sync"
	"time"
)

// exchange is what goes over one bulk connection.
type exchange struct {
	link     *link
	wire     *wire
	kicked   chan struct{} // buffered 1: the writer has something to do
	ended    chan struct{} // closed when the connection has ended
	mu       sync.Mutex    // guards the fields of replicas
	replicas []*replica    // of the states that both sides have, by name
}

// bulk exchanges states over w until it ends, which also closes w.
func (l *link) bulk(w *wire) error {
	x := &exchange{link: l, wire: w, kicked: make(chan struct{}, 1), ended: make(chan struct{})}
	for _, name := range l.mesh.names {
		for _, theirs := range l.hello.States {
			if theirs == name {
				x.replicas = append(x.replicas, &replica{name: name, state: l.mesh.cfg.States[name], ask: true})
				break
			}
		}
	}
	l.mu.Lock()
	old := l.exchange
	if l.closed {
		l.mu.Unlock()
		w.close()
		return errReplaced
	}
	l.exchange = x
	l.mu.Unlock()
	if old != nil {
		old.wire.close()
	}
	if len(x.replicas) == 0 {
		l.mesh.synced(l)
	}
	wake(x.kicked)
	written := make(chan error, 1)
	l.mesh.run(func() {
		err := x.write()
		w.close()
		written <- err
	})
	err := x.read()
	w.close()
	close(x.ended)
	if werr := <-written; werr != nil {
		err = werr
	}
	l.mu.Lock()
	if l.exchange == x {
		l.exchange = nil
	}
	l.mu.Unlock()
	return err
}

// find returns the replica of a name, or nil.
func (x *exchange) find(name string) *replica {
	for _, r := range x.replicas {
		if r.name == name {
			return r
		}
	}
	return nil
}

// each changes the replicas of a name, or all if it is "", and wakes the
// writer.
func (x *exchange) each(name string, f func(*replica)) {
	x.mu.Lock()
	for _, r := range x.replicas {
		if name == "" || r.name == name {
			f(r)
		}
	}
	x.mu.Unlock()
	wake(x.kicked)
}

// read takes in what the peer sends until the connection ends.
func (x *exchange) read() error {
	for {
		k, body, err := x.wire.read(bulkLimit, 0)
		if err != nil {
			return fmt.Errorf("read bulk: %w", err)
		}
		switch k {
		case kindDigest:
			err = x.onDigest(body)
		case kindPart:
			err = x.onPart(body)
		case kindEnd:
			err = x.onEnd(body)
		case kindRefuse:
			err = parseRefusal(body)
		}
		if err != nil {
			return err
		}
	}
}

func (x *exchange) onDigest(body []byte) error {
	d, err := parseDigest(body)
	if err != nil {
		return err
	}
	x.each(d.Name, func(r *replica) { r.heard(d, time.Now()) })
	return nil
}

func (x *exchange) onPart(body []byte) error {
	p, err := parsePart(body)
	if err != nil {
		return err
	}
	r := x.find(p.Name)
	if r == nil {
		return nil
	}
	m := x.link.mesh
	select {
	case m.merges[r.name] <- struct{}{}:
	case <-x.link.done:
		return errReplaced
	}
	behind, err := r.state.Merge(p.Data)
	<-m.merges[r.name]
	if err != nil {
		// The digest will say that it is still missing.
		m.log.Warn("part not merged", "peer", x.link.id, "state", r.name, "err", err)
	}
	x.mu.Lock()
	if err != nil && !r.failed {
		r.lost++
	}
	r.merging, r.behind, r.failed = true, r.behind || behind, r.failed || err != nil
	x.mu.Unlock()
	wake(m.moved)
	return nil
}

func (x *exchange) onEnd(body []byte) error {
	e, err := parseEnd(body)
	if err != nil {
		return err
	}
	synced := false
	x.each(e.Name, func(r *replica) {
		if r.merging {
			r.merging, r.ack = false, true
		}
		whole := !r.behind && !r.failed
		r.ask = r.ask || r.behind
		r.behind, r.failed = false, false
		if e.Answer && whole {
			for _, c := range r.waiting {
				close(c)
			}
			r.waiting = nil
			synced, r.synced = !r.synced, true
		}
	})
	if synced && x.synced() {
		x.link.mesh.synced(x.link)
	}
	return nil
}

// synced says whether every state had its first exchange.
func (x *exchange) synced() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, r := range x.replicas {
		if !r.synced {
			return false
		}
	}
	return true
}

// synced tells that the first exchange over l is complete.
func (m *Mesh) synced(l *link) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if p := m.peers[l.id]; p != nil && p.link == l && !p.synced {
		p.synced = true
		m.note(Synced, p)
	}
}
