package mesh

import (
	"context"
	mrand "math/rand/v2"
	"time"
)

const (
	bulkTimeout   = 30 * time.Second // of one write
	digestPeriod  = 5 * time.Second
	spreadDelay   = 100 * time.Millisecond
	flightTimeout = 30 * time.Second // a delta that nobody acknowledged
	maxMerges     = 4                // of one state, at work at once
)

// exchanges returns those of all links.
func (m *Mesh) exchanges() []*exchange {
	var list []*exchange
	for _, l := range m.links() {
		l.mu.Lock()
		if l.exchange != nil {
			list = append(list, l.exchange)
		}
		l.mu.Unlock()
	}
	return list
}

// push sends local changes of a state to all peers.
func (m *Mesh) push(ctx context.Context, name string) error {
	changed := m.cfg.States[name].Changed()
	for {
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
		for _, x := range m.exchanges() {
			x.each(name, func(r *replica) { r.push = true })
		}
	}
}

// spread offers our digests some time after remote data was merged: to those
// who may lack it.
func (m *Mesh) spread(ctx context.Context) error {
	for {
		select {
		case <-m.moved:
		case <-ctx.Done():
			return ctx.Err()
		}
		if err := sleep(ctx, spreadDelay+mrand.N(spreadDelay/2)); err != nil {
			return err
		}
		select {
		case <-m.moved:
		default:
		}
		for _, x := range m.exchanges() {
			x.each("", func(r *replica) { r.offer = true })
		}
	}
}

// Resync exchanges digests with all linked peers now, and waits until what
// they had is merged, their links are gone, or ctx ends.
func (m *Mesh) Resync(ctx context.Context) error {
	for _, x := range m.exchanges() {
		var answers []chan struct{}
		x.each("", func(r *replica) {
			c := make(chan struct{})
			answers = append(answers, c)
			r.ask, r.waiting = true, append(r.waiting, c)
		})
		for _, c := range answers {
			select {
			case <-c:
			case <-x.ended:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
	return nil
}
