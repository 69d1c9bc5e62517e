package mesh_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gatemesh/mesh"
	"gatemesh/mesh/meshtest"
)

// claimed is a gateway's answers to those who claim it.
type claimed struct {
	taken atomic.Int32

	mu     sync.Mutex // guards the fields below
	code   [32]byte
	tries  []netip.Addr
	right  int
	offers []string
	refuse error  // of Try
	cut    func() // called by Take
	no     error  // of Take
}

func (c *claimed) Try(from netip.Addr) ([32]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tries = append(c.tries, from)
	return c.code, c.refuse
}

func (c *claimed) Right(netip.Addr) ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.right++
	return []byte("about"), nil
}

func (c *claimed) Take(_ context.Context, secret [32]byte, offer []byte) ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.offers = append(c.offers, string(offer))
	if secret != c.code {
		return nil, errors.New("another code")
	}
	if c.cut != nil {
		c.cut()
	}
	return []byte("answer"), c.no
}

func (c *claimed) Taken() { c.taken.Add(1) }

func offering(text string) func(mesh.ID, []byte) ([]byte, error) {
	return func(mesh.ID, []byte) ([]byte, error) {
		if text == "" {
			return nil, nil
		}
		return []byte(text), nil
	}
}

func TestClaim(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := meshtest.NewNetwork(1)
		c := &claimed{code: [32]byte{7}}
		a := start(t, n, "a", 1, func(cfg *mesh.Config) { cfg.Claims = c })
		deaf := start(t, n, "b", 2)
		cfg := mesh.ClaimConfig{Key: key("member"), Secret: c.code, Network: n.Host(meshtest.Addr(3))}

		if got, err := mesh.Claim(t.Context(), cfg, a.addr(), offering("")); err != nil || got != nil || len(c.offers) != 0 ||
			c.taken.Load() != 0 {
			t.Errorf("looked: %q, %v, %v", got, err, c.offers)
		}
		var seen mesh.ID
		got, err := mesh.Claim(t.Context(), cfg, a.addr(), func(id mesh.ID, about []byte) ([]byte, error) {
			seen = id
			return append(about, " offer"...), nil
		})
		time.Sleep(time.Second) // for the last word
		if err != nil || string(got) != "answer" || seen != a.id() || c.right != 2 || c.taken.Load() != 1 ||
			c.offers[0] != "about offer" {
			t.Errorf("%q, %v, %v", got, err, c.offers)
		}
		if c.tries[0] != meshtest.Addr(3) {
			t.Errorf("tried from %v", c.tries)
		}

		wrong := cfg
		wrong.Secret[9]++
		if _, err := mesh.Claim(t.Context(), wrong, a.addr(), offering("x")); !errors.Is(err, mesh.ErrWrongCode) ||
			c.right != 2 {
			t.Errorf("wrong code: %v", err)
		}
		other := cfg
		other.Gateway = deaf.id()
		var who *mesh.OtherError
		if _, err := mesh.Claim(t.Context(), other, a.addr(), offering("x")); !errors.As(err, &who) || who.Got != a.id() ||
			len(c.tries) != 3 {
			t.Errorf("another gateway: %v, %d tries", err, len(c.tries))
		}
		if _, err := mesh.Claim(t.Context(), cfg, deaf.addr(), offering("x")); !errors.Is(err, mesh.ErrNotMember) {
			t.Errorf("cannot be claimed: %v", err)
		}
		var no *mesh.RefusedError
		c.refuse = &mesh.RefusedError{Reason: "too many", Hint: "wait"}
		if _, err := mesh.Claim(t.Context(), cfg, a.addr(), offering("x")); !errors.As(err, &no) || no.Reason != "too many" ||
			no.Hint != "wait" {
			t.Errorf("refused: %v", err)
		}
		c.refuse, c.no = nil, &mesh.RefusedError{Reason: "not that"}
		if _, err := mesh.Claim(t.Context(), cfg, a.addr(), offering("x")); !errors.As(err, &no) || no.Reason != "not that" ||
			c.taken.Load() != 1 {
			t.Errorf("offer refused: %v, %d taken", err, c.taken.Load())
		}
		stop := errors.New("changed my mind")
		_, err = mesh.Claim(t.Context(), cfg, a.addr(), func(mesh.ID, []byte) ([]byte, error) { return nil, stop })
		if !errors.Is(err, stop) {
			t.Error(err)
		}
		closeAll(a, deaf)
	})
}

