//go:build !linux

package vpn

import "net/netip"

// OverlappingRoutes returns nothing: only Linux is asked so far.
func OverlappingRoutes(netip.Prefix) ([]string, error) { return nil, nil }
