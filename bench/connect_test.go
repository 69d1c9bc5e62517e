package bench

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/conn"

	"gatemesh/mesh/meshtest"
	"gatemesh/node"
	"gatemesh/node/api"
	"gatemesh/vpn/vpntest"
)

// inner is the address of every gateway inside the tunnel.
var inner = netip.MustParseAddr("100.64.0.1")

// gateways starts n gateways on loopback, in userspace mode, as one cluster.
func gateways(b *testing.B, n int) []*node.Node {
	b.Helper()
	lan := meshtest.NewNetwork(1) // nobody hears it: they are told whom to join
	key := node.NewClusterKey()
	var all []*node.Node
	join := ""
	for i := range n {
		lan.Host(meshtest.Addr(i + 1))
		started, ready := make(chan node.Started, 1), make(chan struct{})
		g, err := node.New(node.Config{
			Data: b.TempDir(), Name: fmt.Sprintf("g%d", i+1), Listen: ":0", Mesh: "127.0.0.1:0", Key: &key, Join: join,
			Dataplane: node.DataplaneUserspace, LAN: lan.LAN(meshtest.Addr(i + 1)), Socket: b.TempDir() + "/s",
			Started: func(s node.Started) { started <- s }, Ready: func() { close(ready) },
		})
		if err != nil {
			b.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			if err := errors.Join(g.Run(ctx), g.Close()); err != nil {
				b.Error(err)
			}
		}()
		b.Cleanup(func() { cancel(); <-ended })
		select {
		case <-ready:
		case <-ended:
			b.FailNow()
		case <-time.After(20 * time.Second):
			b.Fatal("a gateway does not become ready")
		}
		if s := <-started; i == 0 {
			join = s.Mesh.String()
		}
		all = append(all, g)
	}
	for _, g := range all {
		await(b, func() bool {
			s, err := g.Status(context.Background())
			return err == nil && s.Gateways == n
		})
	}
	return all
}

func await(b *testing.B, ok func() bool) {
	b.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			b.Fatal("it does not come")
		}
	}
}

// BenchmarkConnect enrols one device after another, each durably, lets every
// gateway know, connects it at the first gateway and waits for its first reply.
// With several gateways most are steered. Devices stay connected.
//
//	add-ms    from the request to the acknowledged, synced write
//	spread-ms from there until the last gateway knows the device
//	reply-ms  from the first packet to its reply, handshake included
func BenchmarkConnect(b *testing.B) {
	for _, n := range []int{1, 3} {
		b.Run(fmt.Sprintf("gateways=%d", n), func(b *testing.B) {
			all := gateways(b, n)
			ctx := context.Background()
			var add, spread, reply time.Duration
			devices := 0
			for b.Loop() {
				devices++
				private, public := vpntest.NewKey()
				at := time.Now()
				e, err := all[0].AddDevice(ctx, api.NewDevice{Name: fmt.Sprintf("d%d", devices), PublicKey: base64.StdEncoding.EncodeToString(public[:])})
				if err != nil {
					b.Fatal(err)
				}
				add += time.Since(at)
				at = time.Now()
				for _, g := range all[1:] {
					await(b, func() bool { s, err := g.Status(ctx); return err == nil && s.Devices == devices })
				}
				spread += time.Since(at)
				reply += connect(b, private, e)
			}
			per := func(d time.Duration) float64 { return d.Seconds() * 1000 / float64(devices) }
			b.ReportMetric(per(add), "add-ms")
			b.ReportMetric(per(spread), "spread-ms")
			b.ReportMetric(per(reply), "reply-ms")
		})
	}
}

// connect starts a stock client and returns how long its first ping took.
func connect(b *testing.B, private [32]byte, e api.Enrolment) time.Duration {
	b.Helper()
	server, err := base64.StdEncoding.DecodeString(e.PublicKey)
	if err != nil {
		b.Fatal(err)
	}
	c := vpntest.NewClient(b, vpntest.ClientConfig{
		Bind: conn.NewStdNetBind(), PrivateKey: private, PeerKey: [32]byte(server),
		Endpoint: netip.MustParseAddrPort(e.Endpoint), Addresses: []netip.Addr{netip.MustParseAddr(e.Device.Addresses[0])},
	})
	took, ok := c.RoundTrip(inner, 20*time.Second)
	if !ok {
		b.Fatal("no reply")
	}
	return took
}
