package node

import (
	"errors"

	"github.com/fxamacker/cbor/v2"

	"gatemesh/cluster"
)

// report is the payload of a heartbeat: what others need for their decisions
// about this gateway.
type report struct {
	Sessions int     `cbor:"1,keyasint"` // confirmed devices
	Capacity int     `cbor:"2,keyasint"`
	Serving  bool    `cbor:"3,keyasint"` // takes devices at all
	Draining bool    `cbor:"4,keyasint"` // takes no new ones
	Counted  []count `cbor:"5,keyasint"` // of the devices that each other gateway sent
	// Incarnation is the engine's, for which exports are made; 0: it takes none.
	Incarnation uint64 `cbor:"6,keyasint,omitempty"`
	ReadOnly    bool   `cbor:"7,keyasint,omitempty"` // its disk is nearly full: it takes no changes
	Standby     bool   `cbor:"8,keyasint,omitempty"` // it takes devices only while no active gateway has room
	Full        bool   `cbor:"9,keyasint,omitempty"` // it has no room; see fullness
	// Clock is its wall clock when it made this, in microseconds since 1970; 0: it does not say.
	Clock int64 `cbor:"10,keyasint,omitempty"`
}

// count is how many devices that a gateway sent were confirmed here since this
// process began.
type count struct {
	From cluster.Node `cbor:"1,keyasint"`
	N    uint64       `cbor:"2,keyasint"`
}

// maxCounted bounds the gateways in a report: a heartbeat has 4 KiB.
const maxCounted = 128

var errReport = errors.New("report of a load is out of bounds")

func (r report) encode() []byte {
	b, err := cbor.Marshal(r)
	if err != nil {
		panic(err) // a struct of numbers always encodes
	}
	return b
}

// decodeReport bounds what a peer says of itself.
func decodeReport(b []byte) (r report, err error) {
	if err := cbor.Unmarshal(b, &r); err != nil {
		return report{}, err
	}
	if r.Sessions < 0 || r.Sessions > 1<<30 || r.Capacity < 0 || r.Capacity > 1<<30 || len(r.Counted) > maxCounted {
		return report{}, errReport
	}
	return r, nil
}

// counted returns how many devices the sender counts that came from a gateway.
func (r report) counted(from cluster.Node) uint64 {
	for _, c := range r.Counted {
		if c.From == from {
			return c.N
		}
	}
	return 0
}

// peerLoad is what is known of one peer's load.
type peerLoad struct {
	report
	outlook cluster.Outlook
	clock   skew
}

// weighted is the peer among those that inherit.
func (l *peerLoad) weighted(id cluster.Node) cluster.Weighted {
	return cluster.Weighted{Node: id, Capacity: l.Capacity, Standby: l.Standby, Full: l.Full}
}

// fullness says whether a gateway has no room. It stays full until a twentieth is free, so that not every device that
// comes or goes gives those of others another heir.
func fullness(was bool, sessions, capacity int) bool {
	if was {
		return sessions > capacity-max(1, capacity/20)
	}
	return sessions >= capacity
}
