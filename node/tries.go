package node

import (
	"fmt"
	"sync"
	"time"
)

// tries bounds how often a secret is guessed, by who guesses and in all. A try counts when it begins, so that many at
// once are no way round it. It keeps at most one entry for each try of the last lockout. The zero tries lets nothing through.
type tries struct {
	each, all int           // wrong tries that lock one, and everybody
	lockout   time.Duration // after the last of them; also how long a wrong try counts

	mu     sync.Mutex // guards the fields below
	by     map[string]strikes
	anyone strikes
}

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
	for _, s := range []struct {
		strikes
		limit int
	}{{one, t.each}, {t.anyone, t.all}} {
		if s.n >= s.limit {
			return s.last.Add(t.lockout).Sub(now)
		}
	}
	t.by[who] = strikes{one.n + 1, now}
	t.anyone = strikes{t.anyone.n + 1, now}
	return 0
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
