package labtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

const netnsDir = "/run/netns"

// Names of the interfaces of every node, where it has them.
const (
	internetName = "eth0"
	lanName      = "eth1"
)

// runLimit ends a command that hangs.
const runLimit = 30 * time.Second

// A Node is one machine of a lab: a network namespace.
type Node struct {
	Name string
	Addr netip.Addr // on the internet; the zero Addr when it is not on it
	LAN  netip.Addr // on the LAN; the zero Addr when it is not on it

	lab  *Lab
	port string // of the switch's internet, where it is plugged in
	ns   string // name of the namespace
	fd   netns.NsHandle
	nl   *netlink.Handle
}

// Node makes a machine on the given networks with the n-th address of each.
// [Lab.Gateway], [Lab.Client] and [Lab.Host] choose the address themselves.
func (l *Lab) Node(name string, networks, n int) *Node {
	l.tb.Helper()
	node := l.addNode(name)
	var err error
	if networks&Internet != 0 {
		node.Addr = address(Internet, n).Addr()
		err = errors.Join(err, l.plug(node, Internet, internetName, address(Internet, n)))
		// Programs look at the default route to learn their own address.
		err = errors.Join(err, node.routeVia(address(Internet, router).Addr()))
	}
	if networks&LAN != 0 {
		node.LAN = address(LAN, n).Addr()
		err = errors.Join(err, l.plug(node, LAN, lanName, address(LAN, n)))
	}
	if err != nil {
		l.tb.Fatalf("connect node %s: %v", name, err)
	}
	return node
}

// addNode makes a namespace with nothing but lo.
func (l *Lab) addNode(name string) *Node {
	l.tb.Helper()
	n := &Node{Name: name, lab: l, ns: l.ns + name, fd: netns.None()}
	// ip(8) and not netns.NewNamed: it makes the mounts shared, so that no
	// other mount namespace of the machine keeps ours alive.
	if out, err := exec.Command("ip", "netns", "add", n.ns).CombinedOutput(); err != nil {
		l.tb.Fatalf("make namespace: %v: %s", err, out)
	}
	l.tb.Cleanup(n.remove)
	var err error
	if n.fd, err = netns.GetFromName(n.ns); err != nil {
		l.tb.Fatalf("open namespace: %v", err)
	}
	if n.nl, err = netlink.NewHandleAt(n.fd); err != nil {
		l.tb.Fatalf("open netlink: %v", err)
	}
	if err := n.up("lo"); err != nil {
		l.tb.Fatalf("set up lo: %v", err)
	}
	return n
}

func (n *Node) remove() {
	if n.nl != nil {
		n.nl.Close()
	}
	n.fd.Close()
	if err := netns.DeleteNamed(n.ns); err != nil {
		n.lab.tb.Errorf("remove namespace: %v", err)
	}
}

// addSwitch makes the namespace that holds both networks.
func (l *Lab) addSwitch() {
	l.tb.Helper()
	l.sw = l.addNode("switch")
	l.bridges = make(map[int]int)
	snooping := false // multicast goes to everyone, as on a plain switch
	for network, name := range map[int]string{Internet: "internet", LAN: "lan"} {
		bridge := &netlink.Bridge{LinkAttrs: netlink.NewLinkAttrs(), MulticastSnooping: &snooping}
		bridge.Name = name
		err := l.sw.nl.LinkAdd(bridge)
		if err == nil {
			err = l.sw.nl.LinkSetUp(bridge)
		}
		if err != nil {
			l.tb.Fatalf("make bridge: %v", err)
		}
		l.bridges[network] = bridge.Index
	}
	if err := l.sw.AddAddress("internet", address(Internet, router)); err != nil {
		l.tb.Fatalf("make router: %v", err)
	}
}

// plug connects a node to a network.
func (l *Lab) plug(n *Node, network int, name string, addr netip.Prefix) error {
	l.ports++
	veth := netlink.NewVeth(netlink.NewLinkAttrs())
	veth.Name = "port" + strconv.Itoa(l.ports)
	if network == Internet {
		n.port = veth.Name
	}
	veth.MasterIndex = l.bridges[network]
	veth.PeerName = name
	veth.PeerNamespace = netlink.NsFd(int(n.fd))
	if err := l.sw.nl.LinkAdd(veth); err != nil {
		return fmt.Errorf("make veth: %w", err)
	}
	if err := l.sw.nl.LinkSetUp(veth); err != nil {
		return fmt.Errorf("set up port: %w", err)
	}
	return errors.Join(n.up(name), n.AddAddress(name, addr))
}

func (n *Node) up(name string) error {
	link, err := n.nl.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find %s: %w", name, err)
	}
	return n.nl.LinkSetUp(link)
}

// AddAddress gives an interface one more address, at once usable.
func (n *Node) AddAddress(iface string, addr netip.Prefix) error {
	link, err := n.nl.LinkByName(iface)
	if err != nil {
		return fmt.Errorf("find %s: %w", iface, err)
	}
	a := &netlink.Addr{IPNet: ipNet(addr)}
	if addr.Addr().Is6() {
		a.Flags = ifaNoDAD
	}
	if err := n.nl.AddrReplace(link, a); err != nil {
		return fmt.Errorf("add address %v: %w", addr, err)
	}
	return nil
}

const ifaNoDAD = 0x02 // IFA_F_NODAD: no duplicate address detection

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func (n *Node) routeVia(gateway netip.Addr) error {
	err := n.nl.RouteAdd(&netlink.Route{Gw: gateway.AsSlice()})
	if err != nil {
		return fmt.Errorf("add default route: %w", err)
	}
	return nil
}

