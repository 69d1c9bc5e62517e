package node

import (
	"context"
	"fmt"
	"strings"
	"time"

	"gatemesh/cluster"
	"gatemesh/mesh"
	"gatemesh/node/api"
)

// ListGateways implements [api.Gateways].
func (n *Node) ListGateways(context.Context) ([]api.Gateway, error) {
	p, err := n.running()
	if err != nil {
		return nil, err
	}
	known, err := n.store.Gateways()
	if err != nil {
		return nil, err
	}
	admissions, err := n.store.Admissions()
	if err != nil {
		return nil, err
	}
	admitted, names := map[cluster.Node]cluster.Admission{}, map[cluster.Node]string{}
	for _, a := range admissions {
		id := cluster.NodeOf(a.Key)
		admitted[id], names[id] = a, a.Name
	}
	for _, g := range known {
		names[g.Node] = g.Name
	}
	members := map[cluster.Node]mesh.Member{}
	for _, m := range p.mesh.Members() {
		members[cluster.Node(m.ID)] = m
	}
	out := make([]api.Gateway, 0, len(known))
	for _, g := range known {
		l := n.gateway(p, g, members)
		if a, ok := admitted[g.Node]; ok {
			l.Admitted, l.AdmittedBy = &a.At, gatewayName(a.Sponsor, names)
		}
		out = append(out, l)
	}
	return out, nil
}

// gatewayName is what people call a gateway: its id if it has no name any more.
func gatewayName(id cluster.Node, names map[cluster.Node]string) string {
	if name := names[id]; name != "" {
		return name
	}
	return id.String()
}

// gateway joins what a gateway's entry, its heartbeats and the mesh say.
func (n *Node) gateway(p *parts, g cluster.Gateway, members map[cluster.Node]mesh.Member) api.Gateway {
	out := api.Gateway{
		Name: g.Name, ID: g.Node.String(), State: api.Failed, Capacity: g.Capacity, Public: g.Public,
		Version: g.Version, OS: g.OS, Arch: g.Arch, Hostname: g.Hostname, Started: g.Started,
		Role: roleOf(g.Standby), Addresses: []string{}, Format: max(1, g.Format),
	}
	for _, a := range g.Mesh {
		out.Addresses = append(out.Addresses, a.String())
	}
	if len(g.Mesh) > 0 {
		out.Mesh = g.Mesh[0].String()
	}
	if g.Node == n.self {
		out.State, out.Serving, out.Draining = api.Alive, p.ready.Load(), p.draining.Load()
		out.Sessions, out.ReadOnly, out.Since = p.vpn.Count(), n.store.Room().ReadOnly, &n.started
		return out
	}
	m, ok := members[g.Node]
	if gone, err := n.store.Departed(g.Node); err == nil && gone {
		out.State = api.Left
		return out
	}
	if !ok {
		return out
	}
	out.Since, out.Protocol = &m.Since, m.Protocol
	switch m.Status {
	case mesh.Alive:
		r, _ := p.peers.report(g.Node)
		out.State, out.Serving, out.Draining = api.Alive, r.Serving, r.Draining
		out.Sessions, out.ReadOnly = r.Sessions, r.ReadOnly
		out.Mesh = m.Addr.String()
		if m.Linked && m.RTT > 0 {
			out.RoundTrip = milliseconds(m.RTT)
		}
		if d, known := p.peers.clock(g.Node); known {
			out.ClockOffset = milliseconds(d)
		}
	case mesh.Left:
		out.State = api.Left
	}
	return out
}

func milliseconds(d time.Duration) *float64 {
	ms := float64(d.Microseconds()) / 1000
	return &ms
}

// protocolText is the versions of the protocol that this gateway speaks: "1", "1-2".
func protocolText() string {
	oldest, newest := mesh.Protocol()
	if oldest == newest {
		return fmt.Sprint(oldest)
	}
	return fmt.Sprintf("%d-%d", oldest, newest)
}

// Compatibility returns the versions of the protocol that this program speaks, and the newest data format that it
// understands.
func Compatibility() (protocol string, format int) { return protocolText(), cluster.Format }

// oneGateway returns one gateway as the list has it.
func (n *Node) oneGateway(ctx context.Context, id cluster.Node) (api.Gateway, error) {
	all, err := n.ListGateways(ctx)
	if err != nil {
		return api.Gateway{}, err
	}
	for _, g := range all {
		if g.ID == id.String() {
			return g, nil
		}
	}
	return api.Gateway{}, gatewayError(id.String(), cluster.ErrNotFound)
}

