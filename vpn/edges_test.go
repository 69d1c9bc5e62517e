package vpn

import (
	"io"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/tun"
)

// FastEdges makes a bind and a TUN offer what the fast path of Linux works with, so that tests on a fake clock go
// through it: datagrams of one sender come side by side, packets as super-packets where they can be merged.
func FastEdges(b conn.Bind, t tun.Device) (conn.Bind, tun.Device) {
	return &mergingBind{Bind: b}, &mergingTUN{Device: t}
}

type mergingBind struct {
	conn.Bind
	receive []conn.ReceiveFunc
}

func (b *mergingBind) Open(port uint16) (functions []conn.ReceiveFunc, actual uint16, err error) {
	b.receive, actual, err = b.Bind.Open(port)
	return b.receive, actual, err
}

func (b *mergingBind) segmentSockets() (sockets []segmentSocket, families int) {
	for _, f := range b.receive {
		n := b.BatchSize()
		sockets = append(sockets, &mergingSocket{f, makeBuffers(n), make([]int, n), make([]conn.Endpoint, n)})
	}
	return sockets, 1
}

type mergingSocket struct {
	from      conn.ReceiveFunc
	buffers   [][]byte
	sizes     []int
	endpoints []conn.Endpoint
}

func (s *mergingSocket) receive(batch []segments) (int, error) {
	n, err := s.from(s.buffers[:min(len(s.buffers), len(batch))], s.sizes, s.endpoints)
	if err != nil {
		return 0, err
	}
	count := 0
	for i, b := range s.buffers[:n] {
		b = b[:s.sizes[i]]
		if count > 0 {
			last := &batch[count-1]
			if last.n%last.size == 0 && len(b) > 0 && len(b) <= last.size && last.from.DstToString() == s.endpoints[i].DstToString() {
				last.n += copy(last.buffer[last.n:], b)
				continue
			}
		}
		to := &batch[count]
		*to = segments{to.buffer, copy(to.buffer, b), max(len(b), 1), s.endpoints[i]}
		count++
	}
	return count, nil
}

type mergingTUN struct{ tun.Device }

func (t *mergingTUN) superQueues(int) ([]superQueue, bool) {
	n := t.BatchSize()
	return []superQueue{&mergingQueue{t.Device, makeBuffers(n), make([]int, n), nil}}, true
}

type mergingQueue struct {
	tun.Device
	buffers [][]byte
	sizes   []int
	ready   [][]byte // read and merged
}

func (q *mergingQueue) read(b []byte, wait bool) (int, error) {
	if len(q.ready) == 0 && !wait {
		return 0, nil
	}
	for len(q.ready) == 0 {
		n, err := q.Read(q.buffers, q.sizes, headerSize)
		if err != nil {
			return 0, err
		}
		var packets [][]byte
		for i := range n {
			packets = append(packets, q.buffers[i][:headerSize+q.sizes[i]])
		}
		q.ready = merged(packets)
	}
	n := copy(b, q.ready[0])
	q.ready = q.ready[1:]
	return n, nil
}

// merged is what a superWriter makes of packets at offset headerSize.
func merged(packets [][]byte) (supers [][]byte) {
	w := superWriter{coalescer: coalescer{udp: true}}
	w.to = func(header *[vnetSize]byte, pieces [][]byte) error {
		b := header[:]
		for _, p := range pieces {
			b = append(b, p...)
		}
		supers = append(supers, b)
		return nil
	}
	w.write(packets)
	return supers
}

func (q *mergingQueue) writer() func(*[vnetSize]byte, [][]byte) error {
	return func(header *[vnetSize]byte, pieces [][]byte) error {
		b := header[:]
		for _, p := range pieces {
			b = append(b, p...)
		}
		packets, err := splitAll(b)
		for _, p := range packets {
			if _, e := q.Write([][]byte{append(make([]byte, headerSize), p...)}, headerSize); e != nil {
				return e
			}
		}
		return err
	}
}

// splitAll is what a splitter makes of a copy of a vnet header and a packet.
func splitAll(super []byte) (packets [][]byte, err error) {
	var s splitter
	if err := s.begin(append([]byte(nil), super...)); err != nil {
		return nil, err
	}
	for n := s.size(); n > 0; n = s.size() {
		p := make([]byte, n)
		s.next(p)
		packets = append(packets, p)
		if len(packets) > 1<<16 {
			return nil, io.ErrShortBuffer
		}
	}
	return packets, nil
}
