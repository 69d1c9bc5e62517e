package mesh

import (
	"fmt"
	"net/netip"
)

// class says what a connection of a link is for.
type class uint8

const (
	classControl class = 1
	classBulk    class = 2
)

// hello is the first frame each way on a connection of a link. It is sent
// under TLS, by a key that is proven but not yet admitted.
type hello struct {
	Cluster  []byte         `cbor:"1,keyasint"` // 16 bytes
	ProtoMin uint           `cbor:"2,keyasint"`
	ProtoMax uint           `cbor:"3,keyasint"`
	Version  string         `cbor:"4,keyasint,omitempty"`
	Name     string         `cbor:"5,keyasint,omitempty"`
	Voucher  []byte         `cbor:"6,keyasint,omitempty"`
	Class    class          `cbor:"7,keyasint"`
	Addr     netip.AddrPort `cbor:"8,keyasint"`            // where the sender listens
	Boot     uint64         `cbor:"9,keyasint"`            // of the sender's process
	Link     []byte         `cbor:"10,keyasint"`           // 16 bytes, drawn by the dialer; joins control and bulk
	States   []string       `cbor:"11,keyasint,omitempty"` // by name
	Gossip   uint64         `cbor:"12,keyasint,omitempty"` // in the sender's name in serf; 0: the same as Boot
}

// gossip returns the number in the sender's name in serf.
func (h hello) gossip() uint64 {
	if h.Gossip != 0 {
		return h.Gossip
	}
	return h.Boot
}

func parseHello(body []byte) (hello, error) {
	var h hello
	if err := decode(body, &h); err != nil {
		return hello{}, err
	}
	ok := len(h.Cluster) == 16 && len(h.Link) == 16 && len(h.Voucher) <= maxVoucher &&
		len(h.Name) <= maxNameLen && len(h.Version) <= maxNameLen && len(h.States) <= maxNames &&
		h.ProtoMin <= h.ProtoMax && h.Addr.Addr().Zone() == ""
	for _, s := range h.States {
		ok = ok && len(s) <= maxNameLen
	}
	if !ok {
		return hello{}, fmt.Errorf("%w: hello out of bounds", errFrame)
	}
	h.Addr = netip.AddrPortFrom(h.Addr.Addr().Unmap(), h.Addr.Port())
	return h, nil
}

// reason is why a connection was refused. Numbers are never used again.
type reason uint8

const (
	refusedVersion   reason = 1 // no version of the protocol in common
	refusedCluster   reason = 2 // another cluster
	refusedAdmission reason = 3 // the key is not admitted
	refusedDuplicate reason = 4 // there is a better link
	refusedSelf      reason = 5 // we dialled ourselves
	refusedLink      reason = 6 // bulk without its control
	refusedProof     reason = 7 // another cluster key
	refusedNobody    reason = 8 // nobody here can admit a newcomer
	refusedPolicy    reason = 9 // proven, but not wanted; the text says why
	refusedLeaving   reason = 10
	refusedEvicted   reason = 20 // the key was admitted, and never will be again
	refusedSuspended reason = 21 // the key is not admitted any more, but may be again
	refusedFailed    reason = 11 // proven, but something went wrong; the text says what
)

func (r reason) String() string {
	switch r {
	case refusedVersion:
		return "no common version of the protocol"
	case refusedCluster:
		return "another cluster"
	case refusedAdmission:
		return "not admitted"
	case refusedDuplicate:
		return "there is a better link"
	case refusedSelf:
		return "dialled itself"
	case refusedLink:
		return "no such link"
	case refusedProof:
		return "another cluster key"
	case refusedNobody:
		return "nobody here can admit a newcomer"
	case refusedPolicy:
		return "not wanted"
	case refusedLeaving:
		return "leaving"
	case refusedEvicted:
		return "evicted"
	case refusedSuspended:
		return "admission suspended"
	case refusedFailed:
		return "it failed there"
	}
	return fmt.Sprintf("reason %d", uint8(r))
}

// refusal is the body of kindRefuse.
type refusal struct {
	Code reason `cbor:"1,keyasint"`
	Text string `cbor:"2,keyasint,omitempty"`
	Hint string `cbor:"3,keyasint,omitempty"`
}

// RefusedError says that the other side would not have us. Returned by
// Config.Secrets or Config.Welcome, it is told as it is.
type RefusedError struct {
	Reason string // in words, at most 256 bytes
	Hint   string // what to do about it, at most 256 bytes; "" if nothing is known
	// Final says that it was decided, by a member that had shown that it is
	// one: there is no use in trying again. Set by Join.
	Final bool
	code  reason
	byUs  bool
}

// Error returns the reason.
func (e *RefusedError) Error() string { return "refused: " + e.Reason }

// Version says whether it is for want of a version of the protocol in common.
func (e *RefusedError) Version() bool { return e.code == refusedVersion }

// parseRefusal always returns an error: the refusal, or what is wrong with it.
func parseRefusal(body []byte) error {
	var r refusal
	if err := decode(body, &r); err != nil {
		return err
	}
	if len(r.Text) > maxReason || len(r.Hint) > maxReason {
		return fmt.Errorf("%w: refusal out of bounds", errFrame)
	}
	e := &RefusedError{Reason: r.Code.String(), Hint: r.Hint, code: r.Code}
	switch {
	case r.Text != "" && r.Code == refusedPolicy:
		e.Reason = r.Text
	case r.Text != "":
		e.Reason += ": " + r.Text
	}
	return e
}
