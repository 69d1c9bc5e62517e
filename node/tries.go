package node

import (
	"fmt"
	"sync"
	"time"
)

// tries bounds how often a secret is guessed by one who guesses. Nobody is locked for what others do. A try counts when
// it begins, so that many at once are no way round it. It keeps at most maxTriers entries, and forgets the oldest for
// lack of room.
type tries struct {
	each    int           // wrong tries that lock one; 0: any number may be made
	lockout time.Duration // after the last of them; also how long a wrong try counts

	mu     sync.Mutex // guards the fields below
	by     map[string]strikes
	anyone strikes
}

// maxTriers is beyond what can be tried within a lockout: each password takes a tenth of a second.
const maxTriers = 8192

// strikes are wrong tries in a row.
type strikes struct {
	n    int
	last time.Time
}

func (s strikes) at(now time.Time, lockout time.Duration) strikes {
	if now.Sub(s.last) >= lockout {
		return strikes{}
	}
	return s
}

// begin counts a try of who. If it may not be made it returns for how long not.
func (t *tries) begin(who string, now time.Time) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.by == nil {
		t.by = map[string]strikes{}
	}
	for k, s := range t.by {
		if s.at(now, t.lockout).n == 0 {
			delete(t.by, k)
		}
	}
	one := t.by[who]
	t.anyone = t.anyone.at(now, t.lockout)
	if t.each > 0 && one.n >= t.each {
		return one.last.Add(t.lockout).Sub(now)
	}
	if one.n == 0 && len(t.by) >= maxTriers {
		delete(t.by, t.oldest())
	}
	t.by[who] = strikes{one.n + 1, now}
	t.anyone = strikes{t.anyone.n + 1, now}
	return 0
}

// oldest is who tried the longest ago. t.mu is held.
func (t *tries) oldest() (who string) {
	var last time.Time
	for k, s := range t.by {
		if last.IsZero() || s.last.Before(last) {
			who, last = k, s.last
		}
	}
	return who
}

// wrong returns how many tries count of who and of all, those that are under way included.
func (t *tries) wrong(who string, now time.Time) (one, all int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.by[who].at(now, t.lockout).n, t.anyone.at(now, t.lockout).n
}

// right says that a try of who was right: it counts no more, nor do the wrong ones before it.
func (t *tries) right(who string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.anyone.n = max(0, t.anyone.n-1)
	delete(t.by, who)
}

// undo takes back a try that came to nothing.
func (t *tries) undo(who string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.anyone.n = max(0, t.anyone.n-1)
	if s := t.by[who]; s.n > 1 {
		t.by[who] = strikes{s.n - 1, s.last}
	} else {
		delete(t.by, who)
	}
}

// minutes writes a duration as people wait for it.
func minutes(d time.Duration) string {
	if n := int((d + time.Minute - 1) / time.Minute); n != 1 {
		return fmt.Sprintf("%d minutes", n)
	}
	return "1 minute"
}
