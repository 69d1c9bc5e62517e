package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"gatemesh/cluster"
	"gatemesh/mesh"
	"gatemesh/node/api"
)

// kindReach asks a peer whether it can make a connection to our mesh port: the address. The answer is empty, or why
// not. It also sends probes to our public address.
const kindReach = "reach"

// probes is how many datagrams a peer sends to the public address. They are of no known type: the engine counts those.
const probes = 3

const (
	reachTimeout  = 2 * time.Second
	maxReachAsked = 8
	probeWait     = 2 * time.Second
	clockWarn     = time.Second
	clockFail     = time.Minute
	lookOnLAN     = 1500 * time.Millisecond
	refusalAge    = 10 * time.Minute // older refusals are not told
)

// checkGateways says who is missing, and who refused us or was refused.
func (n *Node) checkGateways(p *parts) (all []api.Check) {
	admitted, err := n.store.Admissions()
	if err != nil {
		return []api.Check{{Name: "gateways", Result: api.Fail, Text: err.Error()}}
	}
	linked := map[cluster.Node]bool{n.self: true}
	for _, m := range p.mesh.Members() {
		linked[cluster.Node(m.ID)] = m.Linked
	}
	var missing []string
	for _, a := range admitted {
		if !linked[cluster.NodeOf(a.Key)] {
			missing = append(missing, a.Name)
		}
	}
	c := api.Check{Name: "gateways", Result: api.OK, Text: fmt.Sprintf("all %d are linked", len(admitted))}
	if len(admitted) < 2 {
		c.Text = "this is the only one"
	}
	if len(missing) > 0 {
		c.Result, c.Text = api.Warn, fmt.Sprintf("%d of %d are not linked: %s", len(missing), len(admitted), listed(missing))
		c.Hint = "start them, or evict those that are gone for good"
	}
	all = append(all, c)
	for _, r := range p.mesh.Refusals() {
		if time.Since(r.At) > refusalAge {
			continue
		}
		who := "the gateway at"
		hint := "`gatemesh gateway list` there says which cluster it is in"
		if r.ByUs {
			who = "the caller from"
		}
		if strings.Contains(r.Reason, "version") {
			hint = "update the older of the two"
		}
		all = append(all, api.Check{
			Name: "refused", Result: api.Warn, Text: fmt.Sprintf("%s %s: %s", who, r.Addr, r.Reason), Hint: hint,
		})
	}
	return all
}

// checkReach asks the peers whether they can call us.
func (n *Node) checkReach(ctx context.Context, p *parts) []api.Check {
	had := p.vpn.Stats().Malformed
	c := api.Check{Name: "reachable", Result: api.OK}
	ctx, cancel := context.WithTimeout(ctx, askTimeout+reachTimeout)
	defer cancel()
	asked := 0
	var no []string
	for _, m := range p.mesh.Members() {
		if !m.Linked || asked == maxReachAsked {
			continue
		}
		answer, err := p.mesh.Call(ctx, m.ID, kindReach, []byte(p.mesh.Addr().String()))
		switch {
		case err != nil: // an older one, or the link broke
		case len(answer) > 0:
			no = append(no, fmt.Sprintf("%s (%.80q)", m.Name, answer))
			fallthrough
		default:
			asked++
		}
	}
	switch {
	case asked == 0:
		c.Text = "there is no other gateway to ask"
	case len(no) == 0:
		c.Text = fmt.Sprintf("%s can make connections to %s", otherGateways(asked), p.mesh.Addr())
	default:
		c.Result, c.Text = api.Warn, fmt.Sprintf("no connections to %s can be made by %s", p.mesh.Addr(), listed(no))
		c.Hint = fmt.Sprintf("open TCP and UDP port %d of the firewalls between, or give --mesh an address that they reach",
			p.mesh.Addr().Port())
		if len(no) == asked {
			c.Result = api.Fail
		}
	}
	return []api.Check{c, n.checkPublic(ctx, p, asked, had)}
}

// checkPublic says whether probes of the peers, which were asked for before, came through to the port of devices. had
// is how many odd datagrams had come before that.
func (n *Node) checkPublic(ctx context.Context, p *parts, asked int, had uint64) api.Check {
	public := n.offers().Public
	c := api.Check{Name: "public", Result: api.OK, Text: "there is no other gateway to probe " + public}
	if asked == 0 || n.cfg.Bind != nil {
		return c
	}
	came := func() int {
		return int(min(p.vpn.Stats().Malformed-had, uint64(asked*probes))) / probes //nolint:gosec // few
	}
	for end := time.Now().Add(probeWait); came() < asked && time.Now().Before(end) && sleep(ctx, askAgain) == nil; {
	}
	c.Text = fmt.Sprintf("%s (UDP, devices) is reached by %d of %d gateways asked", public, came(), asked)
	if came() == 0 {
		c.Result = api.Warn
		c.Hint = "open that UDP port, or say with `gatemesh gateway set` how devices reach it; a NAT before it may let only those outside in"
	}
	return c
}

// probe sends datagrams to the public address of a gateway. That they arrive is not known here.
func (n *Node) probe(ctx context.Context, public string) {
	if public == "" || n.cfg.Bind != nil {
		return
	}
	var d net.Dialer
	c, err := d.DialContext(ctx, "udp", public)
	if err != nil {
		return
	}
	defer c.Close()
	for range probes {
		_, _ = c.Write([]byte{0}) // it is missed there
	}
}

