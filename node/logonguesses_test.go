package node

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// One address that guesses locks itself, for any user; many addresses lock nobody, but slow all who guess.
func TestLogonGuesses(t *testing.T) {
	at, l := time.Unix(1e9, 0), newLogonGuesses()
	hostile, own := netip.MustParseAddr("2001:db8::bad:1"), netip.MustParseAddr("2001:db8:0:1::1")
	for range 100 {
		_, _ = l.begin("anna", hostile, at)
	}
	if locked, _ := l.begin("anna", hostile, at); locked != logonLockout {
		t.Errorf("who guesses is locked for %v", locked)
	}
	if locked, slow := l.begin("anna", own, at); locked != 0 || slow != 0 {
		t.Errorf("her own try: locked for %v, slowed by %v", locked, slow)
	}
	l.right("anna", own)
	for i := range 100 {
		if locked, _ := l.begin(fmt.Sprint("user", i), hostile, at); (locked > 0) != (i >= logonTriesOne-logonTries) {
			t.Errorf("other user %d from there: %v", i, locked)
		}
	}
	for range 1000 {
		hostile = elsewhere(hostile)
		if locked, slow := l.begin("anna", hostile, at); locked != 0 || slow > logonSlowest {
			t.Fatalf("from %v: locked for %v, slowed by %v", hostile, locked, slow)
		}
	}
	for range logonTries {
		if locked, slow := l.begin("anna", own, at); locked != 0 || slow != logonSlowest {
			t.Errorf("her own try among many: locked for %v, slowed by %v", locked, slow)
		}
		l.undo("anna", own)
	}
	if _, slow := l.begin("bob", own, at); slow != logonSlowest { // all names together are guessed as slowly
		t.Errorf("another user is slowed by %v", slow)
	}
	if locked, slow := l.begin("anna", own, at.Add(logonLockout)); locked != 0 || slow != 0 {
		t.Errorf("later: locked for %v, slowed by %v", locked, slow)
	}
}

// elsewhere is the first address of the next IPv6 network.
func elsewhere(a netip.Addr) netip.Addr {
	b := a.As16()
	binary.BigEndian.PutUint64(b[:], binary.BigEndian.Uint64(b[:])+1<<16) // far from those of the test
	return netip.AddrFrom16(b)
}

// One host has any address of its network. Those of a LAN are hosts of their own.
func TestLogonSources(t *testing.T) {
	at := time.Unix(1e9, 0)
	for first, second := range map[string]string{
		"2001:db8::1": "2001:db8::bad:2", "192.0.2.1": "::ffff:192.0.2.1", "fe80::1%eth0": "fe80::1",
	} {
		l := newLogonGuesses()
		for range logonTries {
			_, _ = l.begin("anna", netip.MustParseAddr(first), at)
		}
		if locked, _ := l.begin("anna", netip.MustParseAddr(second), at); locked == 0 {
			t.Errorf("%s is another than %s", second, first)
		}
	}
	for first, second := range map[string]string{
		"2001:db8::1": "2001:db8:0:1::1", "192.0.2.1": "192.0.2.2", "fe80::1": "fe80::2", "fd00::1": "fd00::2",
	} {
		l := newLogonGuesses()
		for range logonTries {
			_, _ = l.begin("anna", netip.MustParseAddr(first), at)
		}
		if locked, _ := l.begin("anna", netip.MustParseAddr(second), at); locked > 0 {
			t.Errorf("%s is locked for %s", second, first)
		}
	}
}

// However many slowed log-ons of a user wait side by side, they are looked at one after the other.
func TestSlowedLogonsTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &Node{logons: newLogonGuesses()}
		ctx, stop := context.WithTimeout(t.Context(), 25*time.Second)
		defer stop()
		var g sync.WaitGroup
		var anna atomic.Int64
		for range 100 {
			g.Go(func() {
				if n.waitTurn(ctx, "anna", logonSlowest) == nil {
					anna.Add(1)
				}
			})
		}
		g.Go(func() {
			began := time.Now()
			if err := n.waitTurn(ctx, "bob", logonSlowest); err != nil || time.Since(began) != logonSlowest {
				t.Errorf("another user waits %v, %v", time.Since(began), err)
			}
			if err := n.waitTurn(ctx, "anna", 0); err != nil || time.Since(began) != logonSlowest {
				t.Errorf("one that is not slowed waits %v, %v", time.Since(began), err)
			}
		})
		g.Wait()
		if most := int64((25*time.Second - logonSlowest) / logonTurn); anna.Load() > most || anna.Load() < most/2 {
			t.Errorf("%d of 100 had a turn, at most %d may", anna.Load(), most)
		}
	})
}
