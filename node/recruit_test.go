package node_test

import (
	"context"
	"crypto/ed25519"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"gatemesh/mesh"
	"gatemesh/node"
	"gatemesh/node/api"
	"gatemesh/node/nodetest"
)

// alone starts a gateway that begins a cluster of its own.
func alone(w *nodetest.World, i int, name string) *nodetest.Gateway {
	g := w.Gateway(i, name)
	g.Start(func(c *node.Config) { c.Key = nil })
	w.Wait(name+" is ready", 10*time.Second, func() bool { return g.Ready(1) })
	return g
}

// at is where a gateway is claimed, with its code.
func at(t *testing.T, g *nodetest.Gateway) api.GatewayAt {
	t.Helper()
	c, err := g.ClaimCode(context.Background(), api.ClaimCodeQuery{})
	if err != nil {
		t.Fatal(err)
	}
	return api.GatewayAt{Address: g.Addr.String(), Code: c.Code, Fingerprint: c.Fingerprint}
}

// refused says whether err is a refusal whose text has part.
func refused(err error, part string) bool {
	var e *api.Error
	return errors.As(err, &e) && strings.Contains(e.Message, part) && e.Hint != ""
}

func TestGatewayAdd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		w := nodetest.New(t, 1)
		a, b := w.Gateway(1, "a"), w.Gateway(2, "b")
		a.Start()
		b.Start()
		w.WaitReady(15*time.Second, a, b)
		w.Enrol(a, "laptop")
		x := alone(w, 3, "x")
		w.Enrol(x, "phone")
		w.Enrol(x, "tablet")

		old := keyOf(t, x)
		none := api.GatewayAt{Address: x.Addr.String(), Code: node.NewClaimCode().String()}
		if _, err := a.LookAt(ctx, none); !refused(err, "nobody has asked") {
			t.Errorf("before a code was shown: %v", err)
		}
		where := at(t, x)
		found, err := a.LookAt(ctx, where)
		if err != nil || found.Name != "x" || found.Devices != 2 || found.Gateways != 1 || found.Connected != 0 ||
			found.Fingerprint != where.Fingerprint {
			t.Fatalf("%+v, %v", found, err)
		}
		if _, err := a.LookAt(ctx, none); !refused(err, "another claim code") {
			t.Errorf("wrong code: %v", err)
		}
		if _, err := a.AddGateway(ctx, api.GatewayAt{Address: where.Address, Code: where.Code}); !refused(err,
			"no fingerprint") {
			t.Errorf("unseen: %v", err)
		}
		other := where
		other.Fingerprint = at(t, b).Fingerprint
		if _, err := a.AddGateway(ctx, other); !refused(err, "has the fingerprint "+where.Fingerprint) {
			t.Errorf("another one: %v", err)
		}
		if _, err := a.LookAt(ctx, at(t, b)); !refused(err, "of this cluster already") {
			t.Errorf("its own member: %v", err)
		}

		type result struct {
			api.AddedGateway
			error
		}
		done := make(chan result, 1)
		go func() {
			r, err := a.AddGateway(ctx, where)
			done <- result{r, err}
		}()
		x.Reborn()
		r := <-done
		if r.error != nil || !r.Joined || r.Name != "x" {
			t.Fatalf("%+v", r)
		}
		w.WaitReady(15*time.Second, a, b, x)
		s, err := x.Status(ctx)
		if err != nil || s.ID != r.ID || s.Devices != 1 || s.ID == where.Fingerprint {
			t.Errorf("%+v, %v; want id %s", s, err, r.ID)
		}
		for name, dir := range map[string]bool{"store": true, "node.key": false, "claim-code": false} {
			if st, err := os.Stat(filepath.Join(r.Saved, name)); err != nil || st.IsDir() != dir {
				t.Errorf("saved %s: %v", name, err)
			}
		}
		if st, err := os.Stat(r.Saved); err != nil || st.Mode().Perm() != 0o700 {
			t.Errorf("%v, %v", st.Mode(), err)
		}
		if tokens, err := a.ListTokens(ctx); err != nil || len(tokens) != 1 || tokens[0].State != api.TokenUsed {
			t.Errorf("%+v, %v", tokens, err)
		}
		// The code is used up.
		if _, err := b.LookAt(ctx, api.GatewayAt{Address: where.Address, Code: where.Code}); !refused(err,
			"nobody has asked") {
			t.Errorf("the code again: %v", err)
		}
		x.Stop()
		x.Start(func(c *node.Config) { c.Key = &old; c.Pool = netip.MustParsePrefix("10.9.0.0/16") }) // flags of before
		w.WaitReady(15*time.Second, a, b, x)
	})
}

