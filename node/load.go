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
}
