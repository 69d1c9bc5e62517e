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
	self cluster.Node

	mu     sync.Mutex // guards the fields below
	loads  map[cluster.Node]*peerLoad
	alive  map[cluster.Node]bool
	fallen map[cluster.Node]bool // were alive, are not
	silent map[cluster.Node]bool // fell without a word, and have not told since what they did
	back   map[cluster.Node]bool // had fallen, are alive again and not synced yet
	synced map[cluster.Node]bool
	fence  fence[cluster.Node]

	suspended time.Duration // of the host, since its boot, as known at the last beat

	wake chan struct{} // closed and replaced at each change of synced
}

func newPeers(self cluster.Node) *peers {
	total, _ := suspended()
	return &peers{
		self: self, suspended: total, loads: map[cluster.Node]*peerLoad{}, wake: make(chan struct{}),
		alive: map[cluster.Node]bool{}, fallen: map[cluster.Node]bool{}, silent: map[cluster.Node]bool{},
		back: map[cluster.Node]bool{}, synced: map[cluster.Node]bool{},
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
		p.back[id] = p.fallen[id]
		delete(p.fallen, id)
	case mesh.Down, mesh.Left:
		delete(p.alive, id)
		p.fallen[id] = true
		if delete(p.silent, id); e.Kind == mesh.Down {
			p.silent[id] = true
		}
		delete(p.synced, id)
		delete(p.loads, id)
		p.fence.heard(id)
	case mesh.Synced:
		p.synced[id] = true
		delete(p.silent, id)
		p.fence.heard(id)
		close(p.wake)
		p.wake = make(chan struct{})
	case mesh.Beat:
		r, err := decodeReport(e.Member.Beat)
		if err != nil {
			return
		}
		l := p.loads[id]
		if l == nil {
			l = &peerLoad{}
			p.loads[id] = l
		}
		l.report = r
		l.outlook.Report(now.Add(-e.Member.RTT/2), r.Sessions, r.counted(p.self))
		l.clock.take(r.Clock, now, e.Member.RTT)
	case mesh.Stalled:
		// The fence saw the gap by itself, in beat.
	}
}

// beat moves the fence, see [fence], and says how long the host slept before.
func (p *peers) beat(now time.Time) (until time.Time, asleep time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	asleep = slept(monotonicAndWall(p.fence.last, now))
	if total, known := suspended(); known {
		asleep = 0
		if d := total - p.suspended; d >= fenceLease {
			asleep, p.suspended = d, total
		}
	}
	alive := make([]cluster.Node, 0, len(p.alive))
	for id := range p.alive {
		alive = append(alive, id)
	}
	return p.fence.beat(now, alive), asleep
}

// returned says, once, whether id had fallen before it synced just now.
func (p *peers) returned(id cluster.Node) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	was := p.back[id]
	delete(p.back, id)
	return was
}

// sent counts a device that we sent to id.
func (p *peers) sent(id cluster.Node, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if l := p.loads[id]; l != nil {
		l.outlook.Sent(now)
	}
}

// isAlive says whether id is linked to us.
func (p *peers) isAlive(id cluster.Node) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.alive[id]
}

// hasFallen says whether id was alive and is gone.
func (p *peers) hasFallen(id cluster.Node) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.fallen[id]
}

// doubt says whether a gateway may live that is out of reach, and serve devices of which we do not know.
func (p *peers) doubt() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.silent) > 0
}

// serves says whether a device may be sent to id.
func (p *peers) serves(id cluster.Node) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	l := p.loads[id]
	return p.alive[id] && l != nil && l.Serving && !l.Draining
}

// report returns the newest report of id.
func (p *peers) report(id cluster.Node) (report, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if l := p.loads[id]; l != nil {
		return l.report, true
	}
	return report{}, false
}

// weigh lists the loads of the peers alive.
func (p *peers) weigh(now time.Time) []cluster.Load {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]cluster.Load, 0, len(p.loads))
	for id, l := range p.loads {
		if p.alive[id] {
			load := l.outlook.Load(id, l.Capacity, l.Draining || !l.Serving, now)
			load.Standby = l.Standby
			out = append(out, load)
		}
	}
	return out
}

// heirs lists the gateways alive that may take over a device, self first.
func (p *peers) heirs(self cluster.Weighted) []cluster.Weighted {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := []cluster.Weighted{self}
	for id, l := range p.loads {
		if p.alive[id] && l.Serving && !l.Draining {
			out = append(out, l.weighted(id))
		}
	}
	return out
}

// isStandby says whether id is a standby gateway.
func (p *peers) isStandby(id cluster.Node) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	l := p.loads[id]
	return l != nil && l.Standby
}

// clock returns how far the wall clock of id is ahead of ours, and whether that is known.
func (p *peers) clock(id cluster.Node) (time.Duration, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if l := p.loads[id]; l != nil {
		return l.clock.offset()
	}
	return 0, false
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
