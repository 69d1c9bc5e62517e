package node

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"gatemesh/cluster"
	"gatemesh/mesh"
)

// maxClockGap is by how much the clock of a newcomer may differ: beyond it what it writes would stand against what
// others write later, or lose to what they wrote before.
const maxClockGap = time.Minute

// welcome records the admission of a newcomer that has proven its credential, if the cluster's rules permit it. Who is
// admitted already is let in whatever the rules are: a join that was cut short goes on, and nobody is locked out. What
// it refuses is a *mesh.RefusedError.
//
// It returns the id of the cluster, by which the newcomer tells it from another one with the same key.
func (n *Node) welcome(ctx context.Context, p *parts, c mesh.Newcomer) ([]byte, error) {
	if c.Key.Equal(n.public()) {
		return nil, mesh.ErrNotMember // found at an address that was another's: it cannot admit itself
	}
	return p.facts.cluster[:], n.admitNewcomer(ctx, p, c)
}

func (n *Node) admitNewcomer(ctx context.Context, p *parts, c mesh.Newcomer) error {
	id := cluster.NodeOf(c.Key)
	if _, ok, err := n.store.Admitted(id); err != nil || ok {
		return err
	}
	if gone, err := n.store.Departed(id); err != nil || gone {
		return refuseOr(err, "this gateway was evicted from the cluster, or has left it", joinAgain)
	}
	limit, err := n.permits(c)
	if err != nil {
		return err
	}
	if c.Kind == mesh.CredentialToken {
		if err := n.redeem(ctx, p, id, c); err != nil {
			return err
		}
	}
	n.admitting.Lock()
	defer n.admitting.Unlock()
	if err := n.hasRoom(limit); err != nil { // again: others may have come meanwhile
		return err
	}
	now := n.cfg.Now()
	err = n.store.Admit(ctx, cluster.Admission{
		Key: c.Key, Name: c.Name, Sponsor: n.self, At: now, Limit: limit,
		Statement: cluster.SignAdmission(n.key, p.facts.cluster, c.Key, now),
	})
	if err != nil {
		return fmt.Errorf("record admission: %w", err)
	}
	n.log.Info("gateway admitted", "gateway", c.Name, "id", id, "addr", c.Addr, "by", c.Kind)
	return nil
}

func refuseOr(err error, reason, hint string) error {
	if err != nil {
		return err
	}
	return &mesh.RefusedError{Reason: reason, Hint: hint}
}

// permits applies the cluster's rules to a newcomer. It returns max-instances as it is now.
func (n *Node) permits(c mesh.Newcomer) (limit int, err error) {
	rules, err := n.joinRules()
	if err != nil {
		return 0, err
	}
	now := n.cfg.Now().UTC()
	switch gap := c.Time.Sub(now); {
	case !c.Time.IsZero() && gap.Abs() > maxClockGap:
		return 0, &mesh.RefusedError{
			Reason: fmt.Sprintf("the clocks differ by %v: it is %s at the newcomer and %s at %s", gap.Abs().Round(time.Second),
				c.Time.Format(time.RFC3339), now.Format(time.RFC3339), n.name),
			Hint: "set the clock of the machine that is wrong, best with NTP",
		}
	case !rules.open:
		return 0, &mesh.RefusedError{
			Reason: "no further gateways may join this cluster", Hint: "permit it with `gatemesh cluster set joins on` at a member",
		}
	case !rules.permits(c.Addr.Addr()):
		return 0, &mesh.RefusedError{
			Reason: fmt.Sprintf("gateways may not join from %s", c.Addr.Addr().Unmap()),
			Hint:   "see `gatemesh cluster show` at a member; `gatemesh cluster set join-hosts` changes it",
		}
	}
	return rules.limit, n.hasRoom(rules.limit)
}

// hasRoom refuses when there are as many gateways as there may be.
func (n *Node) hasRoom(limit int) error {
	all, err := n.store.Admissions()
	if err != nil || limit == 0 || len(all) < limit {
		return err
	}
	return &mesh.RefusedError{
		Reason: fmt.Sprintf("there is no room: %d of %d instances", len(all), limit),
		Hint:   "raise it with `gatemesh cluster set max-instances`, or remove a gateway that is gone",
	}
}

// redeem spends a use of the token that a newcomer has proven.
func (n *Node) redeem(ctx context.Context, p *parts, id cluster.Node, c mesh.Newcomer) error {
	claims, err := parseClaims(c.ID)
	if err != nil {
		return err
	}
	host, err := claims.host()
	if err != nil {
		return err
	}
	if len(claims.For) > 0 && string(claims.For) != string(id[:]) {
		return &mesh.RefusedError{Reason: "the join token was made for another gateway", Hint: anotherToken}
	}
	if host.IsValid() && !host.Contains(c.Addr.Addr().Unmap()) {
		return &mesh.RefusedError{
			Reason: fmt.Sprintf("the join token may be used from %s, not from %s", host, c.Addr.Addr().Unmap()),
			Hint:   anotherToken,
		}
	}
	if n.cfg.Now().After(claims.expires().Add(maxClockGap)) {
		return &mesh.RefusedError{
			Reason: "the join token has expired at " + claims.expires().Format(time.RFC3339), Hint: anotherToken,
		}
	}
	token := cluster.TokenID(claims.ID)
	if t, err := n.store.Token(token); err == nil && t.Revoked { // the issuer may not have heard of it yet
		return refusedSpending(cluster.ErrRevoked)
	}
	if _, ok, err := n.store.Admitted(claims.issuer()); err != nil || !ok {
		return refuseOr(err, "the gateway that made the join token is no member any more", anotherToken)
	}
	return n.spend(ctx, p, claims.issuer(), token, id)
}

// joinRules are who may join.
type joinRules struct {
	open  bool
	hosts []netip.Prefix // none: from anywhere
	limit int            // 0: not bounded
}

func (r joinRules) permits(a netip.Addr) bool {
	for _, p := range r.hosts {
		if p.Contains(a.Unmap()) {
			return true
		}
	}
	return len(r.hosts) == 0
}
