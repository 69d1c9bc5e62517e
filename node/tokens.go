package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"gatemesh/cluster"
	"gatemesh/mesh"
	"gatemesh/node/api"
)

const (
	tokenTTL     = time.Hour // unless told otherwise
	minTokenTTL  = time.Minute
	maxTokenTTL  = 30 * day
	tokenOthers  = 3       // members beside the issuer that a token names
	tokenKeep    = 7 * day // how long a token is listed after its end
	minTokenRef  = 6       // digits
	anotherToken = "make another with `gatemesh token create` at a member"
)

// tokenTerms is what the cluster keeps of a join token beside its uses: cluster.Token.Purpose.
//
//	join KEY [standby] [from PREFIX]
type tokenTerms struct {
	key     string // keyName in hex
	standby bool
	host    string
}

const tokenPurpose = "join"

func (t tokenTerms) String() string {
	words := []string{tokenPurpose, t.key}
	if t.standby {
		words = append(words, "standby")
	}
	if t.host != "" {
		words = append(words, "from", t.host)
	}
	return strings.Join(words, " ")
}

// parseTerms reads terms; ok is false for a token that is for something else. Words of newer versions are skipped.
func parseTerms(s string) (t tokenTerms, ok bool) {
	words := strings.Fields(s)
	if len(words) < 2 || words[0] != tokenPurpose {
		return t, false
	}
	t.key = words[1]
	for i, w := range words[2:] {
		switch {
		case w == "standby":
			t.standby = true
		case words[1+i] == "from":
			t.host = w
		}
	}
	return t, true
}

// CreateToken implements [api.Tokens].
func (n *Node) CreateToken(ctx context.Context, want api.NewToken) (api.MintedToken, error) {
	return n.createToken(ctx, want, nil)
}

// createToken makes a token that only the gateway bound may use, unless it is nil.
func (n *Node) createToken(ctx context.Context, want api.NewToken, bound []byte) (out api.MintedToken, err error) {
	p, err := n.running()
	if err != nil {
		return out, err
	}
	if err := checkNewToken(&want); err != nil {
		return out, err
	}
	key, err := n.clusterKey()
	if err != nil {
		return out, err
	}
	terms := tokenTerms{fmt.Sprintf("%x", keyName(key)), want.Standby, want.Host}
	expires := n.cfg.Now().Add(time.Duration(want.TTL) * time.Second).Truncate(time.Second)
	made, err := n.store.MintToken(ctx, terms.String(), want.Label, want.Uses, expires, [32]byte{})
	if err != nil {
		return out, apiError("", err)
	}
	t, err := newJoinToken(key, joinClaims{
		Cluster: p.facts.cluster[:], ID: made.ID[:], Expires: expires.Unix(), Uses: want.Uses,
		Standby: want.Standby, Host: want.Host, Places: n.places(p, want.Address), For: bound,
	})
	if err != nil {
		return out, err
	}
	names, err := n.gatewayNames()
	if err != nil {
		return out, err
	}
	n.log.Info("join token made", "id", made.ID, "label", want.Label, "uses", want.Uses, "expires", expires)
	return api.MintedToken{Token: n.token(made, terms, names), Secret: t.String()}, nil
}

// checkNewToken fills in defaults and refuses what cannot be.
func checkNewToken(t *api.NewToken) error {
	t.TTL = cmp.Or(t.TTL, int(tokenTTL.Seconds()))
	t.Uses = cmp.Or(t.Uses, 1)
	switch ttl := time.Duration(t.TTL) * time.Second; {
	case t.TTL < int(minTokenTTL.Seconds()) || t.TTL > int(maxTokenTTL.Seconds()):
		return api.Errorf(api.Invalid, "give --ttl from 1m to 720h", "a token cannot last %v", ttl)
	case t.Uses < 1 || t.Uses > cluster.MaxUses:
		return api.Errorf(api.Invalid, fmt.Sprintf("give --uses from 1 to %d", cluster.MaxUses),
			"a token cannot have %d uses", t.Uses)
	case len(t.Label) > 255:
		return api.Errorf(api.Invalid, "make it shorter", "the label has %d bytes, at most 255 are kept", len(t.Label))
	case len(t.Address) > maxTokenPlace/2:
		return api.Errorf(api.Invalid, "name fewer", "a token cannot hold %d addresses", len(t.Address))
	}
	if t.Host != "" {
		p, err := parseHost(t.Host)
		if err != nil {
			return api.Errorf(api.Invalid, "give --host a prefix such as 192.0.2.0/24, or one address",
				"%q is no prefix of addresses", t.Host)
		}
		t.Host = p.String()
	}
	for i, a := range t.Address {
		host, text, err := net.SplitHostPort(a)
		if err != nil {
			host, text = strings.Trim(a, "[]"), DefaultMesh[1:]
		}
		port, err := strconv.ParseUint(text, 10, 16)
		_, notIP := netip.ParseAddr(host)
		bad := host == "" || notIP != nil && strings.ContainsFunc(host, notInName) || len(a) > maxPlaceAddr-8
		if err != nil || bad || port == 0 {
			return api.Errorf(api.Invalid, "give --address HOST or HOST:PORT", "%q is not an address of this gateway", a)
		}
		t.Address[i] = net.JoinHostPort(host, text)
	}
	return nil
}

// parseHost reads a prefix, or one address.
func parseHost(s string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
		a = a.Unmap()
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	return p.Masked(), err
}