// A connection that breaks after an offer was accepted leaves one side in doubt, and the other one does what it
// accepted.
func TestClaimIsCutOff(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := meshtest.NewNetwork(1)
		c := &claimed{code: [32]byte{7}}
		a := start(t, n, "a", 1, func(cfg *mesh.Config) { cfg.Claims = c })
		cfg := mesh.ClaimConfig{Key: key("member"), Secret: c.code, Network: n.Host(meshtest.Addr(3))}
		c.cut = func() { n.Vanish(a.host) }
		var no *mesh.RefusedError
		if _, err := mesh.Claim(t.Context(), cfg, a.addr(), offering("offer")); err == nil || errors.As(err, &no) {
			t.Errorf("cut off: %v", err)
		}
		time.Sleep(2 * time.Minute)
		n.Return(a.host)
		if len(c.offers) != 1 || c.taken.Load() != 1 {
			t.Errorf("%d offers, %d taken", len(c.offers), c.taken.Load())
		}
		// Before it was made nothing has happened.
		_, err := mesh.Claim(t.Context(), cfg, a.addr(), func(mesh.ID, []byte) ([]byte, error) {
			n.Vanish(a.host)
			return []byte("offer"), nil
		})
		if err == nil {
			t.Error("an answer from beyond")
		}
		time.Sleep(2 * time.Minute)
		n.Return(a.host)
		if len(c.offers) != 1 || c.taken.Load() != 1 {
			t.Errorf("%d offers, %d taken", len(c.offers), c.taken.Load())
		}
		closeAll(a)
	})
}

func TestLogon(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := meshtest.NewNetwork(1)
		var came mesh.Newcomer
		var said string
		var refuse error
		a := start(t, n, "a", 1, func(cfg *mesh.Config) {
			cfg.Logon = func(_ context.Context, c mesh.Newcomer, user, password string) ([]byte, error) {
				came, said = c, user+"/"+password
				return []byte("grant"), refuse
			}
		})
		deaf := start(t, n, "b", 2)
		cfg := mesh.LogonConfig{
			Key: key("n"), Member: a.id(), Name: "n", Version: "v", User: "anna", Password: "geheim",
			Network: n.Host(meshtest.Addr(3)),
		}
		got, err := mesh.Logon(t.Context(), cfg, a.addr())
		if err != nil || string(got) != "grant" || said != "anna/geheim" || came.Name != "n" ||
			came.Addr.Addr() != meshtest.Addr(3) ||
			!came.Key.Equal(key("n").Public()) {
			t.Errorf("%q, %v, %q, %+v", got, err, said, came)
		}
		if id, err := mesh.Meet(t.Context(), key("n"), cfg.Network, a.addr()); err != nil || id != a.id() {
			t.Errorf("met %v, %v", id, err)
		}
		refuse = &mesh.RefusedError{Reason: "locked", Hint: "wait"}
		var no *mesh.RefusedError
		if _, err := mesh.Logon(t.Context(), cfg, a.addr()); !errors.As(err, &no) || no.Reason != "locked" ||
			no.Hint != "wait" {
			t.Errorf("refused: %v", err)
		}
		said = ""
		cfg.Member = deaf.id()
		var who *mesh.OtherError
		if _, err := mesh.Logon(t.Context(), cfg, a.addr()); !errors.As(err, &who) || who.Got != a.id() || said != "" {
			t.Errorf("another gateway: %v, said %q", err, said)
		}
		if _, err := mesh.Logon(t.Context(), cfg, deaf.addr()); !errors.Is(err, mesh.ErrNotMember) {
			t.Errorf("nobody to log on at: %v", err)
		}
		closeAll(a, deaf)
	})
}

// relay is a man in the middle of a conversation of protocol proto: it speaks TLS to both sides, under keys of its
// own, and keeps what it passes on.
type relay struct {
	addr   netip.AddrPort
	mu     sync.Mutex // guards the fields below
	passed bytes.Buffer
}

func (r *relay) text() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.passed.String()
}

func (r *relay) Write(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.passed.Write(b)
}

func startRelay(t *testing.T, n *meshtest.Network, host netip.Addr, to netip.AddrPort, proto string) *relay {
	t.Helper()
	h := n.Host(host)
	k := key("mallory")
	der, err := x509.CreateCertificate(nil, &x509.Certificate{SerialNumber: big.NewInt(1)}, &x509.Certificate{},
		k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	cfg := &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: k}}, NextProtos: []string{proto},
		ClientAuth: tls.RequireAnyClientCert, InsecureSkipVerify: true, MinVersion: tls.VersionTLS13,
	}
	l, err := h.Listen(":7946")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	r := &relay{addr: netip.AddrPortFrom(host, 7946)}
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			go r.pass(h, in, to, cfg)
		}
	}()
	return r
}

