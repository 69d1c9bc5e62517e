package node

import (
	"fmt"
	"net/netip"
	"testing"
	"time"
)

// One address that guesses locks itself, for any user; many addresses lock nobody, but slow all who guess.
func TestLogonGuesses(t *testing.T) {
	at, l := time.Unix(1e9, 0), newLogonGuesses()
	hostile, own := netip.MustParseAddr("2001:db8::bad:1"), netip.MustParseAddr("2001:db8::1")
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
		hostile = hostile.Next()
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
