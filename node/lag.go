package node

import (
	"bytes"
	"sync"
	"time"

	"gatemesh/cluster"
	"gatemesh/mesh"
)

// lags follows how far each member is with the cluster's configuration.
type lags struct {
	mu    sync.Mutex // guards peers
	peers map[cluster.Node]*lag
}

func newLags() *lags { return &lags{peers: map[cluster.Node]*lag{}} }

// lag is how far one member is.
type lag struct {
	linked bool
	theirs []byte    // its last digest, also when it is gone; nil: it told none yet
	heard  time.Time // when that came
	failed uint64    // exchanges, since it is linked
	inStep bool
	since  time.Time // when inStep, or what it lacks, began to be so
	lacks  bool      // something that is here, as far as is known
	lost   uint64    // of failed, those before it was in step last
}

// look takes in what the mesh says of a peer, and our own digest.
func (l *lag) look(x mesh.Progress, linked bool, ours []byte, lacks func([]byte) bool, now time.Time) {
	was, lacked := l.inStep, l.lacks
	l.linked = linked
	if linked && !x.Heard.IsZero() {
		l.theirs, l.heard, l.failed = x.Theirs, x.Heard, x.Failed
	}
	l.inStep = linked && !l.heard.IsZero() && bytes.Equal(l.theirs, ours)
	l.lacks = !l.inStep && !l.heard.IsZero() && lacks(l.theirs)
	if l.since.IsZero() || was != l.inStep || lacked != l.lacks {
		l.since = now
	}
	if l.inStep || l.failed < l.lost {
		l.lost = l.failed
	}
}

// late reports whether it lacks something for too long.
func (l *lag) late(now time.Time) bool { return l.lacks && now.Sub(l.since) > lagLimit }

// refuses reports whether exchanges with it fail one after the other.
func (l *lag) refuses() bool { return l.linked && !l.inStep && l.failed-l.lost >= failureLimit }

// diverged reports whether it knows what we know and has something else, for so long that no exchange is under way.
func (l *lag) diverged(ours []byte, now time.Time) bool {
	return l.linked && !l.inStep && !l.heard.IsZero() && now.Sub(l.since) > lagLimit && cluster.SameVector(l.theirs, ours)
}

// get returns a copy of what is known of a member.
func (ls *lags) get(n cluster.Node) lag {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if l := ls.peers[n]; l != nil {
		return *l
	}
	return lag{}
}

// look takes in what the mesh says of all members; those that are none any more are forgotten. It returns a copy.
func (ls *lags) look(nodes []cluster.Node, progress []mesh.Progress, ours []byte, lacks func([]byte) bool, now time.Time) map[cluster.Node]lag {
	linked := map[cluster.Node]mesh.Progress{}
	for _, x := range progress {
		linked[cluster.Node(x.Peer)] = x
	}
	ls.mu.Lock()
	defer ls.mu.Unlock()
	known, out := map[cluster.Node]*lag{}, map[cluster.Node]lag{}
	for _, n := range nodes {
		l := ls.peers[n]
		if l == nil {
			l = &lag{}
		}
		x, ok := linked[n]
		l.look(x, ok, ours, lacks, now)
		known[n], out[n] = l, *l
	}
	ls.peers = known
	return out
}
