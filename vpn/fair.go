package vpn

import (
	"container/heap"
	"net/netip"
)

// fairQueue keeps handshake messages until a worker takes them. Sources take turns, a source being an IPv4 address or
// the /64 of an IPv6 one. When it is full, a message of the source that has most waiting is dropped, its oldest.
// It is not for concurrent use.
//
//	sources  203.0.113.7 │ 1 2 3 4 5 │ ◄─ loses 1 when there is no room
//	         2001:db8::/64 │ 1 │
//	         198.51.100.9  │ 1 2 │     turns: one message each, round and round
type fairQueue struct {
	limit   int // messages; set once
	size    int
	sources map[netip.Addr]*source // with something waiting
	longest sourceHeap             // the same
	turns   []*source              // the same, the next one first
	newest  map[sender]*datagram   // waiting message of each sender, the one that came last
}

// sender tells the kinds of message apart that come from one address and port.
type sender struct {
	addr netip.AddrPort
	kind uint32
}

type source struct {
	addr    netip.Addr
	waiting []*datagram // oldest first
	index   int         // in the heap
}

func newFairQueue(limit int) fairQueue {
	return fairQueue{limit: limit, sources: make(map[netip.Addr]*source), newest: make(map[sender]*datagram)}
}

// sourceOf is whose turn a message from that address takes.
func sourceOf(a netip.Addr) netip.Addr {
	if a.Is4() {
		return a
	}
	p, err := a.Prefix(64)
	if err != nil { // not an address
		return netip.Addr{}
	}
	return p.Addr()
}

// push queues a message and reports whether none had to be dropped for it.
func (q *fairQueue) push(d *datagram) bool {
	addr := sourceOf(d.addr.Addr())
	s := q.sources[addr]
	full := q.size >= q.limit
	if full && s == nil && len(q.longest[0].waiting) == 1 {
		return false // everybody else waits with one
	}
	if s == nil {
		s = &source{addr: addr}
		q.sources[addr] = s
		heap.Push(&q.longest, s)
		q.turns = append(q.turns, s)
	}
	s.waiting = append(s.waiting, d)
	heap.Fix(&q.longest, s.index)
	q.newest[d.sender()] = d
	q.size++
	if full {
		q.shift(q.longest[0]) // it has two or more
	}
	return !full
}

// replace puts a message in the place of the one that waits from the same sender; it reports whether there was one.
func (q *fairQueue) replace(d *datagram) bool {
	waiting := q.newest[d.sender()]
	if waiting != nil {
		*waiting = *d
	}
	return waiting != nil
}

// pop returns the oldest message of the source whose turn it is; nil: nothing waits.
func (q *fairQueue) pop() *datagram {
	if len(q.turns) == 0 {
		return nil
	}
	s := q.turns[0]
	q.turns[0] = nil
	q.turns = q.turns[1:]
	d := q.shift(s)
	if len(s.waiting) > 0 {
		q.turns = append(q.turns, s)
	} else {
		heap.Remove(&q.longest, s.index)
		delete(q.sources, s.addr)
	}
	return d
}

// shift takes the oldest message of a source out.
func (q *fairQueue) shift(s *source) *datagram {
	d := s.waiting[0]
	s.waiting[0] = nil
	s.waiting = s.waiting[1:]
	heap.Fix(&q.longest, s.index)
	if q.newest[d.sender()] == d {
		delete(q.newest, d.sender())
	}
	q.size--
	return d
}

// sourceHeap implements heap.Interface; the source with most messages is first.
type sourceHeap []*source

func (h sourceHeap) Len() int           { return len(h) }
func (h sourceHeap) Less(i, j int) bool { return len(h[i].waiting) > len(h[j].waiting) }
func (h sourceHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

func (h *sourceHeap) Push(x any) {
	s := x.(*source)
	s.index = len(*h)
	*h = append(*h, s)
}

func (h *sourceHeap) Pop() any {
	old := *h
	s := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return s
}
