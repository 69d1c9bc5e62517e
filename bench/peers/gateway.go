package main

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sync/errgroup"

	"gatemesh/node/api"
	"gatemesh/vpn/vpntest"
)

// candidate is a kind of gateway.
type candidate struct {
	name  string
	start func(l *lab, core int, devices []device) (*gateway, error) // a new one that knows those devices
}

// gateway is one that runs.
type gateway struct {
	*process
	public  [32]byte
	inner   netip.Addr // its own, in the tunnel
	address netip.Addr // of the first device, in the tunnel
}

// device is one that a gateway knows.
type device struct{ private, public [32]byte }

var candidates = map[string]candidate{
	"gatemesh":     {"gatemesh", (*lab).startGatemesh},
	"wireguard-go": {"wireguard-go", func(l *lab, core int, d []device) (*gateway, error) { return l.startPlain("wireguard-go", core, d) }},
	"fork":         {"fork", func(l *lab, core int, d []device) (*gateway, error) { return l.startPlain("fork", core, d) }},
	"openvpn":      {"openvpn", (*lab).startOpenVPN},
}

// names lists them in the order of the table.
func names() []string { return []string{"gatemesh", "wireguard-go", "fork", "openvpn"} }

func text(key [32]byte) string { return base64.StdEncoding.EncodeToString(key[:]) }

// innerOf is the address of the i-th device at a plain gateway, whose own is that of number -1.
func innerOf(i int) netip.Addr {
	i += 2
	return netip.AddrFrom4([4]byte{10, 97, byte(i >> 8), byte(i)})
}

// startPlain starts one of the wireguard-go programs and sets it up as wg(8) does. It is told where devices are: the
// fork does not learn it from their packets, that is its owner's business.
func (l *lab) startPlain(program string, core int, devices []device) (*gateway, error) {
	private, public := vpntest.NewKey()
	p, err := l.wireguard(gatewayNS, gatewayTUN, program, core)
	if err != nil {
		return nil, err
	}
	var conf strings.Builder
	fmt.Fprintf(&conf, "[Interface]\nPrivateKey = %s\nListenPort = %d\n", text(private), gatewayPort)
	for i, d := range devices {
		fmt.Fprintf(&conf, "[Peer]\nPublicKey = %s\nAllowedIPs = %s/32\nEndpoint = %s:%d\n", text(d.public), innerOf(i), clientOuter, clientPort)
	}
	if err := l.setUp(gatewayNS, gatewayTUN, conf.String(), netip.PrefixFrom(innerOf(-1), 16)); err != nil {
		return nil, err
	}
	return &gateway{process: p, public: public, inner: innerOf(-1), address: innerOf(0)}, nil
}

// wireguard starts a wireguard-go program.
func (l *lab) wireguard(ns, tun, program string, core int) (*process, error) {
	socket := filepath.Join(wireguardPath, tun+".sock")
	_ = os.Remove(socket) // of one that was killed
	p, err := l.start(ns, core, []string{"LOG_LEVEL=error", "WG_PROCESS_FOREGROUND=1"}, filepath.Join(l.dir, program), "-f", tun)
	if err != nil {
		return nil, err
	}
	return p, l.until(p, "the control socket of "+program, func() bool { return listens(socket) })
}

// setUp gives a wireguard-go its configuration and its interface an address.
func (l *lab) setUp(ns, tun, conf string, addr netip.Prefix) error {
	if _, err := l.in(ns, conf, "wg", "setconf", tun, "/dev/stdin"); err != nil {
		return err
	}
	for _, args := range []string{"addr add " + addr.String() + " dev " + tun, "link set " + tun + " mtu 1420 up"} {
		if _, err := l.in(ns, "", append([]string{"ip"}, strings.Fields(args)...)...); err != nil {
			return err
		}
	}
	return nil
}

// connect starts the stock client of the first device.
func (l *lab) connect(g *gateway, d device) error {
	if _, err := l.wireguard(clientNS, clientTUN, "wireguard-go", -1); err != nil {
		return fmt.Errorf("client: %w", err)
	}
	conf := fmt.Sprintf("[Interface]\nPrivateKey = %s\nListenPort = %d\n[Peer]\nPublicKey = %s\nEndpoint = %s:%d\nAllowedIPs = %s/32\n",
		text(d.private), clientPort, text(g.public), gatewayOuter, gatewayPort, g.inner)
	if err := l.setUp(clientNS, clientTUN, conf, netip.PrefixFrom(g.address, 32)); err != nil {
		return err
	}
	_, err := l.in(clientNS, "", "ip", "route", "add", g.inner.String(), "dev", clientTUN)
	return err
}

// startGatemesh runs `gatemesh up` and enrols the devices, unless the directory of that number has them already.
func (l *lab) startGatemesh(core int, devices []device) (*gateway, error) {
	data := filepath.Join(l.dir, fmt.Sprintf("data-%d", len(devices)))
	if err := os.MkdirAll(data, 0o700); err != nil {
		return nil, err
	}
	p, err := l.start(gatewayNS, core, nil, filepath.Join(l.dir, "gatemesh"), "up", "--data", data, "--name", "peers",
		"--public", fmt.Sprintf("%s:%d", gatewayOuter, gatewayPort), "--dataplane", "tun", "--capacity", "100000")
	if err != nil {
		return nil, err
	}
	if err := l.until(p, "gateway ready", func() bool { return strings.Contains(p.text(), "gateway ready") }); err != nil {
		return nil, err
	}
	first, ok := l.enrolled[len(devices)]
	if !ok {
		if first, err = l.enrol(filepath.Join(data, "gatemesh.sock"), devices); err != nil {
			return nil, fmt.Errorf("enrol: %w", err)
		}
		l.enrolled[len(devices)] = first
	}
	key, err := base64.StdEncoding.DecodeString(first.PublicKey)
	if err != nil || len(key) != 32 {
		return nil, errors.New("the public key of the cluster is none")
	}
	address, err := netip.ParseAddr(first.Device.Addresses[0])
	if err != nil {
		return nil, err
	}
	return &gateway{process: p, public: [32]byte(key), inner: netip.MustParseAddr("100.64.0.1"), address: address}, nil
}

// enrol adds devices over the socket, as `gatemesh device add` does, and returns what the first one got.
func (l *lab) enrol(socket string, devices []device) (first api.Enrolment, err error) {
	client := api.NewClient(socket)
	defer client.Close()
	group, ctx := errgroup.WithContext(l.ctx)
	group.SetLimit(128)
	for i, d := range devices {
		group.Go(func() error {
			e, err := client.AddDevice(ctx, api.NewDevice{Name: fmt.Sprintf("d%d", i), PublicKey: text(d.public)})
			if i == 0 {
				first = e
			}
			return err
		})
	}
	return first, group.Wait()
}