// keyOf returns the key of a gateway's cluster.
func keyOf(t *testing.T, g *nodetest.Gateway) node.ClusterKey {
	t.Helper()
	text, err := g.ClusterKey(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	k, err := node.ParseClusterKey(text.Key)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// What stands against a claim leaves the gateway as it is.
func TestGatewayAddRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		w := nodetest.New(t, 1)
		a := w.Gateway(1, "a")
		a.Start()
		w.WaitReady(15*time.Second, a)
		x := alone(w, 3, "x")
		where := at(t, x)

		// renewed meanwhile
		c, err := x.ClaimCode(ctx, api.ClaimCodeQuery{Renew: true})
		if err != nil || c.Code == where.Code {
			t.Fatalf("%+v, %v", c, err)
		}
		if _, err := a.AddGateway(ctx, where); !refused(err, "another claim code") {
			t.Errorf("the old code: %v", err)
		}
		// wrong codes, until none is looked at, the right one neither
		where.Code = c.Code
		for range 4 {
			wrong := where
			wrong.Code = node.NewClaimCode().String()
			if _, err := a.LookAt(ctx, wrong); !refused(err, "another claim code") {
				t.Errorf("wrong code: %v", err)
			}
		}
		if _, err := a.LookAt(ctx, where); !refused(err, "for another 10 minutes") {
			t.Errorf("locked: %v", err)
		}
		time.Sleep(10 * time.Minute)
		if _, err := a.LookAt(ctx, where); err != nil {
			t.Errorf("ten minutes later: %v", err)
		}
		for _, bad := range []api.GatewayAt{
			{Address: where.Address, Code: "geheim"},
			{Address: "10.0.0.3:x", Code: where.Code},
			{Address: "", Code: where.Code},
		} {
			if _, err := a.LookAt(ctx, bad); !refused(err, "") {
				t.Errorf("%+v: %v", bad, err)
			}
		}
		if _, err := a.LookAt(ctx, api.GatewayAt{Address: "10.0.0.99", Code: where.Code}); !refused(err,
			"no gateway to claim answers at 10.0.0.99") {
			t.Errorf("nobody there: %v", err)
		}

		// others are connected to it
		k := keyOf(t, x)
		y := w.Gateway(4, "y")
		y.Start(func(c *node.Config) { c.Key = &k })
		w.WaitReady(15*time.Second, x, y)
		if _, err := a.AddGateway(ctx, where); !refused(err, "1 other gateways are connected") {
			t.Errorf("connected: %v", err)
		}
		if tokens, err := a.ListTokens(ctx); err != nil || len(tokens) == 0 || tokens[0].State != api.TokenRevoked {
			t.Errorf("%+v, %v", tokens, err)
		}
		if !x.Ready(2) {
			t.Error("it has not stayed what it was")
		}
		where.Force = true
		done := make(chan error, 1)
		go func() { _, err := a.AddGateway(ctx, where); done <- err }()
		x.Reborn()
		if err := <-done; err != nil {
			t.Errorf("forced: %v", err)
		}
		w.Wait("the one that was left goes on", 15*time.Second, func() bool { return y.Ready(1) && a.Ready(2) && x.Ready(2) })
	})
}

