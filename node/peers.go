package node

import (
	"context"
	"sync"
	"time"

	"gatemesh/cluster"
	"gatemesh/mesh"
)

// peers is what this gateway knows of the others from one heartbeat to the
// next.
type peers struct {
	mu     sync.Mutex // guards the fields below
	loads  map[cluster.Node]peerLoad
	alive  map[cluster.Node]bool
	synced map[cluster.Node]bool
	fresh  map[cluster.Node]int // devices that arrived there since its last report
	mine   map[cluster.Node]int // those of them that we had sent
	fence  fence[cluster.Node]
	wake   chan struct{} // closed and replaced at each change of synced
}

func newPeers() *peers {
	return &peers{
		loads: map[cluster.Node]peerLoad{}, alive: map[cluster.Node]bool{},
		synced: map[cluster.Node]bool{}, fresh: map[cluster.Node]int{}, mine: map[cluster.Node]int{},
		wake: make(chan struct{}),
	}
}

// on takes in one event of the mesh at now.
func (p *peers) on(e mesh.Event, now time.Time) {
	id := cluster.Node(e.Member.ID)
	p.mu.Lock()
	defer p.mu.Unlock()
	switch e.Kind {
	case mesh.Up:
		p.alive[id] = true
	case mesh.Down, mesh.Left:
		delete(p.alive, id)
		delete(p.synced, id)
		delete(p.loads, id)
		delete(p.fresh, id)
		delete(p.mine, id)
		p.fence.heard(id)
	case mesh.Synced:
		p.synced[id] = true
		p.fence.heard(id)
		close(p.wake)
		p.wake = make(chan struct{})
	case mesh.Beat:
		if r, err := decodeReport(e.Member.Beat); err == nil {
			p.loads[id] = p.loads[id].next(r, p.mine[id], now)
			p.fresh[id], p.mine[id] = 0, 0
		}
	case mesh.Stalled:
		// The fence saw the gap by itself, in beat.
	}
}

// beat moves the fence; see [fence].
func (p *peers) beat(now time.Time) time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	alive := make([]cluster.Node, 0, len(p.alive))
	for id := range p.alive {
		alive = append(alive, id)
	}
	return p.fence.beat(now, alive)
}

// arrived counts a device that came to id, and whether we had sent it.
func (p *peers) arrived(id cluster.Node, mine bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fresh[id]++
	if mine {
		p.mine[id]++
	}
}

// isAlive says whether id is linked to us.
func (p *peers) isAlive(id cluster.Node) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.alive[id]
}

// serves says whether a device may be sent to id.
func (p *peers) serves(id cluster.Node) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.alive[id] && p.loads[id].Serving && !p.loads[id].Draining
}

// report returns the newest report of id.
func (p *peers) report(id cluster.Node) (report, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	l, ok := p.loads[id]
	return l.report, ok
}

// weigh lists the loads of the peers alive.
func (p *peers) weigh(now time.Time, pending func(cluster.Node) int) []cluster.Load {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]cluster.Load, 0, len(p.loads))
	for id, l := range p.loads {
		if p.alive[id] {
			load := l.load(id, pending(id), now)
			load.Sessions += p.fresh[id]
			out = append(out, load)
		}
	}
	return out
}

// heirs lists the gateways alive that may take over a device, self included.
func (p *peers) heirs(self cluster.Node, capacity int) []cluster.Weighted {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := []cluster.Weighted{{Node: self, Capacity: capacity}}
	for id, l := range p.loads {
		if p.alive[id] && l.Serving && !l.Draining {
			out = append(out, cluster.Weighted{Node: id, Capacity: l.Capacity})
		}
	}
	return out
}

// waitSynced returns when a peer has told all it knows, or after max.
func (p *peers) waitSynced(ctx context.Context, maxWait time.Duration) error {
	t := time.NewTimer(maxWait)
	defer t.Stop()
	for {
		p.mu.Lock()
		n, wake := len(p.synced), p.wake
		p.mu.Unlock()
		if n > 0 {
			return nil
		}
		select {
		case <-wake:
		case <-t.C:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
