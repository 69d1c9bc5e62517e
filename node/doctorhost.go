package node

import (
	"context"
	"fmt"
	"net"
	"net/netip"

	"gatemesh/node/api"
	"gatemesh/vpn"
)

// fullMTU is that of the network for which tunnelMTU is made.
const fullMTU = 1500

// multicasts returns the interfaces on which gateways are looked for.
func multicasts() (up []net.Interface) {
	all, err := net.Interfaces()
	if err != nil {
		return nil
	}
	const want = net.FlagUp | net.FlagMulticast
	for _, i := range all {
		if addrs, err := i.Addrs(); err == nil && len(addrs) > 0 &&
			i.Flags&(want|net.FlagLoopback|net.FlagPointToPoint) == want {
			up = append(up, i)
		}
	}
	return up
}

func interfaceNames() string {
	var names []string
	for _, i := range multicasts() {
		names = append(names, i.Name)
	}
	if len(names) == 0 {
		return "loopback only"
	}
	return listed(names)
}

// checkHost looks at what the host does with packets of devices. at is the address that other gateways use.
func (n *Node) checkHost(ctx context.Context, tun bool, at netip.Addr) (all []api.Check) {
	all = append(all, checkMTU(at))
	if !tun {
		return append(all, api.Check{
			Name: "forwarding", Result: api.OK,
			Text: "not needed: connections of devices are made in userspace",
		})
	}
	running := n.live.Load() != nil
	v4, v6 := vpn.Forwards()
	c := api.Check{Name: "forwarding", Result: api.OK, Text: "IPv4 and IPv6 are forwarded"}
	switch {
	case !running:
		c.Text = "will be switched on by the gateway"
	case !v4 || !v6:
		c.Result, c.Text = api.Fail, fmt.Sprintf("the kernel forwards IPv4: %v, IPv6: %v", v4, v6)
		c.Hint = "set net.ipv4.ip_forward and net.ipv6.conf.all.forwarding to 1; something has switched them off"
	}
	all = append(all, c)
	c = api.Check{Name: "firewall", Result: api.OK, Text: "no chain drops what is forwarded"}
	switch drops, err := vpn.ForwardDrops(ctx); {
	case err != nil:
		c.Text = "not looked at: " + err.Error()
	case len(drops) > 0:
		c.Result, c.Text = api.Warn, "forwarded packets are dropped unless a rule accepts them: "+listed(drops)
		c.Hint = "accept those from and to the gateway's interface (Docker: in DOCKER-USER; ufw: `ufw route allow in on gatemesh0`)"
	}
	return append(all, c)
}

// checkMTU looks at the interface that other gateways reach, or at all while that is not known.
func checkMTU(at netip.Addr) api.Check {
	c := api.Check{Name: "MTU", Result: api.OK, Text: fmt.Sprintf("the tunnel's packets of %d bytes fit", tunnelMTU)}
	for _, i := range multicasts() {
		addrs, _ := i.Addrs() // none: not this one
		mine := !at.IsValid()
		for _, a := range addrs {
			p, err := netip.ParsePrefix(a.String())
			mine = mine || err == nil && p.Addr() == at
		}
		if mine && i.MTU < fullMTU {
			c.Result, c.Text = api.Warn, fmt.Sprintf("%s carries %d bytes; the tunnel's packets of %d need %d", i.Name, i.MTU,
				tunnelMTU, fullMTU)
			c.Hint = fmt.Sprintf("give devices `MTU = %d` in their configuration, or raise that of %s",
				i.MTU-(fullMTU-tunnelMTU), i.Name)
		}
	}
	return c
}
