package mesh

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"net/netip"
	"time"
)

const (
	moveInterval = time.Second     // how often our own address is looked at
	movePatience = 3 * time.Second // that it must be gone: a card that is set up anew has none for a moment
)

var errMoved = errors.New("our address has changed")

// follow looks whether our own address is still there, unless it was given,
// until ctx ends. When it is gone we go on under another one, if there is a
// way from it to the members that we know.
func (m *Mesh) follow(ctx context.Context) error {
	bound := addrOf(m.port.tcp.Addr()).Addr()
	if m.cfg.Advertise.IsValid() || bound.IsValid() && !bound.IsUnspecified() {
		return nil
	}
	var gone time.Time // since when; zero: it is there
	for {
		if err := sleep(ctx, moveInterval); err != nil {
			return err
		}
		now, was := time.Now(), m.Addr()
		if m.cfg.Network.Local(was.Addr()) {
			gone = time.Time{}
			continue
		}
		if gone.IsZero() {
			gone = now
		}
		here, known := m.toward()
		if !known {
			here = m.cfg.Network.Source(netip.Addr{})
		}
		to := netip.AddrPortFrom(here, was.Port())
		if now.Sub(gone) < movePatience || to == was || !here.IsValid() || here.IsLoopback() {
			continue
		}
		if err := m.move(to); err != nil {
			return err
		}
		m.log.Warn("our address has changed", "was", was, "is", to)
	}
}

// move makes to our address and all links anew, so that the others hear of it,
// and serf as another node: it takes a name that comes back elsewhere for a
// conflict.
func (m *Mesh) move(to netip.AddrPort) error {
	boot, err := newBoot()
	if err != nil {
		return err
	}
	links := m.links()
	m.mu.Lock()
	m.addr, m.gossip = to, boot
	m.mu.Unlock()
	select {
	case m.relocated <- struct{}{}:
	default: // serf will be started with what holds then
	}
	for _, l := range links {
		l.close(errMoved)
	}
	return nil
}

// place returns our address and the number in our name in serf.
func (m *Mesh) place() (netip.AddrPort, uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.addr, m.gossip
}

// newBoot draws the number of a process, or of a node of serf.
func newBoot() (uint64, error) {
	var b [8]byte
	if _, err := rand.Read(b[:]); err != nil {
		return 0, err
	}
	return binary.BigEndian.Uint64(b[:]), nil
}
