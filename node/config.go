package node

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/tun"

	"gatemesh/cluster"
	"gatemesh/mesh"
)

// Defaults of a [Config].
const (
	DefaultListen    = ":51820"
	DefaultMesh      = ":7946"
	DefaultCapacity  = 1024
	DefaultPool      = "100.64.0.0/10"
	DefaultDataplane = DataplaneAuto
)

// What carries the packets of devices behind the gateway.
const (
	DataplaneAuto      = "auto"      // a TUN device where that is permitted, else userspace
	DataplaneTUN       = "tun"       // the operating system's routing
	DataplaneUserspace = "userspace" // connections made in the name of the devices, without privileges
)

// Config is all that a gateway is told at its start.
type Config struct {
	Data      string       // directory of all that it keeps; required
	Name      string       // for people; "": the host's name, made unique
	Listen    string       // UDP port for devices, ":51820"
	Public    string       // host:port at which devices reach it; "": as its peers see it
	Mesh      string       // TCP and UDP address for gateways, ":7946"
	Key       *ClusterKey  // of the cluster to join; nil: the one it is in, or a new one
	Join      string       // host[:port] of a member; "": look round on the LAN
	Token     *JoinToken   // with which to join, in place of Key and Join; nil: none
	Logon     *Logon       // logs on at Join for a token; nil: not
	Capacity  int          // devices that it may serve
	Standby   bool         // it takes devices only while no active gateway has room
	Pool      netip.Prefix // inner IPv4 addresses; zero: the cluster's, or DefaultPool
	Dataplane string       // "auto", "tun" or "userspace"
	Socket    string       // path of the control socket; "": DATA/gatemesh.sock
	Version   string       // of this program
	// Horizon is how long a gateway that is away holds up that deletions are forgotten; below a second it
	// means 30 days.
	Horizon time.Duration
	Log     *slog.Logger
	Started func(Started) // called once when the cluster is known, before it is ready; may be nil
	Ready   func()        // called once when devices are taken; may be nil

	// What a test puts in place of the machine. Zero values mean the machine.
	Network mesh.Network
	LAN     mesh.LAN
	Bind    conn.Bind
	TUN     tun.Device
	OpenTUN func() (tun.Device, error) // opens another one when TUN has failed; nil: there is none
	Control net.Listener               // in place of the control socket
	Now     func() time.Time
}

// Started says how a gateway came to its cluster.
type Started struct {
	Begun  bool           // it is a new cluster
	Joined bool           // it has been admitted just now
	Key    ClusterKey     // the one that holds; zero: none
	Mesh   netip.AddrPort // where other gateways reach this one
	Public string
}

// Validate fills in defaults and refuses what cannot work.
func (c *Config) Validate() error {
	set := func(s *string, def string) {
		if *s == "" {
			*s = def
		}
	}
	set(&c.Listen, DefaultListen)
	set(&c.Mesh, DefaultMesh)
	set(&c.Dataplane, DefaultDataplane)
	if c.Horizon < time.Second {
		c.Horizon = cluster.DefaultHorizon
	}
	if c.Capacity == 0 {
		c.Capacity = DefaultCapacity
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	switch {
	case c.Data == "":
		return errors.New("no data directory given")
	case c.Capacity < 1 || c.Capacity > 1<<20:
		return hintf("give --capacity a number from 1 to 1048576", "capacity %d is out of range", c.Capacity)
	case len(c.Name) > 63 || strings.ContainsFunc(c.Name, notInName):
		return hintf("use letters, digits, '-', '_' and '.', 63 at most", "%q is no name for a gateway", c.Name)
	case c.Key != nil && *c.Key == (ClusterKey{}):
		return ErrKey
	}
	switch c.Dataplane {
	case DataplaneAuto, DataplaneTUN, DataplaneUserspace:
	default:
		return hintf("use auto, tun or userspace", "there is no data plane %q", c.Dataplane)
	}
	if _, err := c.listenPort(); err != nil {
		return err
	}
	if _, _, err := splitPort(c.Mesh); err != nil {
		return hintf("use --mesh :7946 or --mesh ADDRESS:PORT", "mesh address %q: %w", c.Mesh, err)
	}
	if c.Public != "" {
		if host, _, err := splitPort(c.Public); err != nil || host == "" {
			return hintf("use --public HOST:PORT as devices reach it", "public address %q is not HOST:PORT", c.Public)
		}
	}
	if c.Pool.IsValid() {
		if err := cluster.ValidatePool(c.Pool); err != nil {
			return hintf("the default is "+DefaultPool, "pool %s: %w", c.Pool, err)
		}
	}
	return nil
}

func notInName(r rune) bool {
	return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_' || r == '.')
}

// listenPort returns the UDP port of Listen. The socket is bound to every
// address: which of them devices use is theirs to choose.
func (c *Config) listenPort() (uint16, error) {
	host, port, err := splitPort(c.Listen)
	if err != nil || host != "" {
		return 0, hintf("use --listen :51820; it listens on every address", "listen address %q is not :PORT", c.Listen)
	}
	return port, nil
}

// splitPort splits host:port; a port alone needs no colon.
func splitPort(s string) (host string, port uint16, err error) {
	if !strings.Contains(s, ":") {
		s = ":" + s
	}
	host, text, err := net.SplitHostPort(s)
	if err != nil {
		return "", 0, err
	}
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return "", 0, fmt.Errorf("%q is not a port", text)
	}
	return host, uint16(n), nil
}

// HintError is an error of which the program knows what to do about it.
type HintError struct {
	Err  error
	Hint string // one line, no period
}

func (e *HintError) Error() string { return e.Err.Error() }
func (e *HintError) Unwrap() error { return e.Err }

func hintf(hint, format string, args ...any) error {
	return &HintError{Err: fmt.Errorf(format, args...), Hint: hint}
}

// hostname returns the host's name, cut to what a gateway may be called.
func hostname() string {
	h, err := os.Hostname()
	if err != nil || h == "" {
		return "gateway"
	}
	h, _, _ = strings.Cut(h, ".")
	h = strings.Map(func(r rune) rune {
		if notInName(r) {
			return '-'
		}
		return r
	}, h)
	return h[:min(len(h), 48)]
}
