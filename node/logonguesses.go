package node

import (
	"maps"
	"net/netip"
	"sync"
	"time"
)

// Bounds of wrong log-ons at one gateway within logonLockout. What comes from one address locks that address, there and
// for so long; a global IPv6 address stands for its network, in which one host may have any. What comes from many only
// slows: else anybody could lock an administrator out.
const (
	logonTries    = 3  // of a user from one address
	logonTriesOne = 10 // of all users from one address
	logonUserSlow = 20 // of a user from everywhere: each further one waits
	logonAllSlow  = 60 // of all users from everywhere
	logonLockout  = 10 * time.Minute
	logonSlower   = time.Second // for each one beyond
	logonSlowest  = 10 * time.Second
	logonTurn     = time.Second // between two of a user that were slowed, however many wait
)

// logonGuesses counts log-ons by user and address, by address, and by user.
type logonGuesses struct {
	both, host, user tries

	mu   sync.Mutex           // guards next
	next map[string]time.Time // when a user's next slowed log-on may be looked at
}

func newLogonGuesses() *logonGuesses {
	return &logonGuesses{
		both: tries{each: logonTries, lockout: logonLockout},
		host: tries{each: logonTriesOne, lockout: logonLockout},
		user: tries{lockout: logonLockout},
		next: map[string]time.Time{},
	}
}

// turn says whether a log-on of a user that was slowed may be looked at now; then no other may for logonTurn. Who waits
// asks again: nobody is before another, so that a crowd keeps nobody out for good.
func (l *logonGuesses) turn(user string, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	maps.DeleteFunc(l.next, func(_ string, t time.Time) bool { return !now.Before(t) })
	if _, taken := l.next[user]; taken {
		return false
	}
	l.next[user] = now.Add(logonTurn)
	return true
}

// begin counts a log-on. It returns for how long none may be made, or how long this one is to wait.
func (l *logonGuesses) begin(user string, from netip.Addr, now time.Time) (locked, slow time.Duration) {
	host, both := logonKeys(user, from)
	if locked = l.host.begin(host, now); locked > 0 {
		return locked, 0
	}
	if locked = l.both.begin(both, now); locked > 0 {
		l.host.undo(host)
		return locked, 0
	}
	_ = l.user.begin(user, now) // locks nobody
	one, all := l.user.wrong(user, now)
	beyond := max(0, one-logonUserSlow, all-logonAllSlow)
	return 0, min(time.Duration(beyond)*logonSlower, logonSlowest)
}

// right says that a log-on was right. Wrong ones of others before it count on.
func (l *logonGuesses) right(user string, from netip.Addr) {
	host, both := logonKeys(user, from)
	l.both.right(both)
	l.host.undo(host)
	l.user.undo(user)
}

// undo takes back a log-on that came to nothing.
func (l *logonGuesses) undo(user string, from netip.Addr) {
	host, both := logonKeys(user, from)
	l.both.undo(both)
	l.host.undo(host)
	l.user.undo(user)
}

func logonKeys(user string, from netip.Addr) (host, both string) {
	from = from.Unmap().WithZone("")
	host = from.String()
	if from.Is6() && !from.IsLinkLocalUnicast() && !from.IsPrivate() && !from.IsLoopback() {
		p, _ := from.Prefix(64) // the zero Addr is none of 6
		host = p.String()
	}
	return host, host + " " + user
}
