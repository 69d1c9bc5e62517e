package labtest

import (
	"bufio"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// Config is the configuration of a stock client, as wg-quick(8) reads it.
type Config struct {
	PrivateKey string
	Addresses  []netip.Prefix
	DNS        []string
	MTU        int // 0: wireguard-go's
	ListenPort int // 0: any
	Peers      []Peer
}

// Peer is one [Peer] section.
type Peer struct {
	PublicKey    string
	PresharedKey string // "": none
	AllowedIPs   []netip.Prefix
	Endpoint     string // host:port; "": none
	Keepalive    int    // seconds; 0: off
}

// Limits of what [ParseConfig] takes.
const (
	maxConfig = 64 << 10 // bytes
	maxPeers  = 256
)

// ParseConfig reads what `gatemesh device add` prints. It is strict: a section,
// key or value that it does not know is an error.
func ParseConfig(text string) (c Config, err error) {
	if len(text) > maxConfig {
		return Config{}, fmt.Errorf("parse config: %d bytes", len(text))
	}
	section := ""
	lines := bufio.NewScanner(strings.NewReader(text))
	lines.Buffer(nil, maxConfig+1)
	for lines.Scan() {
		line, _, _ := strings.Cut(lines.Text(), "#")
		line = strings.TrimSpace(line)
		switch {
		case line == "":
			continue
		case line == "[Interface]":
			section = line
			continue
		case line == "[Peer]" && len(c.Peers) < maxPeers:
			section = line
			c.Peers = append(c.Peers, Peer{})
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		key, value = strings.TrimSpace(key), strings.TrimSpace(value)
		if ok && section == "[Interface]" {
			ok, err = c.set(key, value)
		} else if ok && section == "[Peer]" {
			ok, err = c.Peers[len(c.Peers)-1].set(key, value)
		} else {
			ok = false
		}
		if err != nil {
			return Config{}, fmt.Errorf("parse config: %s: %w", key, err)
		}
		if !ok {
			return Config{}, fmt.Errorf("parse config: %s does not know the line %q", section, line)
		}
	}
	if err := lines.Err(); err != nil {
		return Config{}, fmt.Errorf("parse config: %w", err)
	}
	if c.PrivateKey == "" || len(c.Peers) == 0 {
		return Config{}, fmt.Errorf("parse config: no private key or no peer")
	}
	return c, nil
}

func (c *Config) set(key, value string) (known bool, err error) {
	switch key {
	case "PrivateKey":
		c.PrivateKey = value
	case "Address":
		c.Addresses, err = parsePrefixes(value)
	case "DNS":
		c.DNS = parseList(value)
	case "ListenPort":
		c.ListenPort, err = strconv.Atoi(value)
	case "MTU":
		c.MTU, err = strconv.Atoi(value)
	default:
		return false, nil
	}
	return true, err
}

func (p *Peer) set(key, value string) (known bool, err error) {
	switch key {
	case "PublicKey":
		p.PublicKey = value
	case "PresharedKey":
		p.PresharedKey = value
	case "AllowedIPs":
		p.AllowedIPs, err = parsePrefixes(value)
	case "Endpoint":
		p.Endpoint = value
	case "PersistentKeepalive":
		p.Keepalive, err = strconv.Atoi(value)
	default:
		return false, nil
	}
	return true, err
}

func parseList(s string) (list []string) {
	for v := range strings.SplitSeq(s, ",") {
		if v = strings.TrimSpace(v); v != "" {
			list = append(list, v)
		}
	}
	return list
}

// parsePrefixes reads addresses with or without a prefix length.
func parsePrefixes(s string) (list []netip.Prefix, err error) {
	for _, v := range parseList(s) {
		p, err := netip.ParsePrefix(v)
		if err != nil {
			a, err2 := netip.ParseAddr(v)
			if err2 != nil || a.Zone() != "" {
				return nil, err
			}
			p = netip.PrefixFrom(a, a.BitLen())
		}
		list = append(list, p)
	}
	return list, nil
}

// Setconf returns the configuration as `wg setconf` reads it: without what
// wg-quick does itself.
func (c Config) Setconf() string {
	var b strings.Builder
	fmt.Fprintf(&b, "[Interface]\nPrivateKey = %s\n", c.PrivateKey)
	if c.ListenPort > 0 {
		fmt.Fprintf(&b, "ListenPort = %d\n", c.ListenPort)
	}
	for _, p := range c.Peers {
		fmt.Fprintf(&b, "\n[Peer]\nPublicKey = %s\n", p.PublicKey)
		if p.PresharedKey != "" {
			fmt.Fprintf(&b, "PresharedKey = %s\n", p.PresharedKey)
		}
		if len(p.AllowedIPs) > 0 {
			fmt.Fprintf(&b, "AllowedIPs = %s\n", join(p.AllowedIPs))
		}
		if p.Endpoint != "" {
			fmt.Fprintf(&b, "Endpoint = %s\n", p.Endpoint)
		}
		if p.Keepalive > 0 {
			fmt.Fprintf(&b, "PersistentKeepalive = %d\n", p.Keepalive)
		}
	}
	return b.String()
}

func join(list []netip.Prefix) string {
	text := make([]string, len(list))
	for i, p := range list {
		text[i] = p.String()
	}
	return strings.Join(text, ", ")
}

// Toward returns the configuration with another endpoint for its first peer,
// the cluster.
func (c Config) Toward(endpoint netip.AddrPort) Config {
	c.Peers = append([]Peer(nil), c.Peers...)
	c.Peers[0].Endpoint = endpoint.String()
	return c
}

// Quiet returns the configuration without anything that makes a client send
// by itself, so that its first packet is the test's: no keepalive, and no IPv6
// inside, which talks whenever an interface comes up.
func (c Config) Quiet() Config {
	addrs := c.Addresses
	c.Addresses = nil
	for _, a := range addrs {
		if a.Addr().Is4() {
			c.Addresses = append(c.Addresses, a)
		}
	}
	c.Peers = append([]Peer(nil), c.Peers...)
	for i := range c.Peers {
		c.Peers[i].Keepalive = 0
	}
	return c
}
