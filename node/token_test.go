package node_test

import (
	"context"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"flag"
	"math/rand/v2"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"gatemesh/cluster"
	"gatemesh/mesh"
	"gatemesh/node"
	"gatemesh/node/api"
	"gatemesh/node/nodetest"
)

var races = flag.Int("races", 60, "races of a token that is used twice at once")

// mintToken makes a token at g.
func mintToken(t *testing.T, g *nodetest.Gateway, want api.NewToken) node.JoinToken {
	t.Helper()
	made, err := g.CreateToken(t.Context(), want)
	if err != nil {
		t.Fatal(err)
	}
	token, err := node.ParseJoinToken(made.Secret)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// newcomer asks for admission as a gateway does, but keeps nothing.
type newcomer struct {
	key ed25519.PrivateKey
	net mesh.Network
}

// join asks the gateway at addr, whose node is member.
func (x newcomer) join(token node.JoinToken, at *nodetest.Gateway, member []byte) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	_, _, err := mesh.Join(ctx, mesh.JoinConfig{
		Key: x.key, Credential: token.Credential(member), Name: "newcomer", Network: x.net,
	}, netip.AddrPortFrom(at.Addr, 7946))
	return err
}

func idOf(t *testing.T, g *nodetest.Gateway) []byte {
	t.Helper()
	s, err := g.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	id, err := cluster.ParseNode(s.ID)
	if err != nil {
		t.Fatal(err)
	}
	return id[:]
}

// TestTokenRaces: one token, two newcomers at once, one at its issuer and one at the other gateway: together, across a
// split, and while a split begins. One joins, and the other is told why.
func TestTokenRaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := nodetest.New(t, 1)
		w.Net.Latency(time.Millisecond, time.Millisecond)
		a, b := w.Gateway(1, "a"), w.Gateway(2, "b")
		a.Start()
		time.Sleep(300 * time.Millisecond)
		b.Start()
		w.WaitReady(6*time.Second, a, b)
		if _, err := a.ChangeSettings(t.Context(), map[string]string{cluster.SettingAuditLevel: cluster.AuditOff}); err != nil {
			t.Fatal(err)
		}
		ids := map[*nodetest.Gateway][]byte{a: idOf(t, a), b: idOf(t, b)}
		side := func(g *nodetest.Gateway) []netip.Addr { return []netip.Addr{g.Addr} }
		hosts := []netip.Addr{w.Gateway(10, "").Addr, w.Gateway(11, "").Addr}
		rng := rand.New(rand.NewPCG(1, 2))
		figures := map[string]int{}
		for race := range *races {
			var x [2]newcomer
			for i := range x {
				var seed [32]byte
				binary.BigEndian.PutUint32(seed[:], uint32(1+2*race+i))
				x[i] = newcomer{ed25519.NewKeyFromSeed(seed[:]), w.Net.Host(hosts[i])}
			}
			token := mintToken(t, a, api.NewToken{})
			how := "together"
			switch race % 4 {
			case 2:
				how = "split"
				w.Net.Cut(side(a), side(b))
			case 3:
				how = "splitting"
			}
			time.Sleep(20 * time.Millisecond)
			var errs [2]error
			var wg sync.WaitGroup
			for i, g := range []*nodetest.Gateway{a, b} {
				late := time.Duration(rng.IntN(4)) * time.Millisecond
				wg.Go(func() {
					time.Sleep(late)
					errs[i] = x[i].join(token, g, ids[g])
				})
			}
			if how == "splitting" {
				time.Sleep(time.Duration(rng.IntN(15)) * time.Millisecond)
				w.Net.Cut(side(a), side(b))
			}
			wg.Wait()
			if how != "together" {
				w.Net.Heal(side(a), side(b))
				w.Wait("a and b linked", 30*time.Second, func() bool { return a.Ready(2) && b.Ready(2) })
				time.Sleep(time.Second)
			}
			joined := 0
			for i, err := range errs {
				var no *mesh.RefusedError
				switch {
				case err == nil:
					joined++
					figures[how+": joined at "+[]string{"its issuer", "the other"}[i]]++
				case errors.As(err, &no) && no.Final && no.Hint != "":
					figures[how+": "+no.Reason[:min(len(no.Reason), 25)]+"…"]++
				case errors.As(err, &no) || how == "together":
					t.Errorf("race %d, %s: %v", race, how, err)
				}
			}
			if joined != 1 && !(joined == 0 && how == "splitting") {
				t.Errorf("race %d, %s: %d joined: %v", race, how, joined, errs)
			}
			if joined == 0 { // the answer was lost, not the use: whoever has it succeeds now
				for i, g := range []*nodetest.Gateway{b, a} {
					if x[1-i].join(token, g, ids[g]) == nil {
						joined++
					}
				}
				if figures["splitting: joined when asked again"]++; joined != 1 {
					t.Errorf("race %d: %d joined when they asked again", race, joined)
				}
			}
		}
		for what, n := range figures {
			t.Logf("%4d %s", n, what)
		}
		all, err := b.ListTokens(t.Context())
		if err != nil || len(all) != *races {
			t.Fatalf("%d tokens, %v", len(all), err)
		}
		for _, x := range all {
			if x.Spent != 1 || x.State != api.TokenUsed {
				t.Errorf("token %s was used %d times", x.ID, x.Spent)
			}
		}
	})
}

