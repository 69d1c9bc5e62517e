package node

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"time"

	"gatemesh/cluster"
)

// offer is what a gateway is called and what it offers to devices: what its start says of that, and what an
// administrator may change from any gateway.
type offer struct {
	Name     string `json:"name,omitempty"`
	Public   string `json:"public,omitempty"` // host:port
	Capacity int    `json:"capacity,omitempty"`
	Standby  bool   `json:"standby,omitempty"`
}

// told is what a gateway remembers of its last start, in its own entry: what it was told (zero values: it was left
// to itself), and what it wrote.
type told struct {
	Asked offer `json:"asked"`
	Wrote offer `json:"wrote"`
}

// settle says what is to stand after a start that asks for asked, which makes it own. A start that asks for
// something else than the last one has its way: somebody typed that just now. Else what an administrator has changed
// since stands, that is what is not as this gateway wrote it; flags are remembered and configuration files stay as
// they are, so their word is the older one. It returns what to remember, too.
func settle(asked, own, stands offer, last told) (is offer, now told) {
	now = told{asked, last.Wrote}
	is.Name = pick(asked.Name, last.Asked.Name, own.Name, stands.Name, &now.Wrote.Name)
	is.Public = pick(asked.Public, last.Asked.Public, own.Public, stands.Public, &now.Wrote.Public)
	is.Capacity = pick(asked.Capacity, last.Asked.Capacity, own.Capacity, stands.Capacity, &now.Wrote.Capacity)
	is.Standby = pick(asked.Standby, last.Asked.Standby, own.Standby, stands.Standby, &now.Wrote.Standby)
	return is, now
}

func pick[T comparable](asked, before, own, stands T, wrote *T) T {
	if asked == before && stands != *wrote {
		return stands
	}
	*wrote = own
	return own
}

// asked is what this start says.
func (n *Node) asked() offer {
	return offer{n.cfg.Name, n.cfg.Public, n.cfg.Capacity, n.cfg.Standby}
}

// offers returns what this gateway is called and offers now.
func (n *Node) offers() offer {
	if o := n.offer.Load(); o != nil {
		return *o
	}
	o := n.asked()
	o.Name = n.name
	return o
}

func offerOf(g cluster.Gateway) offer { return offer{g.Name, g.Public, g.Capacity, g.Standby} }

func toldBy(g cluster.Gateway) (t told) {
	_ = json.Unmarshal([]byte(g.Told), &t) // what cannot be read was never told
	return t
}

// announceSelf writes what this gateway says of itself, and takes up what stands.
func (n *Node) announceSelf(ctx context.Context, p *parts) error {
	host, err := os.Hostname()
	if err != nil {
		host = ""
	}
	own := n.asked()
	own.Name, own.Public = n.name, n.publicAddress(p)
	err = n.store.EditGateway(ctx, n.self, func(g *cluster.Gateway) {
		is, now := settle(n.asked(), own, offerOf(*g), toldBy(*g))
		if g.Told == "" && n.cfg.Token != nil && n.cfg.Token.Standby {
			is.Standby = true // whoever made the token wants it; now says that it was not us
		}
		text, _ := json.Marshal(now) // a struct of texts and numbers always encodes
		*g = cluster.Gateway{
			Node: n.self, Name: is.Name, Public: is.Public, Capacity: is.Capacity, Standby: is.Standby, Told: string(text),
			Mesh: []netip.AddrPort{p.mesh.Addr()}, OS: runtime.GOOS, Arch: runtime.GOARCH, Hostname: host,
			Version: n.cfg.Version, Format: cluster.Format, Started: n.started.UTC().Truncate(time.Second),
		}
	})
	if err != nil {
		n.offer.CompareAndSwap(nil, &own)
		return fmt.Errorf("write own entry: %w", err)
	}
	return n.adopt(p)
}

// adopt takes up what stands of this gateway, whoever wrote it.
func (n *Node) adopt(p *parts) error {
	g, err := n.store.Gateway(n.self)
	if err != nil {
		return fmt.Errorf("read own entry: %w", err)
	}
	is, was := offerOf(g), n.offers()
	if is.Capacity < 1 {
		is.Capacity = was.Capacity // what cannot be was not written by us
	}
	if n.offer.Swap(&is) == nil || is == was {
		return nil
	}
	n.log.Info("this gateway was changed", "name", is.Name, "public", is.Public, "capacity", is.Capacity, "role",
		roleOf(is.Standby))
	n.turnRole(p, was.Standby, is.Standby)
	return nil
}

// publicAddress is what devices are told unless an administrator says otherwise: the flag, else the address at which
// the other gateways see this one.
func (n *Node) publicAddress(p *parts) string {
	if n.cfg.Public != "" {
		return n.cfg.Public
	}
	return netip.AddrPortFrom(p.mesh.Addr().Addr(), p.vpn.Port()).String()
}

// chooseName settles what the gateway is called at its start: as it was told, or an administrator has said since,
// else as it was called before, else by its host, made unique among the gateways known.
func (n *Node) chooseName() error {
	gateways, err := n.store.Gateways()
	if err != nil {
		return fmt.Errorf("read gateways: %w", err)
	}
	name := hostname()
	var mine cluster.Gateway
	for _, g := range gateways {
		switch {
		case g.Node == n.self:
			mine = g
		case g.Name == name:
			name += "-" + n.self.String()[:4]
		}
	}
	switch {
	case n.cfg.Name != "":
		name = n.cfg.Name
	case mine.Name != "":
		name = mine.Name
	}
	own := n.asked()
	own.Name = name
	is, _ := settle(n.asked(), own, offerOf(mine), toldBy(mine))
	n.name = is.Name
	return nil
}
