package labtest

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
)

// socketDir is where wireguard-go listens for wg.
const socketDir = "/var/run/wireguard"

// WireGuardPort is where gateways listen for devices unless told otherwise.
const WireGuardPort = 51820

// A Client is a node with a stock WireGuard client on it.
type Client struct {
	*Node
	*Stocked
}

// Stocked is a stock WireGuard running on a node, as client or otherwise.
type Stocked struct {
	Interface string
	Config    Config // what it has, or will have when it comes up
	Process   *Process

	node *Node
	link netlink.Link
	up   bool
}

// Client makes a node on the internet with the stock client of go.mod. It says
// nothing before [Stocked.Up].
func (l *Lab) Client(name string, conf Config) *Client {
	l.tb.Helper()
	return l.ClientOf(Module, name, conf)
}

// ClientOf is Client with a given build of the stock client.
func (l *Lab) ClientOf(build Stock, name string, conf Config) *Client {
	l.tb.Helper()
	if l.clients >= MaxClients {
		l.tb.Fatalf("a lab has room for %d clients", MaxClients)
	}
	node := l.Node(name, Internet, clientBase+l.clients)
	l.clients++
	return &Client{node, node.Stock(build, conf)}
}

// Stock starts a stock WireGuard on the node, down. It gets its configuration
// when it comes up: wireguard-go sends keepalives as soon as it has peers, also
// while its interface is down.
func (n *Node) Stock(build Stock, conf Config) *Stocked {
	n.lab.tb.Helper()
	path, err := build.Path()
	if err != nil {
		n.lab.tb.Fatalf("%s: %v", n.Name, err)
	}
	s := &Stocked{
		Interface: ifacePrefix + base36(int64(os.Getpid())) + "-" + base36(interfaces.Add(1)),
		Config:    conf,
		node:      n,
	}
	socket := filepath.Join(socketDir, s.Interface+".sock")
	n.lab.tb.Cleanup(func() { _ = os.Remove(socket) }) // a client that was killed leaves it
	s.Process = n.Start("wireguard", []string{"LOG_LEVEL=error", "WG_PROCESS_FOREGROUND=1"}, path, "-f", s.Interface)
	n.lab.Eventually(runLimit, n.Name+": wireguard-go listens", func() bool {
		return s.Process.Ended() || listens(socket)
	})
	if s.link, err = n.nl.LinkByName(s.Interface); err != nil {
		n.lab.tb.Fatalf("%s: find %s: %v\n%s", n.Name, s.Interface, err, s.Process.tail())
	}
	if err := n.hush(s.link); err != nil {
		n.lab.tb.Fatalf("%s: %v", n.Name, err)
	}
	return s
}

// listens says whether somebody answers at a unix socket.
func listens(socket string) bool {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return false
	}
	conn.Close()
	return true
}

// hush keeps the kernel from talking through the tunnel by itself: no
// link-local address, no multicast reports.
func (n *Node) hush(link netlink.Link) error {
	const none = 1 // IN6_ADDR_GEN_MODE_NONE
	if err := n.nl.LinkSetIP6AddrGenMode(link, none); err != nil {
		return fmt.Errorf("set address generation: %w", err)
	}
	if err := n.nl.LinkSetMulticastOff(link); err != nil {
		return fmt.Errorf("set multicast off: %w", err)
	}
	return nil
}

// Configure puts another configuration in place of the present one, as a user
// who sets up his device anew: keys and sessions are gone, and addresses and
// routes are the new ones. A client with a keepalive knocks now. One that is
// down keeps the configuration until it comes up.
func (s *Stocked) Configure(conf Config) {
	s.node.lab.tb.Helper()
	if err := s.TryConfigure(conf); err != nil {
		s.node.lab.tb.Fatalf("%s: %v", s.node.Name, err)
	}
}

// TryConfigure is Configure for any goroutine, but for one at a time.
func (s *Stocked) TryConfigure(conf Config) error {
	s.Config = conf
	if !s.up {
		return nil
	}
	if _, err := s.node.Try(conf.Setconf(), "wg", "setconf", s.Interface, "/dev/stdin"); err != nil {
		return err
	}
	return errors.Join(s.setAddresses(), s.setRoutes())
}

