package node

import (
	"context"
	"errors"
	"time"

	"gatemesh/cluster"
	"gatemesh/mesh"
)

// kindKnock asks the new gateway of a device to call it once more: the device's key.
const kindKnock = "knock"

// onHeard is for a device that still talks to this gateway though another has it. p.rows is held.
func (n *Node) onHeard(p *parts, k cluster.Key) {
	now := time.Now()
	to, since := p.forwards.heir(k)
	is := p.stance(k)
	if is == handed && to.IsZero() {
		return // its heir has not answered yet
	}
	next, m := is.heard(now.Sub(since), p.departing.Load())
	if m == callAgain {
		_ = p.mesh.Send(mesh.ID(to), kindKnock, k[:]) // it is heard again
	} else if is == handed && m == recall {
		p.kept[k] = now.Add(keepFor)
	}
	n.turn(p, k, next, m)
}

// onKnock calls a device that its former gateway still hears.
func (n *Node) onKnock(p *parts) mesh.Handler {
	return func(_ context.Context, _ mesh.ID, payload []byte) ([]byte, error) {
		var k cluster.Key
		if len(payload) != len(k) {
			return nil, errors.New("not a device")
		}
		copy(k[:], payload)
		if p.serves(k) {
			p.vpn.Keepalive(k)
		}
		return nil, nil
	}
}
