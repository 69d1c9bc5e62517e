package vpn

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"regexp"
	"slices"
)

// DefaultTUNName lets the kernel choose the number: gatemesh0, gatemesh1, …
const DefaultTUNName = "gatemesh%d"

var (
	// ErrNoPermission is wrapped by OpenTUN's errors where this process may not
	// create an interface or change forwarding here: it lacks CAP_NET_ADMIN,
	// /dev/net/tun is missing or closed to it, or /proc/sys is read-only.
	ErrNoPermission = errors.New("no permission to create a network interface")

	// ErrUnsupported is wrapped by OpenTUN's errors where this system lacks what
	// kernel forwarding needs: another OS than Linux, or no nft program.
	ErrUnsupported = errors.New("no kernel data plane on this system")
)

// TUNConfig says what OpenTUN shall make of a host's kernel.
type TUNConfig struct {
	// Name of the interface, at most 15 characters of A-Z a-z 0-9 _ - and dot;
	// a %d in it is replaced by the first free number. Empty: DefaultTUNName.
	Name string

	// MTU of the interface in bytes. 0: 1420. With IPv6 at least 1280.
	MTU int

	// Addresses are the gateway's inner addresses with their pool's prefix
	// length; the kernel adds the routes to the pools. A family that has no
	// address and no masqueraded prefix is not forwarded.
	Addresses []netip.Prefix

	// Masquerade are the sources that leave by any other interface under the
	// host's own address. Empty: none, the LAN must know a route back.
	Masquerade []netip.Prefix

	// StateDir is an existing directory that holds tun.json, the record of what
	// is changed on the host, until it is undone. Empty: nothing is recorded,
	// and what a killed gateway changed stays changed until the next boot.
	StateDir string

	// Log takes warnings. nil: none.
	Log *slog.Logger
}

// withDefaults returns c completed and checked.
func (c TUNConfig) withDefaults() (TUNConfig, error) {
	if c.Name == "" {
		c.Name = DefaultTUNName
	}
	if c.MTU == 0 {
		c.MTU = defaultMTU
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if len(c.Name) > 15 || !validName.MatchString(c.Name) {
		return c, fmt.Errorf("interface name %q: want at most 15 of A-Z a-z 0-9 _ - and dot", c.Name)
	}
	least := 576 // RFC 791: what every IPv4 host takes
	for _, p := range slices.Concat(c.Addresses, c.Masquerade) {
		if !p.IsValid() || p.Addr().Is4In6() {
			return c, errors.New("invalid prefix among the interface's addresses or masqueraded sources")
		}
		if p.Addr().Is6() {
			least = 1280 // RFC 8200 section 5
		}
	}
	if c.MTU < least || c.MTU > 65535 {
		return c, fmt.Errorf("MTU %d: want %d to 65535", c.MTU, least)
	}
	return c, nil
}

// family reports whether c has an address or a masqueraded source of the family.
func (c TUNConfig) family(is func(netip.Addr) bool) bool {
	for _, p := range slices.Concat(c.Addresses, c.Masquerade) {
		if is(p.Addr()) {
			return true
		}
	}
	return false
}

// withoutIPv6 returns c with IPv4 only.
func (c TUNConfig) withoutIPv6() TUNConfig {
	is6 := func(p netip.Prefix) bool { return p.Addr().Is6() }
	c.Addresses = slices.DeleteFunc(slices.Clone(c.Addresses), is6)
	c.Masquerade = slices.DeleteFunc(slices.Clone(c.Masquerade), is6)
	return c
}

// validName is stricter than the kernel: an interface's name also stands in nft
// rules and in paths below /proc/sys.
var validName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]*(%d)?[A-Za-z0-9_.-]*$`)
