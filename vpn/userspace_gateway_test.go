package vpn

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
)

// stockDevice is the module's device at a Gateway of ours, over real sockets; its
// interface is a Userspace, whose stack is the device's own here.
type stockDevice struct {
	*device.Device
	client  *Userspace
	gateway *Gateway
	done    chan error // Run's
	cancel  context.CancelFunc
}

// newStockDevice starts a Gateway that has dev and knows one device.
func newStockDevice(t *testing.T, dev tun.Device, addresses ...netip.Addr) *stockDevice {
	t.Helper()
	gatewayPrivate, devicePrivate := newEphemeral(), newEphemeral()
	known := Device{Key: Key(devicePrivate.PublicKey().Bytes())}
	for _, a := range addresses {
		known.Addresses = append(known.Addresses, netip.PrefixFrom(a, a.BitLen()))
	}
	g, err := New(Config{
		PrivateKey: Key(gatewayPrivate.Bytes()),
		TUN:        dev,
		Lookup:     func(k Key) (Device, bool) { return known, k == known.Key },
	})
	if err != nil {
		t.Fatal(err)
	}
	g.Allow(time.Now().Add(time.Hour))
	d := &stockDevice{gateway: g, done: make(chan error, 1)}
	ctx, cancel := context.WithCancel(context.Background())
	d.cancel = cancel
	go func() { d.done <- g.Run(ctx) }()

	if d.client, err = NewUserspace(UserspaceConfig{Addresses: addresses}); err != nil {
		t.Fatal(err)
	}
	d.Device = device.NewDevice(d.client, conn.NewStdNetBind(), device.NewLogger(device.LogLevelSilent, ""))
	if err := d.IpcSet(fmt.Sprintf(
		"private_key=%s\npublic_key=%s\nendpoint=127.0.0.1:%d\nallowed_ip=0.0.0.0/0\nallowed_ip=::/0\n",
		hex.EncodeToString(devicePrivate.Bytes()), hex.EncodeToString(gatewayPrivate.PublicKey().Bytes()), g.Port(),
	)); err != nil {
		t.Fatal(err)
	}
	if err := d.Up(); err != nil {
		t.Fatal(err)
	}
	return d
}

// stop ends both, and the Gateway's tun.Device.
func (d *stockDevice) stop() error {
	d.Device.Close()
	d.cancel()
	<-d.done
	return d.gateway.Close()
}

func (d *stockDevice) dial(to netip.AddrPort) (*gonet.TCPConn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	protocol, _ := networkOf(to.Addr())
	return gonet.DialContextTCP(ctx, d.client.stack, tcpip.FullAddress{NIC: userspaceNIC, Addr: tcpip.AddrFromSlice(to.Addr().AsSlice()), Port: to.Port()}, protocol)
}

// exchange sends data both ways between the two ends of a connection, at once.
func exchange(t *testing.T, c, s net.Conn, data []byte) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	c.SetDeadline(deadline)
	s.SetDeadline(deadline)
	var wg sync.WaitGroup
	for _, way := range []struct{ from, to net.Conn }{{c, s}, {s, c}} {
		wg.Go(func() {
			way.from.Write(data)
			closeWrite(way.from)
		})
		wg.Go(func() {
			if got, err := io.ReadAll(way.to); err != nil || !bytes.Equal(got, data) {
				t.Errorf("read %d bytes, %v; want the %d sent", len(got), err, len(data))
			}
		})
	}
	wg.Wait()
	c.Close()
	s.Close()
}

// randomBytes returns the same n bytes each time.
func randomBytes(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}

// A stock device reaches a TCP server of the host's network through a Gateway
// without privileges.
func TestUserspaceBehindGateway(t *testing.T) {
	server, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	u, err := NewUserspace(UserspaceConfig{
		Addresses: []netip.Addr{gateway4, gateway6},
		Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, server.Addr().String())
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	d := newStockDevice(t, u, device4, device6)
	defer func() {
		if err := d.stop(); err != nil {
			t.Error("close gateway:", err)
		}
	}()
	for _, to := range []netip.AddrPort{server4, server6} {
		c, err := d.dial(to)
		if err != nil {
			t.Fatalf("dial %s: %v", to, err)
		}
		s, err := server.AcceptTCP()
		if err != nil {
			t.Fatal(err)
		}
		exchange(t, c, s, randomBytes(256<<10))
	}
	if s := u.Stats(); s.Dialed != 2 || s.Failed != 0 || s.Refused != 0 {
		t.Errorf("stats %+v, want two connections dialed", s)
	}
}