// A gateway joins by a token alone, comes back without it, and is let in again if it lost what it was told.
func TestJoinByToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := nodetest.New(t, 1)
		a, b, c := w.Gateway(1, "a"), w.Gateway(2, "b"), w.Gateway(3, "c")
		a.Start()
		time.Sleep(300 * time.Millisecond)
		b.Start()
		w.WaitReady(6*time.Second, a, b)
		token := mintToken(t, b, api.NewToken{Label: "c"})
		byToken := func(cfg *node.Config) { cfg.Key, cfg.Token = nil, &token }
		c.Start(byToken)
		w.WaitReady(6*time.Second, a, b, c)
		c.Stop()
		c.Start(byToken) // as its unit file has it
		w.WaitReady(6*time.Second, a, b, c)

		// The clock of a newcomer.
		d := w.Gateway(4, "d")
		token = mintToken(t, a, api.NewToken{})
		d.Skew(2 * time.Minute)
		if err := failure(w, d, byToken); !strings.Contains(err.Error(), "the clocks differ by 2m0s") ||
			!strings.Contains(err.Error(), " at a") {
			t.Errorf("a clock that is fast: %v", err)
		}
		d.Skew(-30 * time.Second)
		d.Start(byToken)
		w.WaitReady(6*time.Second, a, b, c, d)

		// Expired while nobody looked.
		e := w.Gateway(5, "e")
		token = mintToken(t, a, api.NewToken{TTL: 60})
		time.Sleep(3 * time.Minute)
		if err := failure(w, e, byToken); !strings.Contains(err.Error(), "the join token has expired") {
			t.Errorf("an old token: %v", err)
		}
		// Who knows the token but is not who it names.
		token = mintToken(t, a, api.NewToken{})
		a.Kill()
		b.Kill()
		c.Kill()
		d.Kill()
		impostor := w.Gateway(1, "impostor")
		impostor.Start(func(cfg *node.Config) { cfg.Key = nil })
		w.WaitReady(6*time.Second, impostor)
		token.Places = token.Places[:1]
		if err := failure(w, e, byToken); !strings.Contains(err.Error(),
			"another gateway than the one that the join token names") {
			t.Errorf("an impostor: %v", err)
		}
	})
}

// failure starts a gateway that ends by itself, and returns why.
func failure(w *nodetest.World, g *nodetest.Gateway, change ...func(*node.Config)) error {
	g.Start(change...)
	return g.Failure(time.Minute)
}

// A gateway that has restarted counts uses once it has heard from another one: its disk may have been set back. The
// administrator is told. One that has nobody counts at once.
func TestTokensWaitForAPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := nodetest.New(t, 1)
		a, b := w.Gateway(1, "a"), w.Gateway(2, "b")
		a.Start()
		w.WaitReady(6*time.Second, a)
		join := func(i int, token node.JoinToken) error {
			key := ed25519.NewKeyFromSeed(append(make([]byte, 31), byte(i)))
			return newcomer{key, w.Net.Host(w.Gateway(20+i, "x").Addr)}.join(token, a, idOf(t, a))
		}
		state := func() string {
			all, err := a.ListTokens(t.Context())
			if err != nil || len(all) == 0 {
				t.Fatal(all, err)
			}
			return all[len(all)-1].State
		}
		alone := mintToken(t, a, api.NewToken{})
		a.Stop()
		a.Start()
		w.WaitReady(6*time.Second, a)
		if at := time.Now(); state() != api.TokenOpen || join(1, alone) != nil || time.Since(at) > time.Second {
			t.Errorf("alone: %s, after %v", state(), time.Since(at))
		}

		b.Start()
		w.Wait("both", 6*time.Second, func() bool { return a.Ready(2) && b.Ready(2) })
		token := mintToken(t, a, api.NewToken{Uses: 2})
		time.Sleep(time.Second)
		b.Stop()
		a.Stop()
		a.Start()
		w.Wait("a", 6*time.Second, func() bool { return a.Ready(1) })
		var no *mesh.RefusedError
		if err := join(2, token); !errors.As(err, &no) || !strings.Contains(no.Reason, "has not heard from another one") {
			t.Errorf("while the other is away: %v", err)
		}
		if state() != api.TokenWaiting || w.Logged("taken once another gateway is heard") != 1 {
			t.Errorf("the administrator sees: %s", state())
		}
		b.Start()
		w.Wait("both again", 15*time.Second, func() bool { return a.Ready(2) && b.Ready(2) })
		if err := join(2, token); err != nil || state() != api.TokenOpen {
			t.Errorf("with the other: %v, %s", err, state())
		}
	})
}
