package node

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/fxamacker/cbor/v2"
	"golang.org/x/sync/errgroup"

	"gatemesh/cluster"
	"gatemesh/mesh"
	"gatemesh/node/api"
)

// Bounds of wrong claim codes.
const (
	claimTries   = 5 // from one address; a code is not guessed from many either
	claimLockout = 10 * time.Minute
	// claimedTimeout is how long a gateway that is claimed tries whether it reaches those who claim it.
	claimedTimeout = 10 * time.Second
)

// candidacy is what a gateway that is claimed says of itself, and what a member must not believe without the code.
type candidacy struct {
	Name      string `cbor:"1,keyasint,omitempty"`
	Version   string `cbor:"2,keyasint,omitempty"`
	Cluster   []byte `cbor:"3,keyasint"` // 16 bytes
	Devices   int    `cbor:"4,keyasint,omitempty"`
	Gateways  int    `cbor:"5,keyasint,omitempty"`
	Connected int    `cbor:"6,keyasint,omitempty"`
	Key       []byte `cbor:"7,keyasint"` // with which it will join
}

// claimOffer is what a member offers it.
type claimOffer struct {
	Token   string `cbor:"1,keyasint"`
	Devices int    `cbor:"2,keyasint,omitempty"` // how many an administrator has agreed to lose
	Force   bool   `cbor:"3,keyasint,omitempty"` // also if other gateways are connected
	By      string `cbor:"4,keyasint,omitempty"` // who offers, for people
}

// covers returns a *mesh.RefusedError if nobody has agreed to lose so many devices.
func (o claimOffer) covers(devices int) error {
	if devices <= o.Devices {
		return nil
	}
	return &mesh.RefusedError{
		Reason: fmt.Sprintf("it has %d devices by now, not %d", devices, o.Devices), Hint: "look again",
	}
}

// claimAnswer is what comes of an offer.
type claimAnswer struct {
	Saved string `cbor:"1,keyasint"` // where it keeps what it was
}

var claimMode = must(cbor.DecOptions{
	DupMapKey: cbor.DupMapKeyEnforcedAPF, IndefLength: cbor.IndefLengthForbidden, TagsMd: cbor.TagsForbidden,
	MaxNestedLevels: 4, MaxArrayElements: 16, MaxMapPairs: 64,
}.DecMode())

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

const maxClaimText = 4 << 10

func parseCandidacy(b []byte) (c candidacy, err error) {
	if err := claimMode.Unmarshal(b, &c); err != nil {
		return candidacy{}, fmt.Errorf("what the gateway says of itself: %w", err)
	}
	if len(c.Cluster) != 16 || len(c.Key) != ed25519.PublicKeySize || len(c.Name) > 64 || len(c.Version) > 64 ||
		c.Devices < 0 || c.Gateways < 0 || c.Connected < 0 {
		return candidacy{}, errors.New("what the gateway says of itself makes no sense")
	}
	return c, nil
}

func parseClaimOffer(b []byte) (o claimOffer, err error) {
	if err := claimMode.Unmarshal(b, &o); err != nil {
		return claimOffer{}, fmt.Errorf("offer: %w", err)
	}
	if len(o.Token) > maxClaimText || len(o.By) > maxClaimText || o.Devices < 0 {
		return claimOffer{}, errors.New("the offer makes no sense")
	}
	return o, nil
}

// claimable is this gateway as those see it who claim it. It implements [mesh.Claims].
type claimable struct {
	n     *Node
	p     *parts
	tries tries
	next  ed25519.PrivateKey // with which it would join
	seed  string

	mu   sync.Mutex // held while an offer is looked at, and guards the field below
	gone bool       // an offer was accepted
}

var _ mesh.Claims = (*claimable)(nil)

func newClaimable(n *Node, p *parts) *claimable {
	c := &claimable{n: n, p: p, tries: tries{each: claimTries, lockout: claimLockout}}
	c.seed, c.next = newSeed()
	return c
}

// Try implements [mesh.Claims].
func (c *claimable) Try(from netip.Addr) ([32]byte, error) {
	code, err := readClaimCode(c.n.cfg.Data)
	if err != nil {
		c.n.log.Error("be claimed", "err", err)
	}
	if code == "" {
		return [32]byte{}, &mesh.RefusedError{
			Reason: "nobody has asked that gateway for a claim code", Hint: "run `gatemesh claim-code` there",
		}
	}
	if wait := c.tries.begin(from.Unmap().String(), c.n.cfg.Now()); wait > 0 {
		c.n.strangers.Warn("claim refused: too many wrong codes", "from", from)
		return [32]byte{}, &mesh.RefusedError{
			Reason: "too many wrong claim codes; none is looked at for another " + minutes(wait),
			Hint:   "wait; `gatemesh claim-code` there shows the code",
		}
	}
	return code.secret(), nil
}

// Right implements [mesh.Claims].
func (c *claimable) Right(from netip.Addr) ([]byte, error) {
	c.tries.right(from.Unmap().String())
	about, err := c.about()
	if err != nil {
		return nil, err
	}
	return cbor.Marshal(about)
}