func (s *Stocked) setAddresses() error {
	old, err := s.node.nl.AddrList(s.link, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range old {
		if err := s.node.nl.AddrDel(s.link, &a); err != nil {
			return fmt.Errorf("remove address %v: %w", a.IPNet, err)
		}
	}
	if s.Config.MTU > 0 {
		if err := s.node.nl.LinkSetMTU(s.link, s.Config.MTU); err != nil {
			return fmt.Errorf("set mtu: %w", err)
		}
	}
	for _, a := range s.Config.Addresses {
		err = errors.Join(err, s.node.AddAddress(s.Interface, a))
	}
	return err
}

// setRoutes routes what the peers may carry. The internet is on the link, so a
// default route cannot catch the tunnel's own packets; it only has to win
// against the node's.
func (s *Stocked) setRoutes() error {
	for _, p := range s.Config.Peers {
		for _, dst := range p.AllowedIPs {
			if dst.Bits() == 0 && dst.Addr().Is4() {
				if err := s.dropDefault(); err != nil {
					return err
				}
			}
			route := &netlink.Route{LinkIndex: s.link.Attrs().Index, Dst: ipNet(dst), Scope: netlink.SCOPE_LINK}
			if err := s.node.nl.RouteReplace(route); err != nil {
				return fmt.Errorf("set route %v: %w", dst, err)
			}
		}
	}
	return nil
}

// dropDefault removes the node's own default route.
func (s *Stocked) dropDefault() error {
	routes, err := s.node.nl.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("list routes: %w", err)
	}
	for _, r := range routes {
		if len(r.Gw) > 0 && (r.Dst == nil || r.Dst.IP.IsUnspecified()) {
			err = errors.Join(err, s.node.nl.RouteDel(&r))
		}
	}
	return err
}

// Up brings the interface up and configures it. A client with a keepalive
// knocks now.
func (s *Stocked) Up() {
	s.node.lab.tb.Helper()
	if err := s.node.up(s.Interface); err != nil {
		s.node.lab.tb.Fatalf("%s: set up %s: %v", s.node.Name, s.Interface, err)
	}
	s.up = true
	s.Configure(s.Config)
}

// PeerState is what wg(8) says of a peer.
type PeerState struct {
	PublicKey     string
	Endpoint      netip.AddrPort // zero: none
	LastHandshake time.Time      // to the second; zero: none
	Rx, Tx        uint64         // bytes of datagrams
}

// TryPeers returns what `wg show` says of the peers, in their order there. It
// may be called from any goroutine.
func (s *Stocked) TryPeers() ([]PeerState, error) {
	out, err := s.node.Try("", "wg", "show", s.Interface, "dump")
	if err != nil {
		return nil, err
	}
	return parseDump(out)
}

// Peer returns what `wg show` says of the cluster: the first peer of the
// configuration.
func (s *Stocked) Peer() PeerState {
	s.node.lab.tb.Helper()
	peers, err := s.TryPeers()
	if err != nil {
		s.node.lab.tb.Fatalf("%s: %v", s.node.Name, err)
	}
	i := slices.IndexFunc(peers, func(p PeerState) bool { return p.PublicKey == s.Config.Peers[0].PublicKey })
	if i < 0 {
		s.node.lab.tb.Fatalf("%s: wg does not know the peer", s.node.Name)
	}
	return peers[i]
}

// Endpoint returns where the client sends to now.
func (s *Stocked) Endpoint() netip.AddrPort {
	s.node.lab.tb.Helper()
	return s.Peer().Endpoint
}

// parseDump reads `wg show INTERFACE dump`: one line of the interface, then
// one of each peer, with tabs between the fields.
func parseDump(text string) (peers []PeerState, err error) {
	for i, line := range strings.Split(strings.TrimSpace(text), "\n") {
		if i == 0 {
			continue
		}
		f := strings.Split(line, "\t")
		if len(f) != 8 {
			return nil, fmt.Errorf("parse wg dump: line %q", line)
		}
		p := PeerState{PublicKey: f[0]}
		if f[2] != "(none)" {
			if p.Endpoint, err = netip.ParseAddrPort(f[2]); err != nil {
				return nil, fmt.Errorf("parse wg dump: %w", err)
			}
		}
		handshake, err1 := strconv.ParseInt(f[4], 10, 64)
		rx, err2 := strconv.ParseUint(f[5], 10, 64)
		tx, err3 := strconv.ParseUint(f[6], 10, 64)
		if err := errors.Join(err1, err2, err3); err != nil {
			return nil, fmt.Errorf("parse wg dump: %w", err)
		}
		if handshake != 0 {
			p.LastHandshake = time.Unix(handshake, 0)
		}
		p.Rx, p.Tx = rx, tx
		peers = append(peers, p)
	}
	return peers, nil
}