// Command is a command to be run on the node, with no environment but a path.
// It dies with this process.
func (n *Node) Command(ctx context.Context, args ...string) *exec.Cmd {
	args = append([]string{"--net=" + filepath.Join(netnsDir, n.ns), "--"}, args...)
	cmd := exec.CommandContext(ctx, "nsenter", args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	cmd.SysProcAttr = child()
	cmd.WaitDelay = time.Second
	return cmd
}

// Try runs a command on the node, 30 s at most, and returns what it wrote to
// stdout. The error of a command that failed carries its stderr. It may be
// called from any goroutine.
func (n *Node) Try(stdin string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), runLimit)
	defer cancel()
	return output(n.Command(ctx, args...), stdin)
}

// Run is Try, but ends the test when the command fails.
func (n *Node) Run(args ...string) string {
	n.lab.tb.Helper()
	out, err := n.Try("", args...)
	if err != nil {
		n.lab.tb.Fatalf("%s: %v", n.Name, err)
	}
	return out
}

// output runs a command.
func output(cmd *exec.Cmd, stdin string) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("run %s: %w: %s", filepath.Base(cmd.Path), err, bytes.TrimSpace(stderr.Bytes()))
	}
	return stdout.String(), nil
}

// inside calls fn on a thread that is in the namespace. What fn opens stays in
// it; a goroutine that fn starts, or a process, does not.
func (n *Node) inside(fn func() error) error {
	runtime.LockOSThread()
	home, err := netns.Get()
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("open own namespace: %w", err)
	}
	defer home.Close()
	if err := netns.Set(n.fd); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter namespace: %w", err)
	}
	err = fn()
	if back := netns.Set(home); back != nil {
		// The thread stays locked: it would carry other goroutines along. And it
		// must not end: our children would be told that their parent died.
		panic("labtest: leave namespace: " + back.Error())
	}
	runtime.UnlockOSThread()
	return err
}

// Listen opens a TCP listener on the node.
func (n *Node) Listen(addr netip.AddrPort) (ln net.Listener, err error) {
	err = n.inside(func() error {
		ln, err = net.Listen("tcp", addr.String())
		return err
	})
	return ln, err
}

// Dial opens a TCP connection from the node. It may be called from any
// goroutine.
func (n *Node) Dial(addr netip.AddrPort, limit time.Duration) (conn net.Conn, err error) {
	err = n.inside(func() error {
		conn, err = (&net.Dialer{Timeout: limit}).Dial("tcp", addr.String())
		return err
	})
	return conn, err
}

// Sysctl sets a kernel parameter of the namespace, such as
// "net/ipv4/ip_forward".
func (n *Node) Sysctl(name, value string) error {
	return n.inside(func() error {
		return os.WriteFile("/proc/sys/"+name, []byte(value), 0)
	})
}

// Loss drops so many percent of what the internet carries to the node and from
// it. It happens in the switch: neither side is told. 100 and 100 cut the node
// off; 0 and 0 end the loss.
func (n *Node) Loss(to, from int) {
	n.lab.tb.Helper()
	rules := fmt.Sprintf(`
table bridge %[1]s {}
delete table bridge %[1]s
table bridge %[1]s {
	chain from { type filter hook prerouting priority 0; iifname %[1]q %[2]s; }
	chain to   { type filter hook postrouting priority 0; oifname %[1]q %[3]s; }
}
`, n.port, dropping(from), dropping(to))
	if _, err := n.lab.sw.Try(rules, "nft", "-f", "-"); err != nil {
		n.lab.tb.Fatalf("%s: set loss: %v", n.Name, err)
	}
}

// dropping is the end of a rule that drops so many percent.
func dropping(percent int) string {
	switch {
	case percent <= 0:
		return "accept"
	case percent >= 100:
		return "drop"
	default:
		return fmt.Sprintf("numgen random mod 100 < %d drop", percent)
	}
}

// Silence drops what the node sends and receives at those ports, TCP and UDP,
// whichever side has it; without a port it ends that.
func (n *Node) Silence(ports ...uint16) {
	n.lab.tb.Helper()
	rules := "table inet silence {}\ndelete table inet silence\n"
	if len(ports) > 0 {
		text := make([]string, len(ports))
		for i, p := range ports {
			text[i] = strconv.Itoa(int(p))
		}
		set := strings.Join(text, ", ")
		drop := fmt.Sprintf("th dport { %[1]s } drop; th sport { %[1]s } drop;", set)
		rules += fmt.Sprintf(`table inet silence {
	chain in { type filter hook input priority 0; meta l4proto { tcp, udp } jump ports; }
	chain out { type filter hook output priority 0; meta l4proto { tcp, udp } jump ports; }
	chain ports { %s }
}
`, drop)
	}
	if _, err := n.Try(rules, "nft", "-f", "-"); err != nil {
		n.lab.tb.Fatalf("%s: set silence: %v", n.Name, err)
	}
}

// Readdress gives the node another address on the internet in place of the one
// it has, as a change of network does.
func (n *Node) Readdress(addr netip.Prefix) {
	n.lab.tb.Helper()
	n.Run("ip", "addr", "flush", "dev", internetName, "scope", "global")
	n.Run("ip", "addr", "add", addr.String(), "dev", internetName)
	n.Addr = addr.Addr()
}