// places lists where a newcomer may ask: this gateway, as it was told, as others see it and as devices reach it, and
// some others.
func (n *Node) places(p *parts, told []string) []joinPlace {
	var out []joinPlace
	add := func(node cluster.Node, addr string) {
		known := func(o joinPlace) bool { return o.Addr == addr }
		if len(out) < maxTokenPlace && !slices.ContainsFunc(out, known) {
			out = append(out, joinPlace{Node: node[:], Addr: addr})
		}
	}
	for _, a := range told {
		add(n.self, a)
	}
	own := p.mesh.Addr()
	add(n.self, own.String())
	if host, _, err := net.SplitHostPort(n.offers().Public); err == nil && host != own.Addr().String() &&
		len(host) < maxPlaceAddr-8 {
		add(n.self, net.JoinHostPort(host, strconv.Itoa(int(own.Port()))))
	}
	others := 0
	for _, m := range p.mesh.Members() {
		if m.Status == mesh.Alive && m.Addr.IsValid() && others < tokenOthers {
			add(cluster.Node(m.ID), m.Addr.String())
			others++
		}
	}
	return out
}

// ListTokens implements [api.Tokens].
func (n *Node) ListTokens(context.Context) ([]api.Token, error) {
	if _, err := n.running(); err != nil {
		return nil, err
	}
	all, err := n.store.Tokens()
	if err != nil {
		return nil, err
	}
	names, err := n.gatewayNames()
	out := []api.Token{}
	for _, t := range all {
		if terms, ok := parseTerms(t.Purpose); ok {
			out = append(out, n.token(t, terms, names))
		}
	}
	return out, err
}

// RevokeToken implements [api.Tokens].
func (n *Node) RevokeToken(ctx context.Context, ref string) (api.Token, error) {
	if _, err := n.running(); err != nil {
		return api.Token{}, err
	}
	t, terms, err := n.findToken(ref)
	if err != nil {
		return api.Token{}, err
	}
	if err := done(n.store.RevokeToken(once(ctx, 0), t.ID)); err != nil {
		return api.Token{}, apiError(ref, err)
	}
	if t, err = n.store.Token(t.ID); err != nil {
		return api.Token{}, err
	}
	names, err := n.gatewayNames()
	n.log.Info("join token revoked", "id", t.ID)
	return n.token(t, terms, names), err
}

// findToken returns the join token whose id begins with ref.
func (n *Node) findToken(ref string) (found cluster.Token, terms tokenTerms, err error) {
	const hint = "`gatemesh token list` shows those there are"
	all, err := n.store.Tokens()
	if err != nil {
		return found, terms, err
	}
	ids := []string{}
	for _, t := range all {
		if x, ok := parseTerms(t.Purpose); ok && len(ref) >= minTokenRef &&
			strings.HasPrefix(t.ID.String(), strings.ToLower(ref)) {
			found, terms, ids = t, x, append(ids, t.ID.String())
		}
	}
	switch len(ids) {
	case 0:
		return found, terms, api.Errorf(api.NotFound, hint, "no token has an id that begins with %q", ref)
	case 1:
		return found, terms, nil
	}
	return found, terms, api.Errorf(api.Ambiguous, "use one of these ids", "%q is ambiguous: %s", ref, listed(ids))
}

// token is a join token for people.
func (n *Node) token(t cluster.Token, terms tokenTerms, names map[cluster.Node]string) api.Token {
	out := api.Token{
		ID: t.ID.String(), Label: t.Note, Gateway: cmp.Or(names[t.Issuer], t.Issuer.String()), Issuer: t.Issuer.String(),
		Uses: t.Uses, Spent: t.Spent, UsedBy: []string{}, Host: terms.host, Standby: terms.standby,
		Created: t.Minted, Expires: t.Expires,
	}
	for _, by := range t.UsedBy {
		out.UsedBy = append(out.UsedBy, cmp.Or(names[by], by.String()))
	}
	keys, err := n.clusterKeys()
	if err != nil {
		n.log.Warn("which tokens hold is not known", "err", err)
	}
	current := slices.ContainsFunc(keys, func(k [32]byte) bool {
		return fmt.Sprintf("%x", keyName(k)) == terms.key
	})
	switch {
	case t.Revoked:
		out.State = api.TokenRevoked
	case t.Spent >= t.Uses:
		out.State = api.TokenUsed
	case n.cfg.Now().After(t.Expires):
		out.State = api.TokenExpired
	case !current:
		out.State = api.TokenInvalid
	case t.Issuer == n.self && !n.counts():
		out.State = api.TokenWaiting
	default:
		out.State = api.TokenOpen
	}
	return out
}

// trimTokens forgets tokens that ended long ago. Those of others go later: their issuers may be gone.
func (n *Node) trimTokens(ctx context.Context) error {
	for sleep(ctx, cutEvery) == nil {
		all, err := n.store.Tokens()
		if err != nil {
			n.log.Error("read tokens", "err", err)
		}
		for _, t := range all {
			keep := time.Duration(tokenKeep)
			if t.Issuer != n.self {
				keep += cutOthers
			}
			if n.cfg.Now().Before(t.Expires.Add(keep)) {
				continue
			}
			if err := n.store.DropToken(ctx, t.ID); err != nil && !errors.Is(err, cluster.ErrNotFound) && ctx.Err() == nil {
				n.log.Error("forget token", "id", t.ID, "err", err)
			}
		}
	}
	return nil
}
