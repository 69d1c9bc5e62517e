package node

import "gatemesh/cluster"

// stance is how this gateway stands to a device. It is a value machine without a clock: the events of the engine and
// the rows of the session table go in, what is to be done comes out.
//
//	          Initiate             confirmed
//	(away) ────────────► calling ──────────────► serving ◄────────────────────────┐
//	  │  ▲                  │                    │  │   │ exported for good       │ confirmed here, or
//	  │  │ claimed or confirmed elsewhere        │  │   └────────► handed ────────┤ recalled: claim, new keys
//	  │  └──────────────────┘   claimed elsewhere│  └──► (away)      │            │
//	  │                                          ▼ confirmed         │ confirmed  │
//	  └─ TakeOver ─► serving                   muted ───► (away) ◄───┘ elsewhere  │
//	                                             └────────────────────────────────┘ still heard, or the claim is void
//
// Stock clients do not answer the messages by which they are taken over, so a takeover is a claim first, which permits
// sending. Whoever had the device before is silent from then on but goes on opening, until the claimant has heard the
// device and confirms: a claim can fail, when the claimant does not reach the device or dies. Then its counters may
// have passed ours at the device already, so only new keys help. The order of (Epoch, Owner) settles who gives way
// where two claim at once.
type stance uint8

const (
	away    stance = iota // no keys, or about to have none
	calling               // Initiate was called, nothing is confirmed
	serving               // claimed or confirmed here: sends and opens
	muted                 // claimed by another gateway: opens only
	handed                // exported for good: opens, and forwards what it would send
)

// move is what a step of a stance asks of the engine and the table.
type move uint8

const (
	stay   move = iota
	mute        // vpn.Mute
	drop        // vpn.Drop
	recall      // claim the device anew and initiate: new keys end what was before
)

// after returns the stance and the move that follow when g is what stands greatest in the table of a device; known is
// false if nothing does.
func (s stance) after(self cluster.Node, g cluster.Session, known bool) (stance, move) {
	foreign := known && g.Owner != self && !g.Released
	switch {
	case s == away || !foreign && (s == serving || s == calling):
		return s, stay
	case !foreign: // of muted and handed: who claimed it has let go, or is no more
		return serving, recall
	case !g.Claimed || s == calling:
		return away, drop
	case s == serving:
		return muted, mute
	}
	return s, stay
}

// heard returns what follows when a device that another gateway has claimed still talks to this one. What was handed
// over stays so: what is heard was under way, and its heir has the newest keys.
func (s stance) heard() (stance, move) {
	if s == muted {
		return serving, recall
	}
	return s, stay
}

// confirmed says whether a device that was heard under keys that are in use from now on is ours by that. Under keys that
// were imported it is not when another gateway has claimed it since: what is heard may have been under way, and the
// claimant's counters may be above ours. heard tells if it stays.
func (s stance) confirmed(imported bool) bool {
	return !imported || s != muted && s != handed
}
