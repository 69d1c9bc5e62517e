package node

import (
	"slices"
	"sync"
	"time"

	"gatemesh/cluster"
)

// alarmKind says what is wrong with a peer's replica.
type alarmKind string

const (
	alarmLag        alarmKind = "lag"        // it lacks what was written for too long
	alarmPush       alarmKind = "push"       // it does not take what it is sent, or we what it sends
	alarmDivergence alarmKind = "divergence" // it knows the same and has something else
)

// alarm is something that an administrator should know, until it is solved and a while beyond.
type alarm struct {
	Kind   alarmKind
	Peer   cluster.Node
	Text   string
	Since  time.Time
	Solved time.Time // zero: it stands
}

const (
	maxAlarms    = 256
	alarmsKept   = 24 * time.Hour // after they were solved
	lagLimit     = 30 * time.Second
	failureLimit = 3 // pushes in a row
)

// alarms is what was and is wrong since this process began, oldest first.
type alarms struct {
	mu   sync.Mutex // guards list
	list []alarm
}

// set says whether something is wrong now, and returns the alarm if that is news.
func (a *alarms) set(kind alarmKind, peer cluster.Node, wrong bool, text string, now time.Time) (news alarm, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	i := slices.IndexFunc(a.list, func(x alarm) bool { return x.Kind == kind && x.Peer == peer && x.Solved.IsZero() })
	switch {
	case wrong && i >= 0:
		a.list[i].Text = text
		return alarm{}, false
	case wrong:
		a.list = slices.DeleteFunc(a.list, func(x alarm) bool {
			return !x.Solved.IsZero() && (len(a.list) >= maxAlarms || now.Sub(x.Solved) > alarmsKept)
		})
		news = alarm{Kind: kind, Peer: peer, Text: text, Since: now}
		if len(a.list) < maxAlarms {
			a.list = append(a.list, news)
		}
		return news, true
	case i >= 0:
		a.list[i].Solved = now
		return a.list[i], true
	}
	return alarm{}, false
}

// all returns what is kept at now.
func (a *alarms) all(now time.Time) []alarm {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(a.list), func(x alarm) bool {
		return !x.Solved.IsZero() && now.Sub(x.Solved) > alarmsKept
	})
}
