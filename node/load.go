package node

import (
	"math"
	"time"

	"github.com/fxamacker/cbor/v2"

	"gatemesh/cluster"
)

// report is the payload of a heartbeat: what others need for their decisions
// about this gateway.
type report struct {
	Sessions int  `cbor:"1,keyasint"` // confirmed devices
	Capacity int  `cbor:"2,keyasint"`
	Serving  bool `cbor:"3,keyasint"` // takes devices at all
	Draining bool `cbor:"4,keyasint"` // takes no new ones
}

func (r report) encode() []byte {
	b, err := cbor.Marshal(r)
	if err != nil {
		panic(err) // a struct of numbers always encodes
	}
	return b
}

// decodeReport bounds what a peer says of itself.
func decodeReport(b []byte) (r report, err error) {
	if err = cbor.Unmarshal(b, &r); err != nil {
		return report{}, err
	}
	r.Sessions = min(max(r.Sessions, 0), 1<<30)
	r.Capacity = min(max(r.Capacity, 0), 1<<20)
	return r, nil
}

// growthWindow is the time constant of the average of a peer's growth.
const growthWindow = 500 * time.Millisecond

// peerLoad is what is known of one peer's load.
type peerLoad struct {
	report
	at     time.Time // when the report came; zero: none yet
	growth float64   // sessions per second that others brought it
}

// next returns what is known after report r came at now; mine is how many of
// the new sessions were sent there by this gateway.
func (p peerLoad) next(r report, mine int, now time.Time) peerLoad {
	out := peerLoad{report: r, at: now}
	if p.at.IsZero() || !now.After(p.at) {
		return out
	}
	dt := now.Sub(p.at)
	rate := max(0, float64(r.Sessions-p.Sessions-mine)) / dt.Seconds()
	w := 1 - math.Exp(-dt.Seconds()/growthWindow.Seconds())
	out.growth = p.growth + w*(rate-p.growth)
	return out
}

// load is the peer as placement sees it; pending is what was sent to it and it
// has not counted yet.
func (p peerLoad) load(id cluster.Node, pending int, now time.Time) cluster.Load {
	return cluster.Load{
		Node: id, Sessions: p.Sessions, Pending: pending, Growth: p.growth,
		Age: now.Sub(p.at), Capacity: p.Capacity, Draining: p.Draining || !p.Serving,
	}
}