func (r *relay) pass(h mesh.Network, in net.Conn, to netip.AddrPort, cfg *tls.Config) {
	defer in.Close()
	out, err := h.Dial(context.Background(), to)
	if err != nil {
		return
	}
	defer out.Close()
	deadline := time.Now().Add(20 * time.Second)
	_, _ = in.SetDeadline(deadline), out.SetDeadline(deadline)
	a, b := tls.Server(in, cfg), tls.Client(out, cfg)
	if a.Handshake() != nil || b.Handshake() != nil {
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(a, io.TeeReader(b, r))
		_ = a.CloseWrite()
	}()
	_, _ = io.Copy(b, io.TeeReader(a, r))
	_ = b.CloseWrite()
	<-done
}

// Who passes a claim on between two connections has two exporters: its proofs are wrong at both ends, and neither the
// code nor an offer comes by.
func TestClaimThroughAMiddle(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := meshtest.NewNetwork(1)
		c := &claimed{code: [32]byte{7}}
		a := start(t, n, "a", 1, func(cfg *mesh.Config) { cfg.Claims = c })
		r := startRelay(t, n, meshtest.Addr(4), a.addr(), "gatemesh-claim/1")
		cfg := mesh.ClaimConfig{Key: key("member"), Secret: c.code, Network: n.Host(meshtest.Addr(3))}
		if _, err := mesh.Claim(t.Context(), cfg, r.addr, offering("offer")); !errors.Is(err, mesh.ErrWrongCode) {
			t.Errorf("relayed: %v", err)
		}
		if c.right != 0 || len(c.offers) != 0 || len(c.tries) != 1 {
			t.Errorf("%+v", c)
		}
		if len(r.text()) == 0 || bytes.Contains([]byte(r.text()), []byte("offer")) {
			t.Errorf("passed on: %q", r.text())
		}

		// A proof that was seen proves nothing on another connection.
		seen := r.text()
		if len(replay(t, n.Host(meshtest.Addr(5)), a.addr(), []byte(seen))) == 0 {
			t.Error("no answer to the replayed proof")
		}
		if c.right != 0 || len(c.tries) != 2 {
			t.Errorf("replayed: %+v", c)
		}
		closeAll(a)
	})
}

// replay sends bytes on a new connection of claims, and returns the answer.
func replay(t *testing.T, h mesh.Network, to netip.AddrPort, b []byte) []byte {
	t.Helper()
	k := key("member") // even with the key of the one that was heard
	der, err := x509.CreateCertificate(nil, &x509.Certificate{SerialNumber: big.NewInt(1)}, &x509.Certificate{},
		k.Public().(ed25519.PublicKey), k)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := h.Dial(t.Context(), to)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	c := tls.Client(raw, &tls.Config{
		Certificates:       []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: k}},
		NextProtos:         []string{"gatemesh-claim/1"},
		InsecureSkipVerify: true, MinVersion: tls.VersionTLS13,
	})
	if _, err := c.Write(b); err != nil {
		t.Fatal(err)
	}
	_ = raw.SetReadDeadline(time.Now().Add(10 * time.Second))
	answer, _ := io.ReadAll(c)
	return answer
}

// Who sits between a newcomer and its member has another fingerprint, and is told no password.
func TestLogonThroughAMiddle(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := meshtest.NewNetwork(1)
		asked := 0
		a := start(t, n, "a", 1, func(cfg *mesh.Config) {
			cfg.Logon = func(context.Context, mesh.Newcomer, string, string) ([]byte, error) { asked++; return nil, nil }
		})
		r := startRelay(t, n, meshtest.Addr(4), a.addr(), "gatemesh-logon/1")
		cfg := mesh.LogonConfig{
			Key: key("n"), Member: a.id(), User: "anna", Password: "geheim",
			Network: n.Host(meshtest.Addr(3)),
		}
		var who *mesh.OtherError
		if _, err := mesh.Logon(t.Context(), cfg, r.addr); !errors.As(err, &who) || who.Got != gatewayID(key("mallory")) {
			t.Errorf("relayed: %v", err)
		}
		if asked != 0 || bytes.Contains([]byte(r.text()), []byte("geheim")) {
			t.Errorf("asked %d times, passed on %q", asked, r.text())
		}
		cfg.Member = gatewayID(key("mallory")) // what a confirmed fingerprint of the wrong one costs
		if _, err := mesh.Logon(t.Context(), cfg, r.addr); err != nil || asked != 1 ||
			!bytes.Contains([]byte(r.text()), []byte("geheim")) {
			t.Errorf("the relay does not work: %v", err)
		}
		closeAll(a)
	})
}
