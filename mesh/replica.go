package mesh

import (
	"bytes"
	"fmt"
	"time"
)

// digest is the body of kindDigest.
type digest struct {
	Name string `cbor:"1,keyasint"`
	Have []byte `cbor:"2,keyasint,omitempty"`
	Want bool   `cbor:"3,keyasint,omitempty"` // answer with an end, even if nothing is missing
	Ack  bool   `cbor:"4,keyasint,omitempty"` // your delta is merged
	Ask  bool   `cbor:"5,keyasint,omitempty"` // tell yours, if it differs
}

// part is the body of kindPart.
type part struct {
	Name string `cbor:"1,keyasint,omitempty"`
	Data []byte `cbor:"2,keyasint,omitempty"`
}

// end is the body of kindEnd.
type end struct {
	Name   string `cbor:"1,keyasint,omitempty"`
	Answer bool   `cbor:"2,keyasint,omitempty"` // to a digest that wanted one
}

func parseDigest(body []byte) (digest, error) {
	var d digest
	if err := decode(body, &d); err != nil {
		return digest{}, err
	}
	if len(d.Name) > maxNameLen || len(d.Have) > maxDigest {
		return digest{}, fmt.Errorf("%w: digest out of bounds", errFrame)
	}
	return d, nil
}

func parsePart(body []byte) (part, error) {
	var p part
	if err := decode(body, &p); err != nil {
		return part{}, err
	}
	if len(p.Name) > maxNameLen || len(p.Data) > maxPart {
		return part{}, fmt.Errorf("%w: part out of bounds", errFrame)
	}
	return p, nil
}

func parseEnd(body []byte) (end, error) {
	var e end
	if err := decode(body, &e); err != nil {
		return end{}, err
	}
	if len(e.Name) > maxNameLen {
		return end{}, fmt.Errorf("%w: end out of bounds", errFrame)
	}
	return e, nil
}

// replica is the exchange of one state with one peer.
//
//	we                                peer
//	digest (want) ───────────────────►
//	              ◄─── part … part, end (answer)
//	digest (ack)  ───────────────────►
//	              ◄─── and what has changed since, if it has
//
// A push is the same without the first line. At most one delta is in flight
// each way; the next is made from the digest that acknowledges it. So a slow
// peer is sent what it can take, and what changes meanwhile is sent once.
//
// The fields are guarded by the mutex of the exchange.
type replica struct {
	name  string
	state State

	ask    bool // send our digest and want an answer
	ack    bool // send our digest: theirs is merged
	offer  bool // send our digest if they may lack something
	rhythm bool // send our digest: it is time
	answer bool // they want an end
	push   bool // we have changed
	got    bool // a digest of theirs came in
	tell   bool // which asked for ours

	known    bool      // theirs is valid
	theirs   []byte    // their last digest
	sent     []byte    // our last digest that they were sent
	basis    []byte    // their digest from which the last delta was made
	stuck    bool      // they acknowledged, and still have only basis
	streams  bool      // a delta is being sent
	inFlight time.Time // since when one waits for its acknowledgement; zero: none does
	heardAt  time.Time // when theirs came
	lost     uint64    // deltas that were not merged, or not acknowledged

	merging bool // in the middle of a delta of theirs
	behind  bool // and something else is missing
	failed  bool // and a part was not merged
	waiting []chan struct{}
	synced  bool // one answer came, and was merged
}

// heard takes in a digest of the peer.
func (r *replica) heard(d digest, now time.Time) {
	r.answer = r.answer || d.Want
	flying := r.streams || !r.inFlight.IsZero()
	switch {
	case d.Ack:
		r.inFlight = time.Time{}
		if r.stuck = bytes.Equal(d.Have, r.basis); r.stuck {
			r.lost++
		}
	case flying && (r.streams || now.Sub(r.inFlight) < flightTimeout):
		// It crossed our delta and says nothing about it.
		return
	default:
		if flying {
			r.lost++
		}
		r.inFlight, r.stuck = time.Time{}, false
	}
	r.heardAt = now
	r.theirs, r.known, r.got, r.tell = d.Have, true, true, r.tell || d.Ask
}

// step is what the writer is to send for one replica.
type step struct {
	digest         bool // our digest, and its flags
	want, ack, ask bool
	delta          bool   // all that the holder of from lacks
	from           []byte // their digest
	end            bool   // an end that is an answer: after the delta, or alone
}

// plan takes what is to be done for r, whose state has the digest ours.
func (r *replica) plan(ours []byte, now time.Time) step {
	var s step
	differ := !r.known || !bytes.Equal(r.theirs, ours)
	fresh := !bytes.Equal(r.sent, ours) // they have not seen ours
	s.want, s.ack, s.ask = r.ask || r.rhythm && !r.synced, r.ack, r.rhythm || r.offer
	s.digest = r.ask || r.ack || r.rhythm || differ && (r.tell || fresh && (r.offer || r.got))
	r.ask, r.ack, r.offer, r.rhythm, r.tell = false, false, false, false, false
	if s.digest {
		r.sent = ours
	}
	if r.streams || !r.inFlight.IsZero() || !r.known {
		return s // push, got and answer keep
	}
	s.delta = differ && (r.push || (r.got || r.answer) && !r.stuck)
	s.from, s.end = r.theirs, r.answer
	r.push, r.got, r.answer = false, false, false
	if s.delta {
		r.basis, r.streams = r.theirs, true
	}
	return s
}

// busy says whether plan has anything to find.
func (r *replica) busy() bool {
	return r.ask || r.ack || r.offer || r.rhythm || r.tell ||
		(r.push || r.got || r.answer) && !r.streams && r.inFlight.IsZero() && r.known
}
