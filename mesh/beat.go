package mesh

import (
	"context"
	"time"
)

// beat is the body of kindBeat.
type beat struct {
	Seq     uint64 `cbor:"1,keyasint"`
	Payload []byte `cbor:"2,keyasint,omitempty"`
	Echo    uint64 `cbor:"3,keyasint,omitempty"` // the last that came from the other side; 0: none
	Held    int64  `cbor:"4,keyasint,omitempty"` // microseconds since then
}

// ask is the body of kindAsk: do you hear this one?
type ask struct {
	ID []byte `cbor:"1,keyasint"`
}

// tell is the body of kindTell.
type tell struct {
	ID   []byte `cbor:"1,keyasint"`
	Hear bool   `cbor:"2,keyasint,omitempty"`
}

// lateness is how late the pulse may be without its being our own fault that
// nothing was heard.
const lateness = 50 * time.Millisecond

// pulse sends heartbeats and judges who is missing. It is one goroutine that
// never waits for anything else, so that a gap in it means that this process,
// and not a peer, did not run.
func (m *Mesh) pulse(ctx context.Context) error {
	var seq uint64
	last := time.Now()
	due := last
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-m.testified:
		case <-ctx.Done():
			return ctx.Err()
		}
		now := time.Now()
		switch gap := now.Sub(last); {
		case gap > stallGap:
			m.stalled(gap, now)
		case gap > beatInterval+lateness:
			m.forgive(gap, now)
		}
		last = now
		if !now.Before(due) {
			seq++
			m.sendBeats(seq)
			due = now.Add(beatInterval)
		}
		wait := min(m.watch(now), due.Sub(now))
		timer.Reset(max(wait, time.Millisecond))
	}
}

// sendBeats puts the next heartbeat before every link.
func (m *Mesh) sendBeats(seq uint64) {
	var payload []byte
	if m.cfg.Beat != nil {
		if payload = m.cfg.Beat(); len(payload) > maxBeat {
			m.log.Error("heartbeat is too long", "bytes", len(payload))
			payload = nil
		}
	}
	for _, l := range m.links() {
		l.putBeat(beat{Seq: seq, Payload: payload})
	}
}

// links returns all links that are up.
func (m *Mesh) links() []*link {
	m.mu.Lock()
	defer m.mu.Unlock()
	list := make([]*link, 0, len(m.peers))
	for _, p := range m.peers {
		if p.link != nil {
			list = append(list, p.link)
		}
	}
	return list
}

// linkTo returns the link to id, or nil.
func (m *Mesh) linkTo(id ID) *link {
	m.mu.Lock()
	defer m.mu.Unlock()
	if p := m.peers[id]; p != nil {
		return p.link
	}
	return nil
}

// stalled is called when the pulse stood still: what the peers think of us is
// unknown, so everything begins anew.
func (m *Mesh) stalled(gap time.Duration, now time.Time) {
	m.mu.Lock()
	var links []*link
	for _, p := range m.peers {
		p.heard, p.asked = now, time.Time{}
		if p.link != nil {
			links = append(links, p.link)
		}
	}
	if m.cfg.Events != nil {
		m.events = append(m.events, Event{Kind: Stalled, Gap: gap})
		wake(m.told)
	}
	m.mu.Unlock()
	m.log.Warn("this process stood still", "gap", gap)
	for _, l := range links {
		l.close(errStalled)
	}
}

// forgive takes our own lateness out of the silence of others.
func (m *Mesh) forgive(late time.Duration, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range m.peers {
		if p.heard = p.heard.Add(late); p.heard.After(now) {
			p.heard = now
		}
	}
}

