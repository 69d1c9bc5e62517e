package vpn

import (
	"context"
	"log/slog"
	"runtime"

	"golang.org/x/sync/errgroup"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/tun"
)

// The edges below let packets pass without being copied between buffers. A bind or a TUN offers them beside its
// portable functions or not at all, each for itself. A shard is one socket of each address family and one queue of the
// TUN, with a goroutine for each; a device's packets may come through any shard.
//
//	socket ─ many datagrams of one sender in one buffer ─► open each in place ─► coalescer ─ vnet header, pieces ─► queue
//	socket ◄─ messages side by side, one UDP_SEGMENT ◄─ seal each in place ◄─ splitter ◄─ vnet header, super-packet ─ queue

// segmentBind is a conn.Bind that tells what the kernel has merged (UDP_GRO).
type segmentBind interface {
	conn.Bind
	// segmentSockets is called once after Open; then Open's functions are not used. The sockets of shard i are at
	// i*families and behind.
	segmentSockets() (sockets []segmentSocket, families int)
}

// segmentSocket is read by one goroutine.
type segmentSocket interface {
	// receive fills buffers and returns how many. Its errors are those of a conn.ReceiveFunc.
	receive([]segments) (int, error)
}

// segments is a buffer with datagrams of one sender side by side.
type segments struct {
	buffer []byte // of the reader
	n      int    // bytes in it
	size   int    // of each datagram but the last, which may be shorter
	from   conn.Endpoint
}

// superTUN is a tun.Device that takes and gives super-packets behind vnet headers.
type superTUN interface {
	tun.Device
	// superQueues opens n queues, or fewer, and says whether they take super-packets of UDP. It is called once; if it
	// returns any, Read and Write are not used. Close closes them.
	superQueues(n int) (queues []superQueue, udp bool)
}

type superQueue interface {
	// read puts a vnet header and a packet into b and returns their length. If wait is false it returns 0 instead of
	// blocking. It is called by one goroutine. After Close its error is os.ErrClosed.
	read(b []byte, wait bool) (int, error)
	// writer returns what one goroutine writes with: a vnet header and the pieces of a packet.
	writer() func(header *[vnetSize]byte, pieces [][]byte) error
}

const (
	maxShards      = 8
	segmentBuffers = 8       // read from a socket at once, each as large as a datagram may be
	sealBuffer     = 2 << 16 // of what a queue of the TUN has given; no less than a packet takes when it is sealed
)

// shards is how many there are at most.
func shards() int { return max(1, min(runtime.GOMAXPROCS(0), maxShards)) }

// movePackets starts the goroutines that move packets, on the fast path where the edges offer it.
func (g *Gateway) movePackets(ctx context.Context, group *errgroup.Group) {
	var queues []superQueue
	var udp bool
	level := slog.LevelDebug
	if dev, ok := g.tun().(superTUN); ok && !g.cfg.Portable {
		if queues, udp = dev.superQueues(shards()); !udp {
			level = slog.LevelInfo // the kernel is old
		}
	}
	for _, q := range queues {
		group.Go(func() error { return g.transmitSupers(ctx, q) })
	}
	if len(queues) == 0 {
		group.Go(func() error { return g.transmit(ctx) })
	}
	var sockets []segmentSocket
	families := 1
	if bind, ok := g.cfg.Bind.(segmentBind); ok && !g.cfg.Portable {
		sockets, families = bind.segmentSockets()
	}
	for i, s := range sockets {
		group.Go(func() error { return g.receiveSegments(ctx, s, newSuperWriter(queues, i/families, udp)) })
	}
	if len(sockets) == 0 {
		for i, receive := range g.receive {
			group.Go(func() error { return g.receiveFrom(ctx, receive, newSuperWriter(queues, i, udp)) })
		}
	}
	g.cfg.Log.Log(ctx, level, "packets move", "sockets", len(sockets), "queues", len(queues), "udp", udp) // 0: portable
}

// superWriter coalesces packets for a queue of the TUN. It belongs to one goroutine.
type superWriter struct {
	coalescer
	to     func(header *[vnetSize]byte, pieces [][]byte) error
	header [vnetSize]byte
}

// newSuperWriter returns one for the queue of shard i, or nil if there are no queues.
func newSuperWriter(queues []superQueue, i int, udp bool) *superWriter {
	if len(queues) == 0 {
		return nil
	}
	return &superWriter{coalescer: coalescer{udp: udp}, to: queues[i%len(queues)].writer()}
}

// write writes packets, each at offset headerSize. The error is the last one; it stops no other packet.
func (w *superWriter) write(packets [][]byte) (err error) {
	for _, p := range packets {
		w.add(p[headerSize:])
	}
	for i := range w.supers[:w.n] {
		s := &w.supers[i]
		s.finish().put(&w.header)
		if e := w.to(&w.header, s.pieces); e != nil {
			err = e
		}
	}
	w.reset()
	return err
}

// receiveSegments is receiveFrom for a socket that gives segments.
func (g *Gateway) receiveSegments(ctx context.Context, socket segmentSocket, out *superWriter) error {
	batch := makeSegments()
	r := &receiver{g: g, super: out}
	pause := backoff{log: g.cfg.Log}
	for {
		n, err := socket.receive(batch)
		if err != nil {
			if end, err := g.receiveFailed(ctx, err, &pause); end {
				return err
			}
			continue
		}
		pause.succeeded()
		now := g.now()
		for _, s := range batch[:n] {
			for b := s.buffer[:s.n]; len(b) > 0; {
				m := b[:min(s.size, len(b))]
				b = b[len(m):]
				r.datagram(m, len(m), s.from, now)
			}
		}
		r.flush(now)
	}
}

func makeSegments() []segments {
	batch := make([]segments, segmentBuffers)
	for i := range batch {
		batch[i].buffer = make([]byte, 1<<16)
	}
	return batch
}

// transmitSupers is transmit for a queue that gives super-packets. What is there already goes out together.
func (g *Gateway) transmitSupers(ctx context.Context, q superQueue) error {
	in := make([]byte, vnetSize+1<<16)
	t := &superTransmitter{transmitter: transmitter{g: g}, buffer: make([]byte, sealBuffer)}
	pause := backoff{log: g.cfg.Log}
	for {
		n, err := q.read(in, len(t.sizes) == 0)
		switch {
		case err != nil:
			t.flush()
			if end, err := g.readFailed(ctx, err, &pause); end {
				return err
			}
		case n == 0:
			t.flush()
		default:
			pause.succeeded()
			t.take(in[:n])
		}
	}
}

// superTransmitter collects packets side by side, each with room for what sealing adds.
type superTransmitter struct {
	transmitter
	splitter splitter
	buffer   []byte
	used     int
	packets  [][]byte
	sizes    []int
}

// take splits a packet with its vnet header.
func (t *superTransmitter) take(b []byte) {
	if t.splitter.begin(b) != nil {
		t.g.count.badPacket.Add(1)
		return
	}
	for n := t.splitter.size(); n > 0; n = t.splitter.size() {
		room := headerSize + padded(n, t.g.cfg.MTU) + tagSize
		if t.used+room > len(t.buffer) {
			t.flush()
		}
		slot := t.buffer[t.used : t.used+room : t.used+room]
		t.splitter.next(slot[headerSize:][:n])
		t.packets, t.sizes = append(t.packets, slot), append(t.sizes, n)
		t.used += room
	}
}

// flush seals and sends them.
func (t *superTransmitter) flush() {
	t.batch(t.packets, t.sizes, t.g.now())
	t.packets, t.sizes, t.used = t.packets[:0], t.sizes[:0], 0
}
