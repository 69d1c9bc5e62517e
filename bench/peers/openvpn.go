package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"
)

const openvpnPort = 1194

// The two ends of OpenVPN's tunnel.
var (
	openvpnGateway = netip.MustParseAddr("10.98.0.1")
	openvpnClient  = netip.MustParseAddr("10.98.0.2")
)

// startOpenVPN starts OpenVPN point to point: TLS with pinned certificates, AES-256-GCM, in user space as the others.
func (l *lab) startOpenVPN(core int, _ []device) (*gateway, error) {
	prints := map[string]string{}
	for _, side := range []string{"gateway", "client"} {
		var err error
		if prints[side], err = l.certify(side); err != nil {
			return nil, fmt.Errorf("make certificate: %w", err)
		}
	}
	p, err := l.start(gatewayNS, core, nil, l.openvpn("gateway", gatewayTUN, prints["client"],
		"--tls-server", "--dh", "none", "--local", gatewayOuter, "--lport", fmt.Sprint(openvpnPort),
		"--ifconfig", openvpnGateway.String(), openvpnClient.String())...)
	if err != nil {
		return nil, err
	}
	c, err := l.start(clientNS, -1, nil, l.openvpn("client", clientTUN, prints["gateway"],
		"--tls-client", "--nobind", "--remote", gatewayOuter, fmt.Sprint(openvpnPort),
		"--ifconfig", openvpnClient.String(), openvpnGateway.String())...)
	if err != nil {
		return nil, err
	}
	g := &gateway{process: p, inner: openvpnGateway, address: openvpnClient}
	return g, l.until(c, "Initialization Sequence Completed", func() bool {
		return strings.Contains(c.text(), "Initialization Sequence Completed")
	})
}

// openvpn is a command line of OpenVPN.
func (l *lab) openvpn(side, tun, peer string, more ...string) []string {
	args := []string{
		"openvpn", "--dev", tun, "--dev-type", "tun", "--proto", "udp4", "--disable-dco", "--tun-mtu", "1420", "--mssfix", "0",
		"--cipher", "AES-256-GCM", "--data-ciphers", "AES-256-GCM", "--cert", l.file(side + ".crt"), "--key", l.file(side + ".key"),
		"--peer-fingerprint", peer, "--ping", "5", "--verb", "3",
	}
	return append(args, more...)
}

func (l *lab) file(name string) string { return filepath.Join(l.dir, name) }

// certify makes a certificate signed by itself and returns its fingerprint as OpenVPN reads it.
func (l *lab) certify(side string) (string, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: side},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return "", err
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return "", err
	}
	err = errors.Join(
		os.WriteFile(l.file(side+".crt"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}), 0o600),
		os.WriteFile(l.file(side+".key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}), 0o600))
	sum := sha256.Sum256(cert)
	return strings.TrimSuffix(fmt.Sprintf(strings.Repeat("%02X:", len(sum)), anys(sum[:])...), ":"), err
}

func anys(b []byte) (list []any) {
	for _, x := range b {
		list = append(list, x)
	}
	return list
}
