package vpn

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// OverlappingRoutes returns the host's routes and own addresses, as text, that
// share an address with prefix, in any routing table: devices with an address out
// of prefix would be cut off from those networks, or those networks from them.
// Default routes do not count, nor their halves of /1, which other VPNs set.
func OverlappingRoutes(prefix netip.Prefix) ([]string, error) {
	family := netlink.FAMILY_V6
	if prefix.Addr().Is4() {
		family = netlink.FAMILY_V4
	}
	routes, err := dumpAll(func() ([]netlink.Route, error) {
		return netlink.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	names, err := linkNames()
	if err != nil {
		return nil, err
	}
	var texts []string
	var found []netip.Prefix
	for _, local := range []bool{false, true} { // a host's address within a route already named adds nothing
		for _, r := range routes {
			dst, ok := routeOverlap(r, prefix)
			if !ok || (r.Type == unix.RTN_LOCAL) != local || local && withinAny(dst.Addr(), found) {
				continue
			}
			found = append(found, dst)
			texts = append(texts, routeText(r, dst, names))
		}
	}
	return texts, nil
}

// routeOverlap returns r's destination and whether it counts as overlapping prefix.
func routeOverlap(r netlink.Route, prefix netip.Prefix) (netip.Prefix, bool) {
	dst, ok := prefixOf(r.Dst)
	if !ok || dst.Bits() <= 1 || !dst.Overlaps(prefix) {
		return dst, false
	}
	switch r.Type {
	case unix.RTN_BROADCAST, unix.RTN_ANYCAST, unix.RTN_MULTICAST:
		return dst, false
	}
	return dst, true
}

func withinAny(a netip.Addr, prefixes []netip.Prefix) bool {
	for _, p := range prefixes {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// routeText names a route the way ip route does.
func routeText(r netlink.Route, dst netip.Prefix, names map[int]string) string {
	text := dst.String()
	if r.Type == unix.RTN_LOCAL {
		text = "own address " + dst.Addr().String()
	} else if r.Type != unix.RTN_UNICAST {
		text += " type " + strconv.Itoa(r.Type)
	}
	if len(r.Gw) > 0 {
		text += " via " + r.Gw.String()
	}
	if name := names[r.LinkIndex]; name != "" {
		text += " dev " + name
	}
	if r.Table != unix.RT_TABLE_MAIN && r.Table != unix.RT_TABLE_LOCAL {
		text += " table " + strconv.Itoa(r.Table)
	}
	return text
}

// linkNames returns the host's interfaces by index.
func linkNames() (map[int]string, error) {
	links, err := dumpAll(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	names := make(map[int]string, len(links))
	for _, l := range links {
		names[l.Attrs().Index] = l.Attrs().Name
	}
	return names, nil
}

// dumpAll repeats list while the kernel says that what it listed was changing.
func dumpAll[T any](list func() ([]T, error)) (all []T, err error) {
	for range 10 {
		if all, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return all, err
}

// prefixOf converts; false for nil, netlink's form of a default route.
func prefixOf(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	a, ok := netip.AddrFromSlice(n.IP)
	ones, _ := n.Mask.Size()
	if a.Is4In6() && len(n.Mask) == net.IPv4len {
		a = a.Unmap()
	}
	return netip.PrefixFrom(a, ones), ok
}
