package mesh

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"syscall"
	"time"
)

// refused says whether a dial was answered by a host on which nobody listens.
func refused(err error) bool {
	// 10061 and 10054 are WSAECONNREFUSED and WSAECONNRESET, which package
	// syscall does not take for the portable errors.
	var errno syscall.Errno
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ECONNRESET) ||
		errors.As(err, &errno) && (errno == 10061 || errno == 10054)
}

// dialLink makes a link to whoever is at a, and returns who that is. That
// there is a link already, or a better one comes, is no error.
func (m *Mesh) dialLink(ctx context.Context, a netip.AddrPort, timeout time.Duration) (ID, error) {
	m.mu.Lock()
	m.dialing[a]++
	m.mu.Unlock()
	id, err := m.dialControl(ctx, a, timeout)
	m.mu.Lock()
	if m.dialing[a]--; m.dialing[a] == 0 {
		delete(m.dialing, a)
	}
	if id != (ID{}) {
		if len(m.who) >= maxWho {
			clear(m.who)
		}
		m.who[a] = id
	}
	m.mu.Unlock()
	if err != nil && ctx.Err() == nil {
		m.refusal(a, id, err, false)
		m.log.Debug("no link", "addr", a, "err", err)
	}
	return id, err
}

func (m *Mesh) dialControl(ctx context.Context, a netip.AddrPort, timeout time.Duration) (ID, error) {
	w, err := m.dialWire(ctx, a, timeout)
	if err != nil {
		return ID{}, err
	}
	id := IDOf(w.key)
	if id == m.self.id {
		w.close()
		return id, nil
	}
	if !m.claim(id) {
		w.close()
		return id, nil
	}
	defer m.unclaim(id)
	release := context.AfterFunc(ctx, w.close)
	defer release()
	var nonce [16]byte
	if _, err := rand.Read(nonce[:]); err != nil {
		w.close()
		return id, fmt.Errorf("draw link id: %w", err)
	}
	theirs, rtt, err := m.greet(w, m.hello(classControl, nonce))
	var no *RefusedError
	if errors.As(err, &no) && no.code == refusedDuplicate {
		w.close()
		return id, nil
	}
	if err != nil {
		w.close()
		return id, err
	}
	l := newLink(m, w, theirs, m.self.id, a)
	l.rtt = rtt
	if !m.install(l) {
		w.refuse(refusedDuplicate, "")
		return id, nil
	}
	m.run(func() { l.run(ctx) })
	m.joinGossip(l)
	return id, nil
}

// dialWire connects to a.
func (m *Mesh) dialWire(ctx context.Context, a netip.AddrPort, timeout time.Duration) (*wire, error) {
	dialing, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	raw, err := m.cfg.Network.Dial(dialing, a)
	if err != nil {
		return nil, fmt.Errorf("dial: %w", err)
	}
	return m.self.handshake(ctx, raw, true, protoLink)
}

// claim reserves the making of a link by us to id, so that there is one at a
// time and none beside one of ours that is up.
func (m *Mesh) claim(id ID) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.peer(id)
	if p == nil || p.opening || m.leaving || p.link != nil && !prefer(m.self.id, p.link.dialer) ||
		p.link != nil && p.link.dialer == m.self.id {
		return false
	}
	p.opening = true
	return true
}

func (m *Mesh) unclaim(id ID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if p := m.peers[id]; p != nil {
		p.opening = false
	}
}

// hello returns ours.
func (m *Mesh) hello(c class, nonce [16]byte) hello {
	addr, gossip := m.place()
	return hello{
		Cluster: m.cfg.Cluster[:], ProtoMin: protoMin, ProtoMax: protoMax,
		Version: m.cfg.Version, Name: m.cfg.Name, Voucher: m.cfg.Voucher,
		Class: c, Addr: addr, Boot: m.boot, Link: nonce[:], States: m.names, Gossip: gossip,
	}
}

