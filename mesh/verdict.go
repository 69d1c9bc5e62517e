package mesh

import "time"

// The times of the fast verdict.
const (
	beatInterval   = 200 * time.Millisecond
	missFloor      = 600 * time.Millisecond // three heartbeats
	missRTTs       = 4
	freshBeat      = 2 * beatInterval // silence of a peer that is taken for alive
	allSilent      = 2 * beatInterval // on top, when nobody is heard at all: it may be us
	witnessTimeout = 200 * time.Millisecond
	witnessAgain   = 500 * time.Millisecond
	relinkAfter    = 2 * time.Second // of silence on our link, while others hear the peer
	stallGap       = time.Second     // of our own heartbeat loop
)

// missWindow is the silence after which a peer is in doubt.
func missWindow(rtt time.Duration) time.Duration { return max(missFloor, missRTTs*rtt) }

// evidence is what is known, at one moment, of a peer that is up.
type evidence struct {
	silence   time.Duration // since its last sign of life
	rtt       time.Duration
	linked    bool
	serfDead  bool          // serf gave it up
	asked     bool          // witnesses were asked
	waited    time.Duration // since then
	witnesses int           // others that are linked and not in doubt themselves
	silent    int           // others that are up and in doubt
	hear      int           // of these, how many answered that they hear it
	miss      int           // and how many that they do not
}

// finding is what follows from evidence.
type finding uint8

const (
	findAlive  finding = iota
	findAsk            // ask the witnesses
	findRelink         // it lives, but our link to it does not
	findDead
)

// judge weighs the evidence and says when to look again.
func judge(e evidence) (finding, time.Duration) {
	window := missWindow(e.rtt)
	if e.witnesses == 0 && e.silent > 0 {
		window += allSilent
	}
	switch {
	case e.silence < window:
		return findAlive, window - e.silence
	case e.witnesses == 0, !e.linked && e.serfDead:
		return findDead, 0
	case !e.asked:
		return findAsk, witnessTimeout
	case e.hear > 0:
		switch {
		case e.linked && e.silence >= relinkAfter:
			return findRelink, witnessAgain
		case e.waited >= witnessAgain:
			return findAsk, witnessTimeout
		}
		return findAlive, witnessAgain - e.waited
	case e.miss >= e.witnesses, e.waited >= witnessTimeout:
		return findDead, 0
	}
	return findAlive, witnessTimeout - e.waited
}
