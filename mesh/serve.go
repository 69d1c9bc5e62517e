package mesh

import (
	"context"
	"fmt"
	"time"
)

// serve finds out what an accepted connection is, and works on it.
func (m *Mesh) serve(ctx context.Context, s *stranger) {
	release := context.AfterFunc(ctx, func() { s.Close() })
	defer release()
	first, err := s.peek()
	if err != nil {
		s.Close()
		return
	}
	if first == hasLabel {
		m.transport.take(s)
		return
	}
	if first != tlsHandshake || !m.port.gate.pace(ctx, s) {
		s.Close()
		return
	}
	s.limit(helloBytes)
	w, err := m.self.handshake(ctx, s, false, protoLink, protoJoin, protoClaim, protoLogon)
	if err != nil {
		m.log.Debug("connection refused", "from", s.from, "err", err)
		return
	}
	switch w.proto {
	case protoLink:
		err = m.serveLink(ctx, s, w, release)
	case protoJoin:
		err = m.serveJoin(ctx, s, w)
	case protoClaim:
		err = m.serveClaim(ctx, s, w)
	case protoLogon:
		err = m.serveLogon(ctx, s, w)
	}
	w.close()
	if err != nil && ctx.Err() == nil {
		m.log.Debug("connection ended", "from", s.from, "peer", IDOf(w.key), "proto", w.proto, "err", err)
	}
}

// serveLink answers the hello of a dialer. The dialer has its say before
// anything comes of it: it opens, or refuses. release keeps a link from
// ending with ctx.
func (m *Mesh) serveLink(ctx context.Context, s *stranger, w *wire, release func() bool) error {
	k, body, err := w.read(helloLimit, handshakeTimeout)
	if err != nil {
		return fmt.Errorf("read hello: %w", err)
	}
	if k != kindHello {
		return fmt.Errorf("%w: kind %d instead of a hello", errFrame, k)
	}
	theirs, err := parseHello(body)
	if err != nil {
		return err
	}
	if code := m.examineDialer(w, theirs); code != 0 {
		err := m.refuse(w, theirs, code)
		m.refusal(s.from, IDOf(w.key), err, true)
		return err
	}
	if err := w.write(handshakeTimeout, encode(kindHello, m.hello(theirs.Class, [16]byte(theirs.Link)))); err != nil {
		return fmt.Errorf("send hello: %w", err)
	}
	switch k, body, err = w.read(helloLimit, handshakeTimeout); {
	case err != nil:
		return fmt.Errorf("read open: %w", err)
	case k == kindRefuse:
		return m.refusedBy(w.key, body)
	case k != kindOpen:
		return fmt.Errorf("%w: kind %d instead of open", errFrame, k)
	}
	if theirs.Class == classBulk {
		l := m.linkFor(w, theirs)
		if l == nil {
			w.refuse(refusedLink, "")
			return nil
		}
		s.known()
		return l.bulk(w)
	}
	l := newLink(m, w, theirs, IDOf(w.key), s.from)
	if !m.install(l) {
		w.refuse(refusedDuplicate, "")
		return nil
	}
	s.known()
	release() // farewell ends it
	l.run(ctx)
	return nil
}

// examineDialer is examine and what concerns only who called.
func (m *Mesh) examineDialer(w *wire, theirs hello) reason {
	if code := m.examine(w, theirs); code != 0 {
		return code
	}
	id := IDOf(w.key)
	m.mu.Lock()
	leaving := m.leaving
	var l *link
	if p := m.peers[id]; p != nil && p.fresh(time.Now()) {
		l = p.link
	}
	m.mu.Unlock()
	switch {
	case leaving:
		return refusedLeaving
	case theirs.Class == classBulk && m.linkFor(w, theirs) == nil:
		return refusedLink
	case theirs.Class == classControl && l != nil && l.hello.Boot == theirs.Boot && !prefer(id, l.dialer):
		return refusedDuplicate
	case theirs.Class != classBulk && theirs.Class != classControl:
		return refusedVersion
	}
	return 0
}

// linkFor returns the link to which a bulk connection belongs: the dialer's
// own, by the id that it drew; nil if it is gone.
func (m *Mesh) linkFor(w *wire, theirs hello) *link {
	l := m.linkTo(IDOf(w.key))
	if l == nil || l.dialer != l.id || string(l.hello.Link) != string(theirs.Link) || l.hello.Boot != theirs.Boot {
		return nil
	}
	return l
}