// greet exchanges hellos as the dialer. On success nothing was sent since
// ours.
func (m *Mesh) greet(w *wire, ours hello) (hello, time.Duration, error) {
	begin := time.Now()
	if err := w.write(handshakeTimeout, encode(kindHello, ours)); err != nil {
		return hello{}, 0, fmt.Errorf("send hello: %w", err)
	}
	k, body, err := w.read(helloLimit, handshakeTimeout)
	if err != nil {
		return hello{}, 0, fmt.Errorf("read hello: %w", err)
	}
	rtt := time.Since(begin)
	if k == kindRefuse {
		return hello{}, 0, m.refusedBy(w.key, body)
	}
	if k != kindHello {
		return hello{}, 0, fmt.Errorf("%w: kind %d instead of a hello", errFrame, k)
	}
	theirs, err := parseHello(body)
	if err != nil {
		return hello{}, 0, err
	}
	if !bytes.Equal(theirs.Link, ours.Link) {
		return hello{}, 0, fmt.Errorf("%w: hello for another link", errFrame)
	}
	if code := m.examine(w, theirs); code != 0 {
		return hello{}, 0, m.refuse(w, theirs, code)
	}
	return theirs, rtt, nil
}

// refuse tells the sender of a hello why not, and returns the same as an error.
func (m *Mesh) refuse(w *wire, theirs hello, code reason) error {
	e := &RefusedError{Reason: "by us: " + code.String(), code: code, byUs: true}
	text := ""
	if _, ok := common(theirs.ProtoMin, theirs.ProtoMax); !ok && code == refusedVersion {
		text = unlike(theirs.ProtoMin, theirs.ProtoMax)
		e.Reason += fmt.Sprintf(": it speaks %s of the protocol, we %s", versions(theirs.ProtoMin, theirs.ProtoMax),
			versions(protoMin, protoMax))
	}
	w.refuse(code, text)
	return e
}

// examine says whether the sender of a hello may have a link, or why not.
func (m *Mesh) examine(w *wire, theirs hello) reason {
	_, speaks := common(theirs.ProtoMin, theirs.ProtoMax)
	switch {
	case !speaks:
		return refusedVersion
	case !bytes.Equal(theirs.Cluster, m.cfg.Cluster[:]):
		return refusedCluster
	case IDOf(w.key) == m.self.id:
		return refusedSelf
	}
	if m.cfg.Admit != nil {
		if err := m.cfg.Admit(w.key, theirs.Voucher); err != nil {
			m.strangers.Warn("peer not admitted", "peer", IDOf(w.key), "name", theirs.Name, "err", err)
			if errors.Is(err, ErrEvicted) {
				return refusedEvicted
			}
			if errors.Is(err, ErrSuspended) {
				return refusedSuspended
			}
			return refusedAdmission
		}
	}
	return 0
}

// keepBulk keeps a bulk connection as long as the link lasts.
func (l *link) keepBulk(ctx context.Context) {
	backoff := time.Duration(0)
	for {
		select {
		case <-l.done:
			return
		case <-time.After(backoff):
		}
		began := time.Now()
		err := l.dialBulk(ctx)
		l.mesh.log.Debug("bulk ended", "peer", l.id, "err", err)
		if backoff = min(max(2*backoff, retryMin), retryMax); time.Since(began) > time.Minute {
			backoff = retryMin
		}
	}
}

// dialBulk makes a bulk connection and works on it until it ends.
func (l *link) dialBulk(ctx context.Context) error {
	w, err := l.mesh.dialWire(ctx, l.addr, dialTimeout)
	if err != nil {
		return err
	}
	defer w.close()
	release := context.AfterFunc(ctx, w.close)
	defer release()
	if !w.key.Equal(l.key) {
		return errors.New("somebody else answers")
	}
	theirs, _, err := l.mesh.greet(w, l.mesh.hello(classBulk, [16]byte(l.hello.Link)))
	if err != nil {
		return err
	}
	if theirs.Boot != l.hello.Boot {
		return errors.New("another process answers")
	}
	if err := w.write(controlTimeout, encode(kindOpen, nil)); err != nil {
		return err
	}
	return l.bulk(w)
}