// A gateway that is claimed and then finds nobody who lets it in is what it was again.
func TestClaimedInVain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		w := nodetest.New(t, 1)
		a := w.Gateway(1, "a")
		a.Start()
		w.WaitReady(15*time.Second, a)
		x := alone(w, 3, "x")
		w.Enrol(x, "phone")
		was, err := x.Status(ctx)
		if err != nil {
			t.Fatal(err)
		}
		where, old := at(t, x), keyOf(t, x)
		done := make(chan error, 1)
		go func() { _, err := a.AddGateway(ctx, where); done <- err }()
		if err := x.Ended(time.Minute); !errors.Is(err, node.ErrReset) {
			t.Fatal(err)
		}
		a.Vanish()
		reborn := func(c *node.Config) { *c = c.Reset() }
		x.Start(reborn)
		time.Sleep(time.Minute)
		x.Stop() // and once more on the way
		if err := <-done; err != nil {
			t.Errorf("claimed: %v", err)
		}
		x.Start(func(c *node.Config) { c.Key = &old }) // as a service manager starts it
		if err := x.Ended(20 * time.Minute); !errors.Is(err, node.ErrReset) {
			t.Fatal(err)
		}
		x.Start(reborn)
		w.Wait("what it was", 10*time.Second, func() bool { return x.Ready(1) })
		s, err := x.Status(ctx)
		if err != nil || s.ID != was.ID || s.Cluster != was.Cluster || s.Devices != 1 {
			t.Errorf("%+v, %v; it was %+v", s, err, was)
		}
		if c, err := x.ClaimCode(ctx, api.ClaimCodeQuery{}); err != nil || c.Code != where.Code {
			t.Errorf("%+v, %v", c, err)
		}

		// The cluster is back, but its rules have changed: nothing is begun that could not end well.
		a.Return()
		if _, err := a.ChangeSettings(ctx, map[string]string{"joins": "off"}); err != nil {
			t.Fatal(err)
		}
		if _, err := a.AddGateway(ctx, where); !refused(err, "no further gateways may join") || !x.Ready(1) {
			t.Errorf("joins are off: %v", err)
		}
	})
}

// A token that was made for one gateway is of no use to another.
func TestTokenForAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		w := nodetest.New(t, 1)
		a := w.Gateway(1, "a")
		a.Start()
		w.WaitReady(15*time.Second, a)
		public, _, err := ed25519.GenerateKey(nil)
		if err != nil {
			t.Fatal(err)
		}
		token, err := node.Invite(ctx, a.Node, public)
		if err != nil {
			t.Fatal(err)
		}
		x := w.Gateway(2, "x")
		x.Start(func(c *node.Config) { c.Key, c.Token = nil, token })
		if err := x.Ended(time.Minute); err == nil || !strings.Contains(err.Error(),
			"the join token was made for another gateway") {
			t.Errorf("%v", err)
		}
		if tokens, err := a.ListTokens(ctx); err != nil || len(tokens) != 1 || tokens[0].Spent != 0 {
			t.Errorf("%+v, %v", tokens, err)
		}
	})
}

// watched is a network that calls dials before each dial.
type watched struct {
	mesh.Network
	dials func()
}

func (p watched) Dial(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	p.dials()
	return p.Network.Dial(ctx, to)
}

// A device that is acknowledged while a claimed gateway looks whether it reaches the cluster was not agreed to be lost.
func TestDeviceComesWhileClaimed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		w := nodetest.New(t, 1)
		a, x := w.Gateway(1, "a"), w.Gateway(2, "x")
		a.Start()
		w.WaitReady(15*time.Second, a)
		var claimed, added bool
		x.Start(func(c *node.Config) {
			c.Key = nil
			c.Network = watched{c.Network, func() {
				if claimed && !added {
					added = true
					w.Enrol(x, "phone")
				}
			}}
		})
		w.Wait("x is ready", 10*time.Second, func() bool { return x.Ready(1) })
		where := at(t, x)
		claimed = true
		if _, err := a.AddGateway(ctx, where); !refused(err, "it has 1 devices by now, not 0") || !added {
			t.Errorf("added: %v; %v", added, err)
		}
		w.Enrol(x, "tablet") // changes are taken on
		if all, err := x.ListDevices(ctx); err != nil || len(all) != 2 {
			t.Errorf("x has %+v, %v", all, err)
		}
	})
}
