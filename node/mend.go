package node

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"gatemesh/node/api"
	"gatemesh/vpn"
)

const (
	mendFirst     = 100 * time.Millisecond // between attempts to open the data path again; doubled up to
	mendMost      = 5 * time.Second        // this
	mendLasts     = time.Minute            // a data path that lived so long begins anew with mendFirst
	evacuateAfter = 500 * time.Millisecond // devices wait so long before they are given to others
)

// readiness says whether a gateway takes devices: it has joined, its data path works, and it is one of those that may
// serve.
type readiness struct {
	joined, broken atomic.Bool
	surplus        atomic.Bool // there are more gateways than may serve, and this is one of the others
	lost           atomic.Bool // broken for longer than evacuateAfter: devices are given away
}

// Load reports whether devices are taken.
func (r *readiness) Load() bool { return r.joined.Load() && !r.broken.Load() && !r.surplus.Load() }

// serveDevices runs the engine. A data path that fails takes the gateway out of placement and its devices to their
// heirs, until it is open again; sessions that nobody took go on then.
//
//	        vpn.ErrTUN, vpn.ErrSocket                  longer than evacuateAfter
//	serving ───────────────────────────► broken ─────────────────────────────────► evacuated
//	   ▲                                    │ open again                               │
//	   └────────────────────────────────────┴──────────────────────────────────────────┘
func (n *Node) serveDevices(ctx context.Context, p *parts) error {
	wait := mendFirst
	for {
		begun := time.Now()
		err := p.vpn.Run(ctx)
		if ctx.Err() != nil || !errors.Is(err, vpn.ErrTUN) && !errors.Is(err, vpn.ErrSocket) {
			return err
		}
		if time.Since(begun) > mendLasts {
			wait = mendFirst
		}
		p.ready.broken.Store(true)
		n.tell(api.Event{Kind: api.EventUnready, GatewayID: n.self.String(), Text: err.Error()})
		n.log.Error("the data path has failed; this gateway takes no devices until it is open again", "err", err, "hint", mendHint(err))
		broke := time.Now()
		if wait = n.mend(ctx, p, wait); ctx.Err() != nil {
			return nil
		}
		p.ready.lost.Store(false)
		p.ready.broken.Store(false)
		n.tell(api.Event{Kind: api.EventReady, GatewayID: n.self.String()})
		n.log.Info("the data path is open again", "after", time.Since(broke).Round(time.Millisecond))
	}
}

func mendHint(err error) string {
	if errors.Is(err, vpn.ErrSocket) {
		return "look at what the system says of its network, as `dmesg` and `ss -lunp` show it"
	}
	return "look for what removed the interface or set it down, such as a network manager; it is made anew"
}

// mend tries until the data path is open, or ctx ends. It returns how long to wait at first should it fail again soon.
func (n *Node) mend(ctx context.Context, p *parts, wait time.Duration) time.Duration {
	evacuate := time.NewTimer(evacuateAfter)
	defer evacuate.Stop()
	var last string
	for {
		p.vpn.Sweep()
		err := n.reopen(p)
		if err == nil {
			return min(2*wait, mendMost)
		}
		if last != err.Error() { // once per reason
			last = err.Error()
			n.log.Warn("the data path does not open", "err", err)
		}
		retry := time.NewTimer(wait)
		for waiting := true; waiting; {
			select {
			case <-ctx.Done():
				retry.Stop()
				return wait
			case <-evacuate.C:
				p.ready.lost.Store(true)
				p.rouseLeaving()
			case <-retry.C:
				waiting = false
			}
		}
		wait = min(2*wait, mendMost)
	}
}

// reopen gives the engine its port and what carries packets beyond the gateway again.
func (n *Node) reopen(p *parts) error {
	dev, err := n.openPlane(p.facts, p.plane)
	if err != nil {
		return err
	}
	return p.vpn.Reopen(dev)
}
