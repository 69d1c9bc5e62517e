package mesh

import (
	"bytes"
	"context"
	"fmt"
	"iter"
	mrand "math/rand/v2"
	"sync"
	"time"
)

const (
	bulkTimeout   = 30 * time.Second // of one write
	digestPeriod  = 5 * time.Second
	spreadDelay   = 100 * time.Millisecond
	flightTimeout = 30 * time.Second // a delta that nobody acknowledged
	maxMerges     = 4                // at work at once
)

// digest is the body of kindDigest.
type digest struct {
	Name string `cbor:"1,keyasint"`
	Have []byte `cbor:"2,keyasint,omitempty"`
	Want bool   `cbor:"3,keyasint,omitempty"` // answer with an end, even if nothing is missing
	Ack  bool   `cbor:"4,keyasint,omitempty"` // your delta is merged
	Ask  bool   `cbor:"5,keyasint,omitempty"` // tell yours, if it differs
}

// part is the body of kindPart.
type part struct {
	Name string `cbor:"1,keyasint,omitempty"`
	Data []byte `cbor:"2,keyasint,omitempty"`
}

// end is the body of kindEnd.
type end struct {
	Name   string `cbor:"1,keyasint,omitempty"`
	Answer bool   `cbor:"2,keyasint,omitempty"` // to a digest that wanted one
}

func parseDigest(body []byte) (digest, error) {
	var d digest
	if err := decode(body, &d); err != nil {
		return digest{}, err
	}
	if len(d.Name) > maxNameLen || len(d.Have) > maxDigest {
		return digest{}, fmt.Errorf("%w: digest out of bounds", errFrame)
	}
	return d, nil
}

func parsePart(body []byte) (part, error) {
	var p part
	if err := decode(body, &p); err != nil {
		return part{}, err
	}
	if len(p.Name) > maxNameLen || len(p.Data) > maxPart {
		return part{}, fmt.Errorf("%w: part out of bounds", errFrame)
	}
	return p, nil
}

func parseEnd(body []byte) (end, error) {
	var e end
	if err := decode(body, &e); err != nil {
		return end{}, err
	}
	if len(e.Name) > maxNameLen {
		return end{}, fmt.Errorf("%w: end out of bounds", errFrame)
	}
	return e, nil
}

// replica is the exchange of one state with one peer.
//
//	we                                peer
//	digest (want) ───────────────────►
//	              ◄─── part … part, end (answer)
//	digest (ack)  ───────────────────►
//	              ◄─── and what has changed since, if it has
//
// A push is the same without the first line. At most one delta is in flight
// each way; the next is made from the digest that acknowledges it. So a slow
// peer is sent what it can take, and what changes meanwhile is sent once.
//
// The fields are guarded by the mutex of the exchange.
type replica struct {
	name  string
	state State

	ask    bool // send our digest and want an answer
	ack    bool // send our digest: theirs is merged
	offer  bool // send our digest if they may lack something
	rhythm bool // send our digest: it is time
	answer bool // they want an end
	push   bool // we have changed
	got    bool // a digest of theirs came in
	tell   bool // which asked for ours

	known    bool      // theirs is valid
	theirs   []byte    // their last digest
	sent     []byte    // our last digest that they were sent
	basis    []byte    // their digest from which the last delta was made
	stuck    bool      // they acknowledged, and still have only basis
	streams  bool      // a delta is being sent
	inFlight time.Time // since when one waits for its acknowledgement; zero: none does

	merging bool // in the middle of a delta of theirs
	behind  bool // and something else is missing
	waiting []chan struct{}
	synced  bool // one answer came
}

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

