package node

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"time"

	"gatemesh/cluster"
	"gatemesh/mesh"
)

// grantTTL is how long the token is good that a log-on or a claim ends in.
const grantTTL = 10 * time.Minute

var errLogon = &mesh.RefusedError{
	Reason: "the name or the password is wrong",
	Hint: fmt.Sprintf("after %d wrong passwords a user is locked for %s at that gateway, for the address they came from",
		logonTries, minutes(logonLockout)),
}

// errLogonSlow is errLogon while log-ons wait.
var errLogonSlow = &mesh.RefusedError{
	Reason: errLogon.Reason,
	Hint: "many wrong passwords came from elsewhere, so each try takes some seconds; to join without one use " +
		"`gatemesh token create`",
}

// onLogon gives a token to a newcomer that has an administrator's password. It is [mesh.Config.Logon].
func (n *Node) onLogon(ctx context.Context, c mesh.Newcomer, user, password string) ([]byte, error) {
	from, who := c.Addr.Addr(), []any{"from", c.Addr, "gateway", c.Name, "user", clipText(user)}
	locked, slow := n.logons.begin(user, from, n.cfg.Now())
	if locked > 0 {
		n.strangers.Warn("log-on refused: locked", append(who, "for", locked.Round(time.Second))...)
		return nil, &mesh.RefusedError{
			Reason: fmt.Sprintf("locked after too many wrong passwords, for another %s", minutes(locked)),
			Hint:   "wait, log on at another gateway, or use a token: `gatemesh token create`",
		}
	}
	if slow > 0 {
		n.strangers.Warn("log-ons are slowed: many wrong passwords came from several addresses", append(who, "by", slow)...)
	}
	ok, stale, err := false, false, n.waitTurn(ctx, user, slow)
	if err == nil {
		ok, stale, err = n.checkPassword(ctx, user, password)
	}
	if err != nil {
		n.logons.undo(user, from)
		n.strangers.Warn("log-on not checked", append(who, "err", err)...)
		return nil, &mesh.RefusedError{Reason: "the password could not be checked", Hint: "try again in a minute"}
	}
	if !ok {
		n.strangers.Warn("log-on refused: wrong name or password", who...)
		if slow > 0 {
			return nil, errLogonSlow
		}
		return nil, errLogon
	}
	n.logons.right(user, from)
	if stale {
		n.strangers.Warn("log-on refused: the password was given before an eviction was known", who...)
		return nil, &mesh.RefusedError{
			Reason: "the password was given before the last eviction was known: the evicted gateway may know it",
			Hint:   fmt.Sprintf("set another one at a member: `gatemesh user password %s`", user),
		}
	}
	if _, err := n.permits(c); err != nil {
		n.strangers.Warn("log-on refused by the cluster's rules", append(who, "err", err)...)
		return nil, err
	}
	log := n.log.With(who...)
	ctx = cluster.WithActor(ctx, cluster.Actor{Name: user, Source: "log-on from " + c.Addr.Addr().String()})
	token, err := n.invite(ctx, c.Key, "log-on of "+user)
	if err != nil {
		log.Error("no token for a log-on", "err", err)
		var told *mesh.RefusedError
		if errors.As(err, &told) {
			return nil, told
		}
		return nil, &mesh.RefusedError{Reason: "no token could be made", Hint: "the log of that gateway says why"}
	}
	log.Info("log-on: a token was given out")
	return []byte(token.Secret), nil
}

// waitTurn waits as long as a log-on is slowed, and then for its turn among all that are.
func (n *Node) waitTurn(ctx context.Context, user string, slow time.Duration) error {
	err := sleep(ctx, slow)
	for slow > 0 && err == nil && !n.logons.turn(user, time.Now()) {
		err = sleep(ctx, rand.N(logonTurn))
	}
	return err
}

// checkPassword says whether a user has a password, and whether an evicted gateway may know it. It takes as long for a
// user who does not exist.
func (n *Node) checkPassword(ctx context.Context, user, password string) (is, stale bool, err error) {
	u, err := n.store.User(user)
	if err != nil && !errors.Is(err, cluster.ErrNotFound) {
		return false, false, err
	}
	v, ok := parseVerifier(u.Verifier)
	if !ok || u.Role != cluster.RoleAdmin || u.Suspended {
		v = nobody()
	}
	is, err = v.is(ctx, password)
	return is, u.Stale, err
}

// clipText cuts what a stranger said to what a log line should have of it.
func clipText(s string) string { return s[:min(len(s), 64)] }

// Logon is how a newcomer asks the person that starts it. Its functions are called at most once, in this order.
type Logon struct {
	User string
	// Trust says whether a fingerprint is that of the member. Nothing is sent before.
	Trust    func(where netip.AddrPort, fingerprint string) error
	Password func() (string, error)
}

// logOn gets a join token from the member at target for an administrator's password.
func (n *Node) logOn(ctx context.Context, target string) (string, error) {
	at, member, err := n.meet(ctx, target)
	if err != nil {
		return "", err
	}
	if err := n.cfg.Logon.Trust(at, member.String()); err != nil {
		return "", err
	}
	password, err := n.cfg.Logon.Password()
	if err != nil {
		return "", err
	}
	token, err := mesh.Logon(ctx, mesh.LogonConfig{
		Key: n.key, Member: member, Name: n.name, Version: n.cfg.Version, Network: n.cfg.Network,
		User: n.cfg.Logon.User, Password: password,
	}, at)
	return string(token), logonError(at, err)
}

// logOnFirst makes a log-on the join by token that it ends in. A token of before is used first, while it is good.
func (n *Node) logOnFirst(ctx context.Context) error {
	if n.cfg.Logon == nil || n.cfg.Token != nil && n.cfg.Now().Before(n.cfg.Token.expires()) {
		return nil
	}
	text, err := n.logOn(ctx, n.cfg.Join)
	if err != nil {
		return err
	}
	t, err := ParseJoinToken(text)
	if err != nil {
		return fmt.Errorf("what a log-on gives: %w", err)
	}
	n.cfg.Token = &t
	return n.noteJoining()
}

// meet returns who answers first at host[:port].
func (n *Node) meet(ctx context.Context, target string) (at netip.AddrPort, who mesh.ID, err error) {
	addrs, err := resolve(ctx, target)
	if err != nil {
		return at, who, err
	}
	for _, at = range addrs {
		limited, cancel := context.WithTimeout(ctx, joinTimeout)
		who, err = mesh.Meet(limited, n.key, n.cfg.Network, at)
		cancel()
		if err == nil {
			return at, who, nil
		}
	}
	return at, who, unreachable(target, err)
}

func unreachable(target string, err error) error {
	return hintf("the address is that of a running gateway's mesh, TCP port "+DefaultMesh[1:]+" unless it was given another",
		"no gateway answers at %s: %w", target, err)
}

// logonError adds what to do.
func logonError(at netip.AddrPort, err error) error {
	var refused *mesh.RefusedError
	var other *mesh.OtherError
	switch {
	case errors.As(err, &refused):
		return &HintError{Err: fmt.Errorf("log on at %s: %s", at, refused.Reason), Hint: refused.Hint}
	case errors.As(err, &other):
		return hintf("somebody may be in between: find out before you log on", "%w", err)
	}
	return err
}
