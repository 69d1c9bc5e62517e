package node

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"gatemesh/mesh"
)

// door is where a newcomer asks to be let in.
type door struct {
	addr   netip.AddrPort
	member []byte // fingerprint of who must answer; nil: anybody who knows the key
}

func doorsAt(addrs []netip.AddrPort) (doors []door) {
	for _, a := range addrs {
		doors = append(doors, door{addr: a})
	}
	return doors
}

func addrsOf(doors []door) (addrs []netip.AddrPort) {
	for _, d := range doors {
		addrs = append(addrs, d.addr)
	}
	return addrs
}

// doors returns where --join leads. An address of a token that cannot be resolved is left out unless it is the only
// one.
func (n *Node) doors(ctx context.Context) (doors []door, err error) {
	if n.cfg.Token == nil {
		addrs, err := resolve(ctx, n.cfg.Join)
		return doorsAt(addrs), err
	}
	for _, p := range n.cfg.Token.Places {
		addrs, e := resolve(ctx, p.Addr)
		err = errors.Join(err, e)
		for _, a := range addrs {
			doors = append(doors, door{a, p.Node})
		}
	}
	if len(doors) > 0 {
		err = nil
	}
	return doors, err
}

// credential returns what is proven at a door.
func (n *Node) credential(d door) mesh.Credential {
	if t := n.cfg.Token; t != nil {
		return t.credential(d.member)
	}
	return mesh.Credential{Secret: *n.cfg.Key, Member: d.member}
}

// credential returns the token as it is proven to one member.
func (t JoinToken) credential(member []byte) mesh.Credential {
	return mesh.Credential{Kind: mesh.CredentialToken, ID: t.encoded, Secret: t.secret, Member: member}
}

// joinError says why nobody let us in: a decision first, then another key, then whatever came last. It has a hint if
// there is no use in trying again.
func (n *Node) joinError(doors []door, results []error) (last error) {
	var wrong error
	strangers := 0
	for i, r := range results {
		var no *mesh.RefusedError
		switch {
		case errors.As(r, &no) && no.Final:
			hint := no.Hint
			if hint == "" {
				hint = "ask whoever looks after the cluster"
			}
			return &HintError{fmt.Errorf("the gateway at %s refuses: %w", doors[i].addr, &plain{no}), hint}
		case errors.As(r, &no) && no.Version():
			wrong = hintf("update the older of the two gateways", "the gateway at %s refuses: %w", doors[i].addr, &plain{no})
		case errors.Is(r, mesh.ErrWrongKey):
			wrong = n.wrongKey(doors[i].addr)
		case errors.Is(r, mesh.ErrWrongMember):
			strangers++
			last = r
		case last == nil || !errors.Is(r, context.Canceled):
			last = r
		}
	}
	switch {
	case wrong != nil:
		return wrong
	case strangers > 0 && strangers == len(results):
		where := slices.Compact(addrsOf(doors))
		return hintf("make another token if the gateways were installed anew; else somebody stands between",
			"another gateway than the one that the join token names answers at %v", listedAddrs(where))
	}
	return last
}

func (n *Node) wrongKey(at netip.AddrPort) error {
	if n.cfg.Token != nil {
		return hintf(anotherToken, "the cluster at %s did not make this join token", at)
	}
	return hintf("use the key that `gatemesh key show` prints at a member of that cluster",
		"the cluster at %s has another key", at)
}

func listedAddrs(addrs []netip.AddrPort) string {
	var names []string
	for _, a := range addrs {
		names = append(names, a.String())
	}
	return listed(names)
}

// plain is a refusal without the word refused, which stands before it.
type plain struct{ *mesh.RefusedError }

func (p *plain) Error() string { return p.Reason }
func (p *plain) Unwrap() error { return p.RefusedError }
