package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/fxamacker/cbor/v2"

	"gatemesh/cluster"
	"gatemesh/mesh"
)

// kindSpend asks the issuer of a join token to spend a use of it for a newcomer that has proven the token.
const kindSpend = "spend"

const (
	spendTimeout = 5 * time.Second
	confirmWait  = 3 * time.Second // for a peer to tell the issuer what it knows, when it has just started
	confirmPause = 100 * time.Millisecond
)

// spending is the payload of a kindSpend.
type spending struct {
	Token []byte `cbor:"1,keyasint"` // 16 bytes
	By    []byte `cbor:"2,keyasint"` // 16 bytes
}

// spent is the answer: empty, or why not.
type spent struct {
	Reason string `cbor:"1,keyasint,omitempty"`
	Hint   string `cbor:"2,keyasint,omitempty"`
}

// spend spends a use of a token for a newcomer, at its issuer. What it refuses is a *mesh.RefusedError.
func (n *Node) spend(ctx context.Context, p *parts, issuer cluster.Node, id cluster.TokenID, by cluster.Node) error {
	if issuer == n.self {
		return n.spendHere(ctx, id, by)
	}
	ctx, cancel := context.WithTimeout(ctx, spendTimeout)
	defer cancel()
	payload, err := cbor.Marshal(spending{id[:], by[:]})
	if err != nil {
		return fmt.Errorf("encode spending: %w", err)
	}
	b, err := p.mesh.Call(ctx, mesh.ID(issuer), kindSpend, payload)
	var remote *mesh.RemoteError
	if errors.As(err, &remote) {
		return fmt.Errorf("ask the token's issuer: %w", err)
	}
	if err != nil {
		name := issuer.String()
		if g, err := n.store.Gateway(issuer); err == nil {
			name = cmp.Or(g.Name, name)
		}
		return &mesh.RefusedError{
			Reason: fmt.Sprintf("gateway %s, which made the join token and counts its uses, is out of reach", name),
			Hint:   "try again when it is back, or make another token at a gateway that is up",
		}
	}
	var a spent
	switch {
	case cbor.Unmarshal(b, &a) != nil:
		return errors.New("the token's issuer gave an answer that makes no sense")
	case a.Reason != "":
		return &mesh.RefusedError{Reason: a.Reason, Hint: a.Hint}
	}
	return nil
}

// onSpend spends for another member.
func (n *Node) onSpend(ctx context.Context, _ mesh.ID, payload []byte) ([]byte, error) {
	var s spending
	if cbor.Unmarshal(payload, &s) != nil || len(s.Token) != len(cluster.TokenID{}) || len(s.By) != len(cluster.Node{}) {
		return nil, errors.New("not a spending")
	}
	var a spent
	err := n.spendHere(ctx, cluster.TokenID(s.Token), cluster.Node(s.By))
	var no *mesh.RefusedError
	switch {
	case errors.As(err, &no):
		a = spent{no.Reason, no.Hint}
	case err != nil:
		return nil, err
	}
	return cbor.Marshal(a)
}

// counts says whether this gateway may spend uses of the tokens that it made: it has caught up with a peer since it
// started, or there is none. Else its disk may be one that was set back to before uses that others know of.
func (n *Node) counts() bool {
	if n.store.TokensConfirmed() {
		return true
	}
	all, err := n.store.Admissions()
	return err == nil && len(all) < 2
}

// tellUncounted says that the tokens of this gateway are not taken yet, if there are any.
func (n *Node) tellUncounted() {
	all, err := n.store.Tokens()
	if err != nil {
		n.log.Error("read tokens", "err", err)
		return
	}
	open := 0
	for _, t := range all {
		if t.Issuer == n.self && !t.Revoked && t.Spent < t.Uses && n.cfg.Now().Before(t.Expires) {
			open++
		}
	}
	if open > 0 && !n.counts() {
		n.log.Warn("join tokens made here are taken once another gateway is heard: only then it is sure which are used",
			"open", open)
	}
}

// spendHere spends a use of a token that this gateway has issued. A gateway that has just started does not know yet
// whether its disk is what it was, and waits for a peer to tell.
func (n *Node) spendHere(ctx context.Context, id cluster.TokenID, by cluster.Node) error {
	if n.counts() {
		n.store.ConfirmTokens()
	}
	for end := time.Now().Add(confirmWait); ; {
		_, err := n.store.SpendToken(ctx, id, [32]byte{}, by)
		if !errors.Is(err, cluster.ErrUnconfirmed) || time.Now().After(end) {
			return refusedSpending(err)
		}
		if err := sleep(ctx, confirmPause); err != nil {
			return err
		}
	}
}

// refusedSpending turns what the store refuses into words for the newcomer.
func refusedSpending(err error) error {
	no := &mesh.RefusedError{Hint: anotherToken}
	switch {
	case errors.Is(err, cluster.ErrNotFound):
		no.Reason = "the join token is not known to the gateway that made it"
	case errors.Is(err, cluster.ErrSpent):
		no.Reason = "the join token is used up"
	case errors.Is(err, cluster.ErrRevoked):
		no.Reason = "the join token was revoked"
	case errors.Is(err, cluster.ErrExpired):
		no.Reason = "the join token has expired"
	case errors.Is(err, cluster.ErrNoRights):
		no.Reason = "the join token was made before the data of its gateway was put back, and counts no more"
	case errors.Is(err, cluster.ErrUnconfirmed):
		no.Reason = "the gateway that made the join token has not heard from another one since it started"
		no.Hint = "start another gateway of the cluster, or join with --key"
	default:
		return err
	}
	return no
}
