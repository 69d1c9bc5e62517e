package cli

import (
	"crypto/ecdh"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"net/netip"
	"strings"

	"gatemesh/node/api"
)

// newDeviceKey makes a WireGuard key pair in base64.
func newDeviceKey() (private, public string, err error) {
	k, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return "", "", fmt.Errorf("make device key: %w", err)
	}
	text := base64.StdEncoding.EncodeToString
	return text(k.Bytes()), text(k.PublicKey().Bytes()), nil
}

// parsePrefixes reads a list of prefixes as wg-quick takes it.
func parsePrefixes(s string) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, f := range strings.Split(s, ",") {
		p, err := netip.ParsePrefix(strings.TrimSpace(f))
		if err != nil {
			return nil, usagef("--allowed-ips: %q is not a prefix", strings.TrimSpace(f))
		}
		out = append(out, p)
	}
	return out, nil
}

// wgQuick writes the configuration of a device as wg-quick(8) and the apps
// read it. Without a private key the device fills in its own.
func wgQuick(e api.Enrolment, private string, allowed []netip.Prefix) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# gatemesh: %s\n[Interface]\n", e.Device.Name)
	if private == "" {
		fmt.Fprintf(&b, "# PrivateKey = the private key of %s\n", e.Device.ID)
	} else {
		fmt.Fprintf(&b, "PrivateKey = %s\n", private)
	}
	fmt.Fprintf(&b, "Address = %s\n\n[Peer]\nPublicKey = %s\n", join(hostPrefixes(e.Device.Addresses)), e.PublicKey)
	fmt.Fprintf(&b, "AllowedIPs = %s\nEndpoint = %s\nPersistentKeepalive = %d\n", join(allowed), e.Endpoint, e.Keepalive)
	return b.String()
}

// hostPrefixes gives each address its full length.
func hostPrefixes(addresses []string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range addresses {
		if a, err := netip.ParseAddr(s); err == nil {
			out = append(out, netip.PrefixFrom(a, a.BitLen()))
		}
	}
	return out
}

func join(ps []netip.Prefix) string {
	s := make([]string, len(ps))
	for i, p := range ps {
		s[i] = p.String()
	}
	return strings.Join(s, ", ")
}