// heard takes in a digest of the peer.
func (r *replica) heard(d digest, now time.Time) {
	r.answer = r.answer || d.Want
	flying := r.streams || !r.inFlight.IsZero()
	switch {
	case d.Ack:
		r.inFlight = time.Time{}
		r.stuck = bytes.Equal(d.Have, r.basis)
	case flying && (r.streams || now.Sub(r.inFlight) < flightTimeout):
		// It crossed our delta and says nothing about it.
		return
	default:
		r.inFlight, r.stuck = time.Time{}, false
	}
	r.theirs, r.known, r.got, r.tell = d.Have, true, true, r.tell || d.Ask
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
	case m.merges <- struct{}{}:
	case <-x.link.done:
		return errReplaced
	}
	behind, err := r.state.Merge(p.Data)
	<-m.merges
	if err != nil {
		// The digest will say that it is still missing.
		m.log.Warn("part not merged", "peer", x.link.id, "state", r.name, "err", err)
	}
	x.mu.Lock()
	r.merging, r.behind = true, r.behind || behind
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
		if r.behind {
			r.behind, r.ask = false, true
		}
		if e.Answer {
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

// step is what the writer is to send for one replica.
type step struct {
	digest         bool // our digest, and its flags
	want, ack, ask bool
	delta          bool   // all that the holder of from lacks
	from           []byte // their digest
	end            bool   // an end that is an answer: after the delta, or alone
}

// plan takes what is to be done for r, whose state has the digest ours.
func (r *replica) plan(ours []byte, now time.Time) step {
	var s step
	differ := !r.known || !bytes.Equal(r.theirs, ours)
	fresh := !bytes.Equal(r.sent, ours) // they have not seen ours
	s.want, s.ack, s.ask = r.ask, r.ack, r.rhythm || r.offer
	s.digest = r.ask || r.ack || r.rhythm || differ && (r.tell || fresh && (r.offer || r.got))
	r.ask, r.ack, r.offer, r.rhythm, r.tell = false, false, false, false, false
	if s.digest {
		r.sent = ours
	}
	if r.streams || !r.inFlight.IsZero() || !r.known {
		return s // push, got and answer keep
	}
	s.delta = differ && (r.push || (r.got || r.answer) && !r.stuck)
	s.from, s.end = r.theirs, r.answer
	r.push, r.got, r.answer = false, false, false
	if s.delta {
		r.basis, r.streams = r.theirs, true
	}
	return s
}

// busy says whether plan has anything to find.
func (r *replica) busy() bool {
	return r.ask || r.ack || r.offer || r.rhythm || r.tell ||
		(r.push || r.got || r.answer) && !r.streams && r.inFlight.IsZero() && r.known
}

// stream is a delta that is being sent.
type stream struct {
	r      *replica
	next   func() ([]byte, error, bool)
	stop   func()
	answer bool
	parts  int
}

// write sends digests and deltas. Deltas of several states take turns, part
// by part.
func (x *exchange) write() error {
	var streams []*stream
	defer func() {
		for _, s := range streams {
			s.stop()
		}
	}()
	period := time.NewTimer(digestPeriod/2 + mrand.N(digestPeriod))
	defer period.Stop()
	for {
		begun, err := x.plan()
		if err != nil {
			return err
		}
		streams = append(streams, begun...)
		if len(streams) > 0 {
			s := streams[0]
			more, err := x.advance(s)
			if err != nil {
				return err
			}
			if streams = streams[1:]; more {
				streams = append(streams, s)
			}
			continue
		}
		select {
		case <-x.kicked:
		case <-period.C:
			// In the middle of a delta ours says nothing that is of use.
			x.each("", func(r *replica) { r.rhythm = !r.merging })
			period.Reset(digestPeriod/2 + mrand.N(digestPeriod))
		case <-x.ended:
			return nil
		case <-x.link.done:
			return nil
		}
	}
}

// plan sends the digests that are due and returns the deltas that begin.
func (x *exchange) plan() ([]*stream, error) {
	var begun []*stream
	for _, r := range x.replicas {
		x.mu.Lock()
		busy := r.busy()
		x.mu.Unlock()
		if !busy {
			continue
		}
		ours := r.state.Digest()
		if len(ours) > maxDigest {
			return begun, fmt.Errorf("digest of %s is too long", r.name)
		}
		x.mu.Lock()
		s := r.plan(ours, time.Now())
		x.mu.Unlock()
		if s.digest {
			d := digest{Name: r.name, Have: ours, Want: s.want, Ack: s.ack, Ask: s.ask}
			if err := x.wire.write(bulkTimeout, encode(kindDigest, d)); err != nil {
				return begun, fmt.Errorf("write bulk: %w", err)
			}
		}
		switch {
		case s.delta:
			next, stop := iter.Pull2(r.state.Delta(s.from))
			begun = append(begun, &stream{r: r, next: next, stop: stop, answer: s.end})
		case s.end:
			if err := x.wire.write(bulkTimeout, encode(kindEnd, end{r.name, true})); err != nil {
				return begun, fmt.Errorf("write bulk: %w", err)
			}
		}
	}
	return begun, nil
}

// advance sends the next part of a delta, or its end, and says whether there
// is more.
func (x *exchange) advance(s *stream) (bool, error) {
	data, err, ok := s.next()
	if err == nil && ok && len(data) > maxPart {
		err = fmt.Errorf("part of %d bytes", len(data))
	}
	if err != nil {
		x.link.mesh.log.Error("read delta", "state", s.r.name, "err", err)
	} else if ok {
		s.parts++
		if err := x.wire.write(bulkTimeout, encode(kindPart, part{s.r.name, data})); err != nil {
			s.stop()
			return false, fmt.Errorf("write bulk: %w", err)
		}
		return true, nil
	}
	s.stop()
	x.mu.Lock()
	s.r.streams = false
	if s.parts > 0 {
		s.r.inFlight = time.Now()
	}
	x.mu.Unlock()
	if s.parts == 0 && !s.answer {
		return false, nil
	}
	if err := x.wire.write(bulkTimeout, encode(kindEnd, end{s.r.name, s.answer})); err != nil {
		return false, fmt.Errorf("write bulk: %w", err)
	}
	return false, nil
}

// exchanges returns those of all links.
func (m *Mesh) exchanges() []*exchange {
	var list []*exchange
	for _, l := range m.links() {
		l.mu.Lock()
		if l.exchange != nil {
			list = append(list, l.exchange)
		}
		l.mu.Unlock()
	}
	return list
}

// push sends local changes of a state to all peers.
func (m *Mesh) push(ctx context.Context, name string) error {
	changed := m.cfg.States[name].Changed()
	for {
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
		for _, x := range m.exchanges() {
			x.each(name, func(r *replica) { r.push = true })
		}
	}
}

// spread offers our digests some time after remote data was merged: to those
// who may lack it.
func (m *Mesh) spread(ctx context.Context) error {
	for {
		select {
		case <-m.moved:
		case <-ctx.Done():
			return ctx.Err()
		}
		if err := sleep(ctx, spreadDelay+mrand.N(spreadDelay/2)); err != nil {
			return err
		}
		select {
		case <-m.moved:
		default:
		}
		for _, x := range m.exchanges() {
			x.each("", func(r *replica) { r.offer = true })
		}
	}
}

// Resync exchanges digests with all linked peers now, and waits until what
// they had is merged, their links are gone, or ctx ends.
func (m *Mesh) Resync(ctx context.Context) error {
	for _, x := range m.exchanges() {
		var answers []chan struct{}
		x.each("", func(r *replica) {
			c := make(chan struct{})
			answers = append(answers, c)
			r.ask, r.waiting = true, append(r.waiting, c)
		})
		for _, c := range answers {
			select {
			case <-c:
			case <-x.ended:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
	return nil
}
