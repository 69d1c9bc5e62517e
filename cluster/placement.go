package cluster

import (
	"math/rand/v2"
	"slices"
	"time"
)

// Constants of placement; see Place.
const (
	// FreshLoad is the age from which a load report is not believed any more.
	FreshLoad = 3 * time.Second
	// fewSessions is how many sessions of our own make us look at two peers: with
	// few, one that is drawn at random is too often not the best.
	fewSessions = 64
	// growthHorizon bounds for how long others' arrivals are thought to go on.
	growthHorizon = 2 * time.Second
	// growthSmoothing is the time constant with which others' arrivals are averaged.
	growthSmoothing = 500 * time.Millisecond
)

// Load is what is known of a gateway when a device is placed. For the gateway
// that asks, Pending, Growth and Age are zero.
type Load struct {
	Node     Node
	Sessions int           // as it reported
	Pending  int           // what was sent to it and is not in its report yet
	Growth   float64       // what others bring it, in sessions per second
	Age      time.Duration // of the report
	Capacity int           // sessions it wants to have at most; 0 or less: none
	Draining bool
	Standby  bool // it takes devices only while no active gateway has room
}

// expected returns how many sessions the gateway has now, most likely.
func (l Load) expected() float64 {
	age := min(max(l.Age, 0), growthHorizon).Seconds()
	return float64(l.Sessions+l.Pending) + max(l.Growth, 0)*age
}

// open reports whether a device may be sent there.
func (l Load) open() bool {
	return !l.Draining && l.Age < FreshLoad && l.Capacity > 0 && l.expected() < float64(l.Capacity)
}

// Place decides which gateway answers a device that knocks here: this one (here),
// or target. It draws one peer at random by capacity, two of them below 64 sessions
// of our own, and sends the device to the less loaded one if
//
//	expected/capacity + own/capacity/32 < own/capacity.
//
// Only peers count that are neither draining nor full and whose report is younger
// than FreshLoad. If this gateway is draining or full itself, the device goes to
// the one drawn whatever its load. Without such a peer it is served here, even
// beyond the capacity: no device is turned away. A standby gateway counts only where
// no active one has room, this one included, and gives every device to an active
// one that has. The choice is random so that
// gateways with the same reports do not all send to the same peer (Mitzenmacher,
// The Power of Two Choices, 2001); rnd is used by this call alone.
func Place(own Load, peers []Load, rnd *rand.Rand) (target Node, here bool) {
	full := own.full()
	standby := false
	best := draw(peers, own.Node, -1, standby, rnd)
	if best < 0 && (full || own.Standby) {
		standby = true
		best = draw(peers, own.Node, -1, standby, rnd)
	}
	if best < 0 {
		return own.Node, true
	}
	away := full || own.Standby && !standby
	if own.Sessions < fewSessions || away {
		if second := draw(peers, own.Node, best, standby, rnd); second >= 0 && peers[second].share() < peers[best].share() {
			best = second
		}
	}
	if away {
		return peers[best].Node, false
	}
	share := float64(own.Sessions) / float64(own.Capacity)
	if peers[best].share()+share/32 < share {
		return peers[best].Node, false
	}
	return own.Node, true
}

// full reports whether the gateway that asks takes no more devices than it must.
func (l Load) full() bool { return l.Draining || l.Capacity <= 0 || l.Sessions >= l.Capacity }

// Spare says whether a device that a standby gateway serves, as far as is known, may go to an active one: the
// gateway that asks, or a peer.
func Spare(own Load, peers []Load) bool {
	if !own.Standby && !own.full() {
		return true
	}
	return slices.ContainsFunc(peers, func(l Load) bool { return l.Node != own.Node && !l.Standby && l.open() })
}

// share is the expected load in units of the capacity.
func (l Load) share() float64 { return l.expected() / float64(l.Capacity) }

// draw returns the index of an open peer of one role, at random by capacity, neither self nor
// the one at but; -1 if there is none.
func draw(peers []Load, self Node, but int, standby bool, rnd *rand.Rand) int {
	chosen, total := -1, 0
	for i := range peers {
		p := &peers[i]
		if i == but || p.Node == self || p.Standby != standby || !p.open() {
			continue
		}
		total += p.Capacity
		if rnd.IntN(total) < p.Capacity {
			chosen = i
		}
	}
	return chosen
}

// Outlook turns the reports of one peer into its Load. The zero value knows
// nothing: its Load is too old to be used. It has no clock and no lock.
//
// A report carries, beside the number of sessions, how many of the devices that we
// sent the peer has counted so far, so that no clocks are compared.
type Outlook struct {
	sessions int       // as reported
	growth   float64   // by others
	at       time.Time // when the report was made
	counted  uint64    // of the devices that we sent, in the report
	sent     uint64    // devices that we sent, in the same count

	recent, before int       // of those, since and in the FreshLoad before turned
	turned         time.Time // when recent began
}

// Sent says that a device was sent to the peer.
func (o *Outlook) Sent(at time.Time) {
	o.turn(at)
	o.sent++
	o.recent++
}

// turn moves the window in which a device that was sent may still be counted.
func (o *Outlook) turn(at time.Time) {
	switch age := at.Sub(o.turned); {
	case age >= 2*FreshLoad:
		o.before, o.recent, o.turned = 0, 0, at
	case age >= FreshLoad:
		o.before, o.recent, o.turned = o.recent, 0, at
	}
}

// Report takes a report in. at is when it was made, by our clock: when it came,
// less half a round trip. counted is how many of the devices that we sent the peer
// has seen confirmed, since it began to count.
func (o *Outlook) Report(at time.Time, sessions int, counted uint64) {
	if o.at.IsZero() || counted < o.counted {
		o.sent = counted // it begins, or began anew
	} else if dt := at.Sub(o.at).Seconds(); dt > 0 {
		others := max(float64(sessions-o.sessions)-float64(counted-o.counted), 0) / dt
		o.growth += min(dt/growthSmoothing.Seconds(), 1) * (others - o.growth)
	}
	o.at, o.sessions, o.counted = at, sessions, counted
}

// Load returns the load of the peer at a time. A device that it has not counted
// within FreshLoad to twice that is lost and counts no more.
func (o *Outlook) Load(n Node, capacity int, draining bool, at time.Time) Load {
	l := Load{
		Node: n, Sessions: o.sessions, Growth: o.growth, Age: FreshLoad,
		Capacity: capacity, Draining: draining,
	}
	if !o.at.IsZero() {
		l.Age = at.Sub(o.at)
	}
	if o.sent > o.counted {
		o.turn(at)
		l.Pending = min(int(o.sent-o.counted), o.recent+o.before) //nolint:gosec // few
	}
	return l
}