// ChangeGateway implements [api.Administration].
func (n *Node) ChangeGateway(ctx context.Context, ref string, c api.GatewayChange) (api.Gateway, error) {
	if _, err := n.running(); err != nil {
		return api.Gateway{}, err
	}
	g, err := n.store.FindGateway(ref)
	if err != nil {
		return api.Gateway{}, gatewayError(ref, err)
	}
	if err := n.checkChange(g, c); err != nil {
		return api.Gateway{}, err
	}
	err = n.store.EditGateway(ctx, g.Node, func(g *cluster.Gateway) {
		if c.Name != nil {
			g.Name = *c.Name
		}
		if c.Public != nil {
			g.Public = *c.Public
		}
		if c.Capacity != nil {
			g.Capacity = *c.Capacity
		}
	})
	if err != nil {
		return api.Gateway{}, err
	}
	n.log.Info("gateway changed", "gateway", g.Name, "id", g.Node)
	return n.oneGateway(ctx, g.Node)
}

// checkChange refuses what no gateway would start with.
func (n *Node) checkChange(g cluster.Gateway, c api.GatewayChange) error {
	want := Config{Data: "-"}
	if c.Name != nil {
		if want.Name = *c.Name; want.Name == "" {
			return api.Errorf(api.Invalid, "use letters, digits, '-', '_' and '.', 63 at most", "a gateway has a name")
		}
		all, err := n.store.Gateways()
		if err != nil {
			return err
		}
		for _, other := range all {
			if other.Node != g.Node && other.Name == want.Name {
				return api.Errorf(api.Exists, "choose another, or rename that gateway first", "gateway %s is called %q already",
					other.Node, want.Name)
			}
		}
	}
	if c.Public != nil {
		if want.Public = *c.Public; want.Public == "" {
			return api.Errorf(api.Invalid, "use --public HOST:PORT as devices reach it", "public address \"\" is not HOST:PORT")
		}
	}
	if c.Capacity != nil {
		if want.Capacity = *c.Capacity; want.Capacity == 0 {
			want.Capacity = -1 // zero is "not given" to Validate
		}
	}
	if err := want.Validate(); err != nil {
		hint := ""
		if h, ok := err.(*HintError); ok { //nolint:errorlint // it is made by hintf, and not wrapped
			hint = h.Hint
		}
		return api.Errorf(api.Invalid, hint, "%s", strings.Replace(err.Error(), "capacity -1", "capacity 0", 1))
	}
	return nil
}

// reportWait is how long the first report of a gateway that is linked just now is waited for.
const reportWait = time.Second

// SetRole implements [api.Administration].
func (n *Node) SetRole(ctx context.Context, ref string, r api.RoleChange) (api.RoleChanged, error) {
	out := api.RoleChanged{}
	p, err := n.running()
	if err != nil {
		return out, err
	}
	if r.Role != api.Active && r.Role != api.Standby {
		return out, api.Errorf(api.Invalid, "use active or standby", "there is no role %q", r.Role)
	}
	g, err := n.store.FindGateway(ref)
	if err != nil {
		return out, gatewayError(ref, err)
	}
	for end := time.Now().Add(reportWait); g.Node != n.self && p.peers.isAlive(g.Node) && time.Now().Before(end); {
		if _, reported := p.peers.report(g.Node); reported || sleep(ctx, askAgain) != nil {
			break
		}
	}
	all, err := n.ListGateways(ctx)
	if err != nil {
		return out, err
	}
	against, hint := objection(all, g.Node.String(), r.Role)
	if against != "" && !r.Force {
		return out, api.Errorf(api.Unavailable, hint+", or override this with --force", "%s", against)
	}
	out.Warning = against
	standby := r.Role == api.Standby
	if standby != g.Standby {
		if err := n.store.EditGateway(ctx, g.Node, func(g *cluster.Gateway) { g.Standby = standby }); err != nil {
			return out, err
		}
		n.log.Info("role changed", "gateway", g.Name, "id", g.Node, "role", r.Role, "despite", against)
	}
	out.Gateway, err = n.oneGateway(ctx, g.Node)
	return out, err
}

// objection says what speaks against a role for one of the gateways, and what to do; "" if nothing does. An active
// gateway takes devices at once, so its data path must work; the last one that works must stay.
func objection(all []api.Gateway, id, role string) (text, hint string) {
	others := false
	var it api.Gateway
	for _, g := range all {
		if g.ID == id {
			it = g
		} else if g.State == api.Alive && g.Serving && !g.Draining && g.Role == api.Active {
			others = true
		}
	}
	switch {
	case it.Role == role:
		return "", ""
	case role == api.Standby && !others:
		return fmt.Sprintf("%s is the only active gateway that takes devices", it.Name), "promote another one first"
	case role == api.Standby:
		return "", ""
	case it.State != api.Alive:
		return fmt.Sprintf("%s is not connected (%s)", it.Name, it.State), "start it first"
	case !it.Serving:
		return fmt.Sprintf("the data path of %s does not work", it.Name), "look at its log and at `gatemesh doctor` there"
	}
	return "", ""
}
