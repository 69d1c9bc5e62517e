package mesh

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
)

func seeded(s string) ed25519.PrivateKey {
	sum := sha256.Sum256([]byte(s))
	return ed25519.NewKeyFromSeed(sum[:])
}

// between passes frames on between newcomers, to whom it pretends to be a member, and a member, to whom it pretends to
// be a newcomer. It counts the frames that it gets to see of newcomers.
func between(t *testing.T, key ed25519.PrivateKey, member netip.AddrPort) (at netip.AddrPort, seen *atomic.Int32) {
	t.Helper()
	self, err := newIdentity(key)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	seen = &atomic.Int32{}
	relay := func(raw net.Conn) {
		defer raw.Close()
		front, err := self.handshake(context.Background(), raw, false, protoJoin)
		if err != nil {
			return
		}
		onward, err := net.Dial("tcp", member.String())
		if err != nil {
			return
		}
		defer onward.Close()
		back, err := self.handshake(context.Background(), onward, true, protoJoin)
		if err != nil {
			return
		}
		pass := func(from, to *wire, count *atomic.Int32) {
			for {
				k, body, err := readFrame(from.r, joinLimit)
				if err != nil {
					from.close()
					to.close()
					return
				}
				count.Add(1)
				if _, err := to.conn.Write(frame(k, body)); err != nil {
					return
				}
			}
		}
		go pass(back, front, &atomic.Int32{})
		pass(front, back, seen)
	}
	go func() {
		for {
			raw, err := l.Accept()
			if err != nil {
				return
			}
			go relay(raw)
		}
	}()
	return netip.MustParseAddrPort(l.Addr().String()), seen
}

// frame is encode for a body that is encoded already.
func frame(k kind, body []byte) []byte {
	f := encode(k, nil)
	n := 1 + len(body)
	f[0], f[1], f[2], f[3] = byte(n>>24), byte(n>>16), byte(n>>8), byte(n)
	return append(f, body...)
}

// A proof is of one connection, be it between the same two.
func TestProofsOfTwoConnectionsDiffer(t *testing.T) {
	newcomer, member := seeded("newcomer"), seeded("member")
	prove := func() string {
		a, b := net.Pipe()
		defer a.Close()
		defer b.Close()
		ours, err := newIdentity(newcomer)
		theirs, err2 := newIdentity(member)
		if err != nil || err2 != nil {
			t.Fatal(err, err2)
		}
		go func() { _, _ = theirs.handshake(t.Context(), b, false, protoJoin) }()
		w, err := ours.handshake(t.Context(), a, true, protoJoin)
		if err != nil {
			t.Fatal(err)
		}
		p, err := Credential{Kind: CredentialKey}.prove(w, newcomerSide, ours.public(), w.key)
		if err != nil {
			t.Fatal(err)
		}
		return string(p)
	}
	if first, second := prove(), prove(); first == second {
		t.Error("a proof can be used on another connection")
	}
}

// Who sits in the middle of a join learns nothing and lets nobody in: the proofs are of one connection and of both keys
// on it. Where the member's fingerprint is known, it is not even told what the newcomer would prove, also if it has the
// same token.
func TestManInTheMiddleOfAJoin(t *testing.T) {
	welcomed := atomic.Int32{}
	m, err := New(Config{
		Key: seeded("member"), Listen: "127.0.0.1:0", Cluster: [16]byte{1},
		Secrets: func(string, []byte) ([][32]byte, error) { return [][32]byte{{3}}, nil },
		Welcome: func(context.Context, Newcomer) ([]byte, error) { welcomed.Add(1); return nil, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	t.Cleanup(func() { stop(); <-done; m.Close() })
	at, seen := between(t, seeded("middle"), m.Addr())
	pin := sha256.Sum256(seeded("member").Public().(ed25519.PublicKey))
	join := func(addr netip.AddrPort, c Credential) error {
		_, _, err := Join(t.Context(), JoinConfig{Key: seeded("newcomer"), Credential: c}, addr)
		return err
	}
	token := Credential{Kind: CredentialToken, ID: []byte("claims"), Secret: [32]byte{3}}
	for _, c := range []Credential{{Secret: [32]byte{3}}, token} {
		if err := join(at, c); !errors.Is(err, ErrWrongKey) {
			t.Errorf("%s: %v", c.Kind, err)
		}
	}
	if seen.Load() == 0 || welcomed.Load() != 0 {
		t.Errorf("saw %d frames, %d were let in", seen.Load(), welcomed.Load())
	}
	seen.Store(0)
	token.Member = pin[:16]
	if err := join(at, token); !errors.Is(err, ErrWrongMember) || seen.Load() != 0 {
		t.Errorf("%v; %d frames seen", err, seen.Load())
	}
	// The one in the middle has the token and answers itself.
	own, err := New(Config{
		Key: seeded("middle"), Listen: "127.0.0.1:0", Cluster: [16]byte{1}, Secrets: m.cfg.Secrets, Welcome: m.cfg.Welcome,
	})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- own.Run(ctx) }()
	t.Cleanup(func() { stop(); <-ended; own.Close() })
	if err := join(own.Addr(), token); !errors.Is(err, ErrWrongMember) || welcomed.Load() != 0 {
		t.Errorf("%v; %d let in", err, welcomed.Load())
	}
	if err := join(m.Addr(), token); err != nil || welcomed.Load() != 1 {
		t.Errorf("without anybody between: %v; %d let in", err, welcomed.Load())
	}
}
