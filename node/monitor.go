package node

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"gatemesh/cluster"
	"gatemesh/mesh"
	"gatemesh/node/api"
)

// maxWaiting bounds the events that wait for one listener.
const maxWaiting = 1024

// listeners are those who want to know what happens. The zero value has none.
type listeners struct {
	n  atomic.Int32 // how many there are
	mu sync.Mutex   // guards the fields below
	in map[*listener]struct{}
}

// listener is one of them.
type listener struct {
	wake chan struct{} // capacity 1

	mu      sync.Mutex // guards the fields below
	waiting []api.Event
	missed  int // since the last of waiting
}

// listened says whether anybody wants to know: what it costs to tell may be saved otherwise.
func (n *Node) listened() bool { return n.events.n.Load() > 0 }

// tell says to all listeners that something happened. It does not block. Time is filled in, and so are the names of
// the gateway and the device that the event names by id only.
func (n *Node) tell(e api.Event) {
	if !n.listened() {
		return
	}
	e.Time = n.cfg.Now().UTC()
	n.events.mu.Lock()
	defer n.events.mu.Unlock()
	for l := range n.events.in {
		l.put(e)
	}
}

func (l *listener) put(e api.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.waiting) < maxWaiting {
		l.waiting = append(l.waiting, e)
	} else {
		l.missed++
	}
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// take returns what waits, and last how many were left out after it.
func (l *listener) take(now time.Time) []api.Event {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := l.waiting
	if l.missed > 0 {
		out = append(out, api.Event{
			Time: now.UTC(), Kind: api.EventMissed, Count: l.missed, Text: "they came faster than they were read",
		})
	}
	l.waiting, l.missed = nil, 0
	return out
}

// Monitor implements [api.Monitors].
func (n *Node) Monitor(ctx context.Context, f func(api.Event) error) error {
	l := &listener{wake: make(chan struct{}, 1)}
	n.events.mu.Lock()
	if n.events.in == nil {
		n.events.in = map[*listener]struct{}{}
	}
	n.events.in[l] = struct{}{}
	n.events.n.Add(1)
	n.events.mu.Unlock()
	defer func() {
		n.events.mu.Lock()
		defer n.events.mu.Unlock()
		delete(n.events.in, l)
		n.events.n.Add(-1)
	}()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-n.stopping:
			return nil
		case <-l.wake:
		}
		for _, e := range l.take(n.cfg.Now()) {
			if !n.completeEvent(&e) {
				continue
			}
			if err := f(e); err != nil {
				return err
			}
		}
	}
}

// tellMesh tells what became of another gateway.
func (n *Node) tellMesh(e mesh.Event) {
	kind := ""
	switch e.Kind {
	case mesh.Up:
		kind = api.EventUp
	case mesh.Down:
		kind = api.EventFailed
	case mesh.Left:
		kind = api.EventLeft
	default:
		return
	}
	n.tell(api.Event{Kind: kind, Gateway: e.Member.Name, GatewayID: cluster.Node(e.Member.ID).String()})
}

// tellAlarm tells that something is wrong, or is no more.
func (n *Node) tellAlarm(a alarm) {
	e := api.Event{Kind: api.EventAlarm, GatewayID: a.Peer.String(), Text: string(a.Kind) + ": " + a.Text}
	if !a.Solved.IsZero() {
		e.Kind = api.EventAlarmEnded
	}
	n.tell(e)
}

// tellChanges tells of what was written, here or elsewhere. Whether there is more to it is found out where it is
// read; see completeEvent.
func (n *Node) tellChanges(refs []cluster.Ref) {
	for _, r := range refs {
		switch r.Kind {
		case "admission":
			n.tell(api.Event{Kind: api.EventJoined, GatewayID: r.ID})
		case "gateway":
			n.tell(api.Event{Kind: api.EventChanged, GatewayID: r.ID})
		case "conflict":
			n.tell(api.Event{Kind: api.EventConflict, Text: r.ID})
		}
	}
}

// completeEvent fills in names and what is said of changes. What is not known any more has no name; ok is false where
// nothing is left to tell.
func (n *Node) completeEvent(e *api.Event) (ok bool) {
	if k, err := cluster.ParseKey(e.DeviceID); err == nil && e.Device == "" {
		if d, err := n.store.Device(k); err == nil {
			e.Device = d.Name
		}
	}
	var g cluster.Gateway
	if e.GatewayID != "" {
		if found, err := n.store.FindGateway(e.GatewayID); err == nil {
			g = found
			e.Gateway = cmp.Or(e.Gateway, g.Name)
		}
	}
	switch e.Kind {
	case api.EventJoined:
		id, err := cluster.ParseNode(e.GatewayID)
		if err != nil {
			return false
		}
		a, admitted, err := n.store.Admitted(id)
		e.Gateway = cmp.Or(e.Gateway, a.Name)
		if err != nil || admitted {
			return err == nil
		}
		e.Kind = api.EventReset
		if v, evicted, err := n.store.Evicted(id); err == nil && evicted {
			e.Kind, e.Gateway = api.EventEvicted, cmp.Or(e.Gateway, v.Name)
		}
		return true
	case api.EventChanged:
		e.Text = fmt.Sprintf("%s, public %s, capacity %d, version %s", roleOf(g.Standby), cmp.Or(g.Public, "none"),
			g.Capacity, cmp.Or(g.Version, "unknown"))
		return !g.Node.IsZero()
	case api.EventConflict:
		c, err := n.store.FindConflict(e.Text)
		if err != nil {
			e.Kind = api.EventResolved
			return true
		}
		e.Text = strings.Join(strings.Fields(fmt.Sprintf("%s %s %s %s %s", c.ID[:8], c.Reason, c.Ref.Kind,
			cmp.Or(c.Name, c.Ref.ID), c.Field)), " ")
	}
	return true
}