// onReach tries to connect to the asker, at an address of the host that its link comes from or that its entry names:
// nobody has us knock elsewhere.
func (n *Node) onReach(ctx context.Context, from mesh.ID, payload []byte) ([]byte, error) {
	p, err := n.running()
	if err != nil {
		return nil, err
	}
	at, err := netip.ParseAddrPort(string(payload))
	if err != nil {
		return nil, errors.New("not an address")
	}
	known := slices.ContainsFunc(p.mesh.Members(), func(m mesh.Member) bool { return m.ID == from && m.Addr == at })
	g, err := n.store.Gateway(cluster.Node(from))
	known = known || err == nil && slices.Contains(g.Mesh, at)
	if !known {
		return nil, errors.New("not an address of the asker")
	}
	network := n.cfg.Network
	if network == nil {
		network = mesh.System
	}
	ctx, cancel := context.WithTimeout(ctx, reachTimeout)
	defer cancel()
	n.probe(ctx, g.Public)
	c, err := network.Dial(ctx, at)
	if err != nil {
		return []byte(rootCause(err).Error()), nil
	}
	return nil, c.Close()
}

func otherGateways(n int) string {
	if n == 1 {
		return "the other gateway"
	}
	return fmt.Sprintf("%d other gateways", n)
}

// checkSkew compares clocks.
func (n *Node) checkSkew(p *parts) api.Check {
	c := api.Check{Name: "clock", Result: api.OK, Text: "there is no other gateway to compare it with"}
	var worst time.Duration
	var ahead, behind []string
	compared := 0
	for _, m := range p.mesh.Members() {
		d, known := p.peers.clock(cluster.Node(m.ID))
		if m.Status != mesh.Alive || !known {
			continue
		}
		compared++
		if d > clockWarn {
			ahead = append(ahead, m.Name)
		} else if d < -clockWarn {
			behind = append(behind, m.Name)
		}
		if d.Abs() > worst.Abs() {
			worst = d
		}
	}
	if compared == 0 {
		return c
	}
	c.Text = fmt.Sprintf("within %d ms of %s", worst.Abs().Milliseconds()+1, otherGateways(compared))
	if len(ahead)+len(behind) == 0 {
		return c
	}
	c.Result, c.Hint = api.Warn, "have chrony, ntpd or systemd-timesyncd set the clock of each gateway"
	if worst.Abs() > clockFail {
		c.Result = api.Fail
	}
	text := []string{}
	if len(ahead) > 0 {
		text = append(text, "ahead of this one: "+listed(ahead))
	}
	if len(behind) > 0 {
		text = append(text, "behind: "+listed(behind))
	}
	c.Text = fmt.Sprintf("clocks differ by up to %s; %s", worst.Abs().Round(time.Millisecond), strings.Join(text, "; "))
	return c
}

func (n *Node) checkVersions() api.Check {
	older, err := n.store.Older(cluster.Format)
	if err != nil {
		return api.Check{Name: "versions", Result: api.Fail, Text: err.Error()}
	}
	if len(older) == 0 {
		text := fmt.Sprintf("all gateways understand data format %d", cluster.Format)
		return api.Check{Name: "versions", Result: api.OK, Text: text}
	}
	names := make([]string, len(older))
	for i, a := range older {
		names[i] = a.Name
	}
	return api.Check{
		Name: "versions", Result: api.Warn,
		Text: fmt.Sprintf("data format %d is not written yet, because of %s", cluster.Format, listed(names)),
		Hint: "update these gateways when it suits",
	}
}

// checkReplicas tells the alarms that stand.
func (n *Node) checkReplicas(p *parts) api.Check {
	var text []string
	for _, a := range p.alarms.all(time.Now()) {
		if a.Solved.IsZero() {
			text = append(text, fmt.Sprintf("%s (%s)", a.Text, a.Kind))
		}
	}
	if len(text) == 0 {
		return api.Check{Name: "replication", Result: api.OK, Text: "no alarm stands"}
	}
	return api.Check{Name: "replication", Result: api.Fail, Text: listed(text), Hint: "see `gatemesh sync status`"}
}

// checkLAN looks who is there, and whether our own announcement comes through.
func (n *Node) checkLAN(ctx context.Context, p *parts) (all []api.Check) {
	multicast := api.Check{Name: "multicast", Result: api.OK}
	key, err := n.clusterKey()
	if err != nil {
		return []api.Check{{Name: "multicast", Result: api.Fail, Text: err.Error()}}
	}
	cfg, err := n.find(key, p.mesh.Addr().Port())
	var seen []mesh.Sighting
	if err == nil {
		seen, err = mesh.Look(ctx, cfg, lookOnLAN)
	}
	if err != nil {
		multicast.Result, multicast.Text = api.Warn, "no multicast DNS: "+err.Error()
		multicast.Hint = "gateways are not found by --key alone; give them --join"
		return []api.Check{multicast}
	}
	own, others, foreign := false, 0, map[netip.AddrPort]bool{}
	var rival []string
	for _, s := range seen {
		_, admitted, err := n.store.Admitted(cluster.Node(s.ID))
		switch {
		case !s.Ours:
			foreign[s.From] = true
		case cluster.Node(s.ID) == n.self:
			own = true
		case err == nil && admitted:
			others++
		case err == nil && s.Member && !slices.Contains(rival, s.From.String()):
			rival = append(rival, s.From.String())
		}
	}
	multicast.Text = fmt.Sprintf("announced on %s; heard of this cluster: %d, of other clusters: %d", interfaceNames(),
		others, len(foreign))
	if !own {
		multicast.Result, multicast.Text = api.Warn, "this gateway's own announcement does not come back from "+interfaceNames()
		multicast.Hint = "UDP port 5353 may be closed here; give further gateways --join"
	}
	all = []api.Check{multicast}
	if len(rival) > 0 {
		all = append(all, api.Check{
			Name: "cluster key", Result: api.Fail, Text: "another cluster on this LAN has the same key: " + listed(rival),
			Hint: "take the gateways of one of them into the other: reset them, and start them with --join",
		})
	}
	return all
}
