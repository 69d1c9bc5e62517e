package vpn

import (
	"container/heap"
	"sync"
	"sync/atomic"
	"time"
)

// schedule orders devices by the time at which the sweeper must look at them next. The packet path comes here only
// when a deadline is earlier than the scheduled one, that is about once in ten seconds for a busy device.
type schedule struct {
	wake chan struct{} // capacity 1: the first deadline became earlier

	mu   sync.Mutex // guards the fields below and schedulePosition.index
	heap peerHeap
}

// schedulePosition is a device's place in the schedule.
type schedulePosition struct {
	due   atomic.Int64 // scheduled time, 0: not scheduled; written under schedule.mu
	index int
}

func newSchedule() *schedule { return &schedule{wake: make(chan struct{}, 1)} }

// at makes the sweeper look at p at that time or earlier.
func (s *schedule) at(p *peer, when time.Duration) {
	if due := p.due.Load(); due != 0 && due <= int64(when) {
		return
	}
	s.mu.Lock()
	switch due := p.due.Load(); {
	case due == 0:
		p.due.Store(int64(when))
		heap.Push(&s.heap, p)
	case int64(when) < due:
		p.due.Store(int64(when))
		heap.Fix(&s.heap, p.index)
	}
	first := s.heap[0] == p
	s.mu.Unlock()
	if first {
		s.look()
	}
}

// look makes the sweeper look again at what there is to do and when.
func (s *schedule) look() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// pop takes out a device that is due; nil: none is before next, where 0 means that none is scheduled.
func (s *schedule) pop(now time.Duration) (p *peer, next time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.heap) == 0 {
		return nil, 0
	}
	if first := s.heap[0]; first.due.Load() > int64(now) {
		return nil, time.Duration(first.due.Load())
	}
	p = heap.Pop(&s.heap).(*peer)
	p.due.Store(0)
	return p, 0
}

// remove takes p out.
func (s *schedule) remove(p *peer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.due.Load() != 0 {
		heap.Remove(&s.heap, p.index)
		p.due.Store(0)
	}
}

// peerHeap implements heap.Interface.
type peerHeap []*peer

func (h peerHeap) Len() int           { return len(h) }
func (h peerHeap) Less(i, j int) bool { return h[i].due.Load() < h[j].due.Load() }
func (h peerHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

func (h *peerHeap) Push(x any) {
	p := x.(*peer)
	p.index = len(*h)
	*h = append(*h, p)
}

func (h *peerHeap) Pop() any {
	old := *h
	p := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return p
}
