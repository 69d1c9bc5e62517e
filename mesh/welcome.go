package mesh

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// serveJoin lets a newcomer in that proves what it names.
func (m *Mesh) serveJoin(ctx context.Context, s *stranger, w *wire) error {
	k, body, err := w.read(helloLimit, handshakeTimeout)
	if err != nil {
		return fmt.Errorf("read proof: %w", err)
	}
	if k != kindProof {
		return fmt.Errorf("%w: kind %d instead of a proof", errFrame, k)
	}
	theirs, err := parseJoinHello(body)
	if err != nil {
		return err
	}
	if _, ok := common(theirs.ProtoMin, theirs.ProtoMax); !ok {
		w.refuse(refusedVersion, unlike(theirs.ProtoMin, theirs.ProtoMax))
		return nil
	}
	if m.cfg.Secrets == nil {
		w.refuse(refusedNobody, "")
		return nil
	}
	c, err := Credential{Kind: theirs.Kind, ID: theirs.ID}.withDefaults()
	if err != nil {
		return err
	}
	secrets, err := m.cfg.Secrets(c.Kind, c.ID)
	if err != nil {
		m.strangers.Warn("join refused", "from", s.from, "name", theirs.Name, "kind", c.Kind, "err", err)
		w.refuseFor(err)
		return nil
	}
	c, ok, err := c.proven(w, secrets, theirs.Proof, w.key, m.self.public())
	if err != nil {
		return err
	}
	if !ok {
		m.strangers.Warn("join refused: another cluster key", "from", s.from, "name", theirs.Name, "kind", c.Kind)
		w.refuse(refusedProof, "")
		return nil
	}
	proof, err := c.prove(w, memberSide, w.key, m.self.public())
	if err != nil {
		return err
	}
	if err := w.write(joinStep, encode(kindProof, joinProof{proof})); err != nil {
		return fmt.Errorf("send proof: %w", err)
	}
	s.known()
	n := Newcomer{
		Key: w.key, Name: theirs.Name, Version: theirs.Version, Addr: s.from, Kind: c.Kind, ID: c.ID,
	}
	if theirs.Time != 0 {
		n.Time = time.UnixMilli(theirs.Time).UTC()
	}
	return m.welcome(ctx, w, n)
}

// welcome has a newcomer admitted and gives it what it needs.
func (m *Mesh) welcome(ctx context.Context, w *wire, n Newcomer) error {
	data, err := []byte(nil), ErrNotMember
	if m.cfg.Welcome != nil {
		ctx, cancel := context.WithTimeout(ctx, welcomeTimeout)
		data, err = m.cfg.Welcome(ctx, n)
		cancel()
	}
	if err == nil && len(data) > maxWelcome {
		err = errors.New("welcome is too long")
	}
	switch {
	case errors.Is(err, ErrNotMember):
		w.refuse(refusedNobody, "")
		return nil
	case err != nil:
		w.refuseFor(err)
		return fmt.Errorf("welcome %s: %w", IDOf(n.Key), err)
	}
	if err := w.write(joinStep, encode(kindWelcome, welcome{data})); err != nil {
		return fmt.Errorf("send welcome: %w", err)
	}
	if s := m.cfg.States[joinState]; s != nil {
		for data, err := range s.Delta(nil) {
			if err != nil {
				w.refuse(refusedFailed, "state cannot be read")
				return fmt.Errorf("read state: %w", err)
			}
			if err := w.write(joinStep, encode(kindPart, part{joinState, data})); err != nil {
				return fmt.Errorf("send state: %w", err)
			}
		}
	}
	if err := w.write(joinStep, encode(kindEnd, end{Name: joinState})); err != nil {
		return fmt.Errorf("send state: %w", err)
	}
	if _, _, err := w.read(helloLimit, joinStep); err != nil { // kindDone, or the newcomer is content without
		return fmt.Errorf("read confirmation: %w", err)
	}
	return nil
}
