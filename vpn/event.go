package vpn

import (
	"net/netip"
	"sync"
	"time"
)

// EventKind says what happened.
type EventKind int

const (
	// Answered: an initiation of the device was accepted and a response is about to leave. Nothing is confirmed yet.
	Answered EventKind = iota + 1
	// Confirmed: new keys are in use, at each rekey too. As responder: the first authenticated transport packet under
	// them came in; as initiator: the response authenticated. Imported: the first authenticated message under keys that
	// were taken over came in, once per takeover.
	Confirmed
	// Roamed: the confirmed address changed without new keys, once or more since this was told last.
	Roamed
	// Sent: an initiation with timestamp Sent is about to leave. Notify returns before it leaves.
	Sent
	// Heard: a device that another gateway has claimed (Mute), or that was exported for good, still talks to this one.
	Heard
	// Gone: a session that was confirmed, or begun by Initiate, has ended.
	Gone
)

func (k EventKind) String() string {
	switch k {
	case Answered:
		return "answered"
	case Confirmed:
		return "confirmed"
	case Roamed:
		return "roamed"
	case Sent:
		return "sent"
	case Heard:
		return "heard"
	case Gone:
		return "gone"
	}
	return "unknown"
}

// Event is told to Config.Notify. Those of one device come in the order in which they happened, Gone before what its
// next session tells, one at a time, except Sent, which is told by a handshake worker.
type Event struct {
	Kind      EventKind
	Device    Key
	Endpoint  netip.AddrPort // confirmed address; of Answered and Sent: where the message goes; invalid: none
	Received  Timestamp      // greatest TAI64N known to have been received from the device
	Sent      Timestamp      // greatest TAI64N known to have been sent to it
	Initiator bool           // the session, or the attempt, was begun by us
	Index     uint32         // receiver index of the current keys; 0: none
	Imported  bool           // of Confirmed: the first message under keys that were taken over came in
	Dropped   bool           // of Gone: by Drop or Refresh, else its keys died or the handshake was given up
	At        time.Time      // wall clock
}

// outbox keeps events until the notifier has told them, so that neither the packet path nor a lock waits for Notify.
// It holds at most a few events per handshake: a device that roams has one that tells where it is by then.
type outbox struct {
	wake chan struct{} // capacity 1

	mu      sync.Mutex // guards the field below
	notices []*notice
}

// notice is an event that waits to be told.
type notice struct {
	Event
	roamer *peer    // of Roamed, else nil
	keys   *keypair // of Confirmed, of new keys; else nil
}

func newOutbox() *outbox { return &outbox{wake: make(chan struct{}, 1)} }

func (o *outbox) put(n *notice) {
	o.mu.Lock()
	o.notices = append(o.notices, n)
	o.mu.Unlock()
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

func (o *outbox) take() []*notice {
	o.mu.Lock()
	defer o.mu.Unlock()
	notices := o.notices
	o.notices = nil
	return notices
}

// settle returns the event to be told now.
func (n *notice) settle() Event {
	p := n.roamer
	if p == nil {
		return n.Event
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.roamed == n { // else a handshake was confirmed since, whose event follows
		p.roamed = nil
		n.Endpoint = p.endpoint.Load().addr
	}
	return n.Event
}
