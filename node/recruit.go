package node

import (
	"context"
	"crypto/ed25519"
	"errors"
	"net/netip"
	"time"

	"github.com/fxamacker/cbor/v2"

	"gatemesh/cluster"
	"gatemesh/mesh"
	"gatemesh/node/api"
)

const (
	// claimTimeout bounds one conversation with a gateway that is claimed.
	claimTimeout = time.Minute
	// joinedWait is how long a member waits for a gateway that it has claimed.
	joinedWait  = time.Minute
	joinedEvery = 100 * time.Millisecond
)

// LookAt implements [api.Claims].
func (n *Node) LookAt(ctx context.Context, a api.GatewayAt) (api.Candidate, error) {
	p, err := n.running()
	if err != nil {
		return api.Candidate{}, err
	}
	var out api.Candidate
	_, err = n.claim(ctx, a, func(_ netip.AddrPort, id mesh.ID, about candidacy) ([]byte, error) {
		out = api.Candidate{
			Fingerprint: id.String(), Name: about.Name, Version: about.Version, Cluster: clusterName([16]byte(about.Cluster)),
			Devices: about.Devices, Gateways: about.Gateways, Connected: about.Connected,
		}
		return nil, n.stranger(p, about)
	})
	return out, claimError(a.Address, err)
}

// AddGateway implements [api.Claims].
func (n *Node) AddGateway(ctx context.Context, a api.GatewayAt) (out api.AddedGateway, err error) {
	p, err := n.running()
	if err != nil {
		return out, err
	}
	if a.Fingerprint == "" {
		return out, api.Errorf(api.Invalid, "look at the gateway first", "no fingerprint is given")
	}
	var next cluster.Node
	var token api.MintedToken
	answer, err := n.claim(ctx, a, func(at netip.AddrPort, _ mesh.ID, about candidacy) ([]byte, error) {
		if err := errors.Join(n.stranger(p, about), n.wanted(at)); err != nil {
			return nil, err
		}
		out.Name, next = about.Name, cluster.NodeOf(about.Key)
		var err error
		if token, err = n.invite(ctx, about.Key, "gateway add "+a.Address); err != nil {
			return nil, err
		}
		return cbor.Marshal(claimOffer{Token: token.Secret, Devices: about.Devices, Force: a.Force, By: n.name})
	})
	if err != nil {
		var refused *mesh.RefusedError
		if token.ID != "" && errors.As(err, &refused) { // else it may have been accepted
			if _, err := n.RevokeToken(ctx, token.ID); err != nil {
				n.log.Warn("a token that nobody wants is open", "id", token.ID, "err", err)
			}
		}
		return out, claimError(a.Address, err)
	}
	var told claimAnswer
	if err := claimMode.Unmarshal(answer, &told); err != nil || len(told.Saved) > maxClaimText {
		return out, errors.New("the gateway was claimed, and gave an answer that makes no sense")
	}
	out.ID, out.Saved = next.String(), told.Saved
	n.log.Info("gateway claimed", "gateway", out.Name, "id", out.ID, "saved", out.Saved)
	out.Joined = n.waitAdmitted(ctx, next)
	return out, nil
}

// claim talks to a gateway that is to be added.
func (n *Node) claim(
	ctx context.Context, a api.GatewayAt, decide func(netip.AddrPort, mesh.ID, candidacy) ([]byte, error),
) ([]byte, error) {
	code, err := ParseClaimCode(a.Code)
	if err != nil {
		return nil, api.Errorf(api.Invalid, "`gatemesh claim-code` at the other gateway shows it: gmc1- and six groups of four",
			"that is not a claim code, or was mistyped")
	}
	cfg := mesh.ClaimConfig{Key: n.key, Secret: code.secret(), Network: n.cfg.Network}
	if a.Fingerprint != "" {
		id, err := cluster.ParseNode(a.Fingerprint)
		if err != nil {
			return nil, api.Errorf(api.Invalid, "it is 32 hex digits, as `gatemesh claim-code` shows it",
				"%q is no fingerprint", a.Fingerprint)
		}
		cfg.Gateway = mesh.ID(id)
	}
	ctx, cancel := context.WithTimeout(ctx, claimTimeout)
	defer cancel()
	addrs, err := resolve(ctx, a.Address)
	var hint *HintError
	if errors.As(err, &hint) {
		return nil, api.Errorf(api.Invalid, "give HOST or HOST:PORT", "%v", err)
	}
	if err != nil {
		return nil, err
	}
	for _, at := range addrs {
		answered := false // then another address would be the same gateway
		var answer []byte
		answer, err = mesh.Claim(ctx, cfg, at, func(id mesh.ID, about []byte) ([]byte, error) {
			answered = true
			c, err := parseCandidacy(about)
			if err != nil {
				return nil, err
			}
			return decide(at, id, c)
		})
		var refused *mesh.RefusedError
		var other *mesh.OtherError
		if err == nil || answered || errors.Is(err, mesh.ErrWrongCode) || errors.As(err, &refused) || errors.As(err, &other) {
			return answer, err
		}
	}
	return nil, err
}

// stranger refuses a gateway of this cluster.
func (n *Node) stranger(p *parts, about candidacy) error {
	if string(about.Cluster) == string(p.facts.cluster[:]) {
		return api.Errorf(api.Exists, "`gatemesh gateway list` shows it", "that is a gateway of this cluster already")
	}
	return nil
}

// wanted refuses what the cluster would refuse when that gateway comes.
func (n *Node) wanted(at netip.AddrPort) error {
	_, err := n.permits(mesh.Newcomer{Addr: at})
	var no *mesh.RefusedError
	if errors.As(err, &no) {
		return api.Errorf(api.Unavailable, no.Hint, "%s", no.Reason)
	}
	return err
}

// invite makes a join token for the holder of a node key.
func (n *Node) invite(ctx context.Context, key ed25519.PublicKey, label string) (api.MintedToken, error) {
	id := cluster.NodeOf(key)
	return n.createToken(ctx, api.NewToken{TTL: int(grantTTL.Seconds()), Uses: 1, Label: label[:min(len(label), 255)]},
		id[:])
}

// waitAdmitted waits until a gateway is a member; false: it is not yet.
func (n *Node) waitAdmitted(ctx context.Context, id cluster.Node) bool {
	ctx, cancel := context.WithTimeout(ctx, joinedWait)
	defer cancel()
	for {
		if _, ok, err := n.store.Admitted(id); err == nil && ok {
			return true
		}
		if sleep(ctx, joinedEvery) != nil {
			return false
		}
	}
}

// claimError says what to do.
func claimError(where string, err error) error {
	var ours *api.Error
	var refused *mesh.RefusedError
	var other *mesh.OtherError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &ours):
		return ours
	case errors.As(err, &refused):
		return api.Errorf(api.Unavailable, refused.Hint, "the gateway at %s refuses: %s", where, refused.Reason)
	case errors.Is(err, mesh.ErrWrongCode):
		return api.Errorf(api.Invalid, "`gatemesh claim-code` at that gateway shows it",
			"the gateway at %s has another claim code", where)
	case errors.Is(err, mesh.ErrNotMember):
		return api.Errorf(api.Unavailable, "update it", "the gateway at %s cannot be claimed", where)
	case errors.As(err, &other):
		return api.Errorf(api.Invalid, "look again; somebody may be in between", "%v", other)
	}
	return api.Errorf(api.Unavailable,
		"the address is that of its mesh, TCP port "+DefaultMesh[1:]+" unless told otherwise; if it was cut off meanwhile, "+
			"`gatemesh gateway list` shows whether it comes",
		"no gateway to claim answers at %s: %v", where, err)
}