// watch judges all peers that are up and returns when to do it again.
func (m *Mesh) watch(now time.Time) time.Duration {
	wait := beatInterval
	var asks, gone []ID
	var witnesses, dead []*link
	m.mu.Lock()
	for _, p := range m.peers {
		if !p.up {
			continue
		}
		e := m.evidence(p, now)
		f, again := judge(e)
		switch f {
		case findAlive:
			if e.silence < missWindow(p.rtt) {
				p.asked = time.Time{}
			}
		case findAsk:
			p.asked, p.replies = now, map[ID]bool{}
			asks = append(asks, p.id)
		case findRelink:
			if l := p.link; l != nil {
				dead = append(dead, l)
			}
		case findDead:
			gone = append(gone, p.id)
			if l := m.fall(p, Down); l != nil {
				dead = append(dead, l)
			}
		}
		wait = min(wait, again)
	}
	if len(asks) > 0 {
		for _, p := range m.peers {
			if p.credible(now) {
				witnesses = append(witnesses, p.link)
			}
		}
	}
	m.mu.Unlock()
	for _, l := range dead {
		l.close(errVerdict)
	}
	for _, id := range gone {
		m.log.Info("peer gone", "peer", id, "verdict", Down, "why", "silent")
	}
	for _, id := range asks {
		for _, l := range witnesses {
			if l.id != id {
				_ = l.put(encode(kindAsk, ask{id[:]})) // a full queue is no witness
			}
		}
	}
	return wait
}

// credible says whether p is linked and not in doubt itself.
func (p *peer) credible(now time.Time) bool {
	return p.link != nil && now.Sub(p.heard) < missWindow(p.rtt)
}

// fresh says whether p is linked and heard right now.
func (p *peer) fresh(now time.Time) bool {
	return p.link != nil && now.Sub(p.heard) < freshBeat+p.rtt
}

// evidence gathers what judge wants. m.mu is held.
func (m *Mesh) evidence(p *peer, now time.Time) evidence {
	e := evidence{
		silence: now.Sub(p.heard), rtt: p.rtt, linked: p.link != nil,
		serfDead: p.serf == gossipFailed || p.serf == gossipLeft,
		asked:    !p.asked.IsZero(),
	}
	if e.asked {
		e.waited = now.Sub(p.asked)
	}
	for _, w := range m.peers {
		if w == p || !w.credible(now) {
			if w != p && w.up {
				e.silent++
			}
			continue
		}
		e.witnesses++
		if hear, ok := p.replies[w.id]; ok && e.asked {
			if hear {
				e.hear++
			} else {
				e.miss++
			}
		}
	}
	return e
}

// onAsk answers a member that misses another.
func (m *Mesh) onAsk(l *link, body []byte) error {
	var q ask
	if err := decode(body, &q); err != nil {
		return err
	}
	if len(q.ID) != len(ID{}) {
		return errFrame
	}
	m.mu.Lock()
	p := m.peers[ID(q.ID)]
	hear := p != nil && p.fresh(time.Now())
	m.mu.Unlock()
	_ = l.put(encode(kindTell, tell{q.ID, hear}))
	return nil
}

// onTell takes in the answer of a witness.
func (m *Mesh) onTell(l *link, body []byte) error {
	var t tell
	if err := decode(body, &t); err != nil {
		return err
	}
	if len(t.ID) != len(ID{}) {
		return errFrame
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if p := m.peers[ID(t.ID)]; p != nil && !p.asked.IsZero() {
		p.replies[l.id] = t.Hear
		wake(m.testified)
	}
	return nil
}

// onBeat takes in a heartbeat.
func (m *Mesh) onBeat(l *link, body []byte) error {
	var b beat
	if err := decode(body, &b); err != nil {
		return err
	}
	if len(b.Payload) > maxBeat {
		return errFrame
	}
	now := time.Now()
	rtt, measured := l.gotBeat(b, now)
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.peers[l.id]
	if p == nil || p.link != l {
		return nil
	}
	p.heard, p.beatAt, p.beat = now, now, b.Payload
	if measured {
		p.rtt = smooth(p.rtt, rtt)
	}
	if len(b.Payload) > 0 {
		m.note(Beat, p)
	}
	return nil
}

// smooth moves a round trip time by an eighth (RFC 6298 section 2).
func smooth(old, sample time.Duration) time.Duration {
	if old == 0 {
		return sample
	}
	return old + (sample-old)/8
}