func (c *claimable) about() (candidacy, error) {
	n, p := c.n, c.p
	admitted, err := n.store.Admissions()
	out := candidacy{
		Name: n.offers().Name, Version: n.cfg.Version, Cluster: p.facts.cluster[:], Devices: n.store.CountDevices(),
		Gateways: len(admitted), Key: c.next.Public().(ed25519.PublicKey),
	}
	for _, m := range p.mesh.Members() {
		if m.Status == mesh.Alive {
			out.Connected++
		}
	}
	return out, err
}

// Take implements [mesh.Claims]: it notes that this gateway begins anew, as a newcomer that joins with the token.
func (c *claimable) Take(ctx context.Context, secret [32]byte, offer []byte) ([]byte, error) {
	o, err := parseClaimOffer(offer)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	token, err := c.examine(ctx, secret, o)
	if err != nil {
		return nil, err
	}
	note := resetNote{Saved: savedName(c.n.cfg.Now()), Seed: c.seed, Token: o.Token}
	saved, err := c.n.noteReset(note, func() error {
		has, err := c.n.settledDevices(ctx)
		if err != nil {
			return err
		}
		return o.covers(has)
	})
	var busy *api.Error
	if errors.As(err, &busy) {
		return nil, &mesh.RefusedError{Reason: busy.Message, Hint: busy.Hint}
	}
	if err != nil {
		return nil, err
	}
	c.gone = true
	c.n.log.Warn("this gateway was claimed: it leaves its cluster and joins another", "by", o.By,
		"cluster", clusterName([16]byte(token.Cluster)), "saved", saved)
	return cbor.Marshal(claimAnswer{Saved: saved})
}

// Taken implements [mesh.Claims].
func (c *claimable) Taken() { c.n.giveUp() }

// examine says why an offer is not accepted.
func (c *claimable) examine(ctx context.Context, secret [32]byte, o claimOffer) (JoinToken, error) {
	refuse := func(hint, format string, args ...any) (JoinToken, error) {
		return JoinToken{}, &mesh.RefusedError{Reason: fmt.Sprintf(format, args...), Hint: hint}
	}
	code, err := readClaimCode(c.n.cfg.Data)
	if err != nil || code == "" || code.secret() != secret {
		return refuse("`gatemesh claim-code` there shows the new one", "the claim code was renewed meanwhile")
	}
	about, err := c.about()
	if err != nil {
		return JoinToken{}, err
	}
	token, err := ParseJoinToken(o.Token)
	switch {
	case err != nil:
		return refuse("", "the offer holds no join token")
	case c.gone:
		return refuse("", "it is on its way to a cluster already")
	case string(token.Cluster) == string(about.Cluster):
		return refuse("", "it is a gateway of this cluster already")
	case about.Connected > 0 && !o.Force:
		return refuse("remove it there first, or use --force: they go on without it", "%d other gateways are connected to it",
			about.Connected)
	}
	if err := o.covers(about.Devices); err != nil {
		return JoinToken{}, err
	}
	if err := c.n.store.Refusal(); err != nil {
		return refuse("make room there", "%v", err)
	}
	if err := c.n.reaches(ctx, token); err != nil {
		return refuse("let it through to the TCP and UDP port of the mesh, 7946 unless told otherwise",
			"it does not reach any gateway of the cluster itself: %v", err)
	}
	return token, nil
}

// reaches says whether one of a token's members answers.
func (n *Node) reaches(ctx context.Context, t JoinToken) error {
	ctx, cancel := context.WithTimeout(ctx, claimedTimeout)
	defer cancel()
	found := make(chan struct{}, len(t.Places))
	var g errgroup.Group
	for _, place := range t.Places {
		g.Go(func() error {
			addrs, err := resolve(ctx, place.Addr)
			for _, a := range addrs {
				var id mesh.ID
				if id, err = mesh.Meet(ctx, n.key, n.cfg.Network, a); err == nil && string(id[:]) != string(place.Node) {
					err = &mesh.OtherError{Want: mesh.ID(place.Node), Got: id}
				}
				if err == nil {
					found <- struct{}{}
					cancel()
					return nil
				}
			}
			return err
		})
	}
	err := g.Wait()
	if len(found) > 0 {
		return nil
	}
	return err
}

// ClaimCode implements [api.Claims].
func (n *Node) ClaimCode(ctx context.Context, q api.ClaimCodeQuery) (api.ClaimCode, error) {
	p, err := n.running()
	if err != nil {
		return api.ClaimCode{}, err
	}
	action := "show"
	code, err := readClaimCode(n.cfg.Data)
	if q.Renew || err == nil && code == "" {
		action = "renew"
		code, err = renewClaimCode(n.cfg.Data)
	}
	var hint *HintError
	if errors.As(err, &hint) {
		return api.ClaimCode{}, api.Errorf(api.Unavailable, hint.Hint, "%v", hint)
	}
	if err != nil {
		return api.ClaimCode{}, err
	}
	n.note(ctx, action, "claim code")
	return api.ClaimCode{
		Code: code.String(), Mesh: p.mesh.Addr().String(),
		Fingerprint: cluster.Node(p.mesh.ID()).String(),
	}, nil
}
