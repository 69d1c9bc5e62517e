package node

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"time"

	"golang.org/x/crypto/curve25519"
	"golang.zx2c4.com/wireguard/tun"

	"gatemesh/cluster"
	"gatemesh/mesh"
	"gatemesh/vpn"
)

// tunnelMTU leaves room for IPv6, UDP and WireGuard in 1500 bytes.
const tunnelMTU = 1420

// openDataplane opens what carries the devices' packets beyond the gateway.
func (n *Node) openDataplane(f facts) (tun.Device, string, error) {
	if n.cfg.TUN != nil {
		return n.cfg.TUN, n.cfg.Dataplane, nil
	}
	inner := cluster.GatewayAddresses(f.pool, f.ula)
	if n.cfg.Dataplane != DataplaneUserspace {
		dev, err := n.openTUN(f, inner)
		switch {
		case err == nil:
			return dev, DataplaneTUN, nil
		case n.cfg.Dataplane == DataplaneTUN || !errors.Is(err, vpn.ErrNoPermission) && !errors.Is(err, vpn.ErrUnsupported):
			return nil, "", explainTUN(err)
		case os.Geteuid() == 0 && runtime.GOOS == "linux":
			n.log.Warn("no TUN device; devices' connections are made in userspace", "err", err)
		}
	}
	if routes, err := vpn.OverlappingRoutes(f.pool); err == nil && len(routes) > 0 {
		n.log.Warn("the pool overlaps routes of this host: devices cannot reach what lies behind them", "pool", f.pool, "routes", strings.Join(routes, ", "))
	}
	dev, err := n.openUserspace(inner)
	return dev, DataplaneUserspace, err
}

// openPlane opens again what openDataplane has chosen.
func (n *Node) openPlane(f facts, plane string) (tun.Device, error) {
	inner := cluster.GatewayAddresses(f.pool, f.ula)
	switch {
	case n.cfg.OpenTUN != nil:
		return n.cfg.OpenTUN()
	case n.cfg.TUN != nil:
		return nil, errors.New("no other TUN device was given")
	case plane == DataplaneTUN:
		dev, err := n.openTUN(f, inner)
		if err != nil {
			return nil, explainTUN(err)
		}
		return dev, nil
	}
	return n.openUserspace(inner)
}

func (n *Node) openUserspace(inner [2]netip.Addr) (tun.Device, error) {
	dialer := &net.Dialer{Timeout: 10 * time.Second}
	dev, err := vpn.NewUserspace(vpn.UserspaceConfig{
		MTU: tunnelMTU, Addresses: inner[:], Dial: dialer.DialContext, Log: n.log.With("component", "userspace"),
	})
	if err != nil {
		return nil, fmt.Errorf("open userspace stack: %w", err)
	}
	return dev, nil
}

func (n *Node) openTUN(f facts, inner [2]netip.Addr) (tun.Device, error) {
	if err := poolIsFree(f.pool); err != nil {
		return nil, err
	}
	return vpn.OpenTUN(vpn.TUNConfig{
		MTU: tunnelMTU,
		Addresses: []netip.Prefix{
			netip.PrefixFrom(inner[0], f.pool.Bits()), netip.PrefixFrom(inner[1], f.ula.Bits()),
		},
		Masquerade: []netip.Prefix{f.pool, f.ula},
		StateDir:   n.cfg.Data,
		Log:        n.log.With("component", "tun"),
	})
}

// wantsTUN says whether a TUN device will be tried that can be had.
func (n *Node) wantsTUN() bool {
	return n.cfg.TUN == nil && (n.cfg.Dataplane == DataplaneTUN ||
		n.cfg.Dataplane == DataplaneAuto && runtime.GOOS == "linux" && os.Geteuid() == 0)
}

// poolIsFree refuses a pool that this host reaches some other way.
func poolIsFree(pool netip.Prefix) error {
	routes, err := vpn.OverlappingRoutes(pool)
	if err != nil {
		return fmt.Errorf("read routes: %w", err)
	}
	if len(routes) > 0 {
		return hintf("begin the cluster with another --pool, or run with --dataplane userspace",
			"the pool %s overlaps routes of this host: %s", pool, strings.Join(routes, ", "))
	}
	return nil
}

func explainTUN(err error) error {
	switch {
	case errors.Is(err, vpn.ErrNoPermission):
		return hintf("run as root, or leave --dataplane out", "open TUN device: %w", err)
	case errors.Is(err, vpn.ErrUnsupported):
		return hintf("leave --dataplane out", "open TUN device: %w", err)
	}
	var hint *HintError
	if errors.As(err, &hint) {
		return err
	}
	return fmt.Errorf("open TUN device: %w", err)
}

// probePorts finds out early, before anything is joined, whether the ports are
// free.
func (n *Node) probePorts() error {
	if n.cfg.Bind == nil {
		port, err := n.cfg.listenPort()
		if err != nil {
			return err
		}
		c, err := net.ListenPacket("udp", fmt.Sprintf(":%d", port))
		if err != nil {
			return portTaken("UDP", fmt.Sprintf(":%d", port), "--listen", err)
		}
		if err := c.Close(); err != nil {
			return fmt.Errorf("close probe: %w", err)
		}
	}
	network := n.cfg.Network
	if network == nil {
		network = mesh.System
	}
	l, err := network.Listen(n.cfg.Mesh)
	if err != nil {
		return portTaken("TCP", n.cfg.Mesh, "--mesh", err)
	}
	if err := l.Close(); err != nil {
		return fmt.Errorf("close probe: %w", err)
	}
	c, err := network.ListenPacket(n.cfg.Mesh)
	if err != nil {
		return portTaken("UDP", n.cfg.Mesh, "--mesh", err)
	}
	return c.Close()
}

// explainPort names the flag of a port that another process has.
func (n *Node) explainPort(err error) error {
	var device *vpn.PortError
	var gateways *mesh.PortError
	switch {
	case errors.As(err, &device):
		return portTaken("UDP", fmt.Sprintf(":%d", device.Port), "--listen", err)
	case errors.As(err, &gateways):
		return portTaken(strings.ToUpper(gateways.Network), gateways.Addr, "--mesh", err)
	}
	return err
}

func portTaken(network, addr, flag string, err error) error {
	return hintf("free it, or choose another with "+flag, "%s port %s is not free: %w", network, addr, rootCause(err))
}

// rootCause returns the innermost error: of "listen udp :51820: bind: address
// already in use" people need the end.
func rootCause(err error) error {
	for {
		next := errors.Unwrap(err)
		if next == nil {
			return err
		}
		err = next
	}
}

// publicKey returns the public key of a WireGuard private key.
func publicKey(private [32]byte) (pub cluster.Key, err error) {
	b, err := curve25519.X25519(private[:], curve25519.Basepoint)
	if err != nil {
		return pub, fmt.Errorf("the cluster's WireGuard key: %w", err)
	}
	return cluster.Key(b), nil
}
