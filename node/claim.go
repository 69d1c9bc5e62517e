package node

import (
	"time"

	"gatemesh/cluster"
)

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
// A device that was handed over and is still heard is called by its heir again. It is recalled only if that does not
// reach it, or is gone; in the latter case it is resumed by a gateway that drains, for the next heir.
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
	stay      move = iota
	mute           // vpn.Mute
	drop           // vpn.Drop
	recall         // claim it anew and initiate: new keys end what was before; while the process ends, as resume
	resume         // claim it anew and send under the keys that are there: the part for the next heir is above all
	callAgain      // ask its heir to call it once more
)

// recallAfter is how long the heir of a device that is still heard here is asked to call it: then it does not reach it.
const recallAfter = time.Second

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

// heard returns what follows when a device that another gateway has claimed, or that was handed to it so long ago,
// still talks to this one. Behind a filtering NAT nobody but its old gateway reaches a device; one that departs is no
// help.
func (s stance) heard(handedFor time.Duration, departs bool) (stance, move) {
	switch {
	case s == handed && (departs || handedFor < recallAfter):
		return handed, callAgain
	case s == handed, s == muted && !departs:
		return serving, recall
	}
	return s, stay
}

// confirmed says whether a device that was heard under keys that are in use from now on is ours by that. Under keys
// that were imported it is not when another gateway has claimed it since: what is heard may have been under way, and
// the claimant's counters may be above ours. heard tells if it stays.
func (s stance) confirmed(imported bool) bool {
	return !imported || s != muted && s != handed
}
