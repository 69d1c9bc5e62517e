package node

import (
	"net/netip"
	"time"
)

// Bounds of wrong log-ons at one gateway within logonLockout. What comes from one address locks that address, there and
// for so long. What comes from many only slows: else anybody could lock an administrator out.
const (
	logonTries    = 3  // of a user from one address
	logonTriesOne = 10 // of all users from one address
	logonUserSlow = 20 // of a user from everywhere: each further one waits
	logonAllSlow  = 60 // of all users from everywhere
	logonLockout  = 10 * time.Minute
	logonSlower   = time.Second // for each one beyond
	logonSlowest  = 10 * time.Second
)

// logonGuesses counts log-ons by user and address, by address, and by user.
type logonGuesses struct{ both, host, user tries }

func newLogonGuesses() *logonGuesses {
	return &logonGuesses{
		both: tries{each: logonTries, lockout: logonLockout},
		host: tries{each: logonTriesOne, lockout: logonLockout},
		user: tries{lockout: logonLockout},
	}
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
	host = from.Unmap().String()
	return host, host + " " + user
}
