package mesh

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	controlTimeout  = 5 * time.Second // of one write
	farewellTimeout = 250 * time.Millisecond
)

// Why links end.
var (
	errReplaced = errors.New("replaced by a better link")
	errVerdict  = errors.New("peer was given up")
	errStalled  = errors.New("we stood still")
	errFarewell = errors.New("we said goodbye")
	errGoodbye  = errors.New("peer said goodbye")
	errBarred   = errors.New("peer was evicted")
)

// link joins us to one peer: a control connection, and a bulk connection that
// comes and goes with it. It dies once; a new one is made then.
//
//	control ─ reader ─┬─► heartbeats, witnesses
//	                  ├─► inbox ─► one handler after the other
//	                  └─► calls ─► handlers, bounded
//	        ◄ writer ─── beats before out
//	bulk    ─ reader ───► Merge
//	        ◄ writer ─── digests, deltas
type link struct {
	mesh    *Mesh
	id      ID
	key     ed25519.PublicKey
	hello   hello // of the other side
	proto   uint  // the version of the protocol that both talk
	dialer  ID
	addr    netip.AddrPort // of the other side's socket; if we dialed, where it listens
	control *wire
	rtt     time.Duration // of the hello; 0: not measured

	out   chan []byte  // frames
	beats chan beat    // buffered 1: the newest
	last  chan []byte  // buffered 1: the frame after which nothing follows
	inbox chan message // closed by the reader
	done  chan struct{}

	barred atomic.Bool // nothing that comes in counts

	mu       sync.Mutex // guards the fields below
	closed   bool
	cause    error
	calls    map[uint64]chan answer
	lastCall uint64
	sent     [32]sentBeat // by Seq, to measure round trips
	theirs   uint64       // Seq of the last heartbeat that came in
	theirsAt time.Time
	exchange *exchange // on the bulk connection; nil: there is none
}

type sentBeat struct {
	seq uint64
	at  time.Time
}

func newLink(m *Mesh, w *wire, theirs hello, dialer ID, addr netip.AddrPort) *link {
	proto, _ := common(theirs.ProtoMin, theirs.ProtoMax)
	return &link{
		proto: proto,
		mesh:  m, id: IDOf(w.key), key: w.key, hello: theirs, dialer: dialer, addr: addr, control: w,
		out: make(chan []byte, queueLen), beats: make(chan beat, 1), last: make(chan []byte, 1),
		inbox: make(chan message, inboxLen), done: make(chan struct{}),
		calls: map[uint64]chan answer{},
	}
}

// run works until the link is closed.
func (l *link) run(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var g, calls errgroup.Group
	calls.SetLimit(maxCalls)
	g.Go(func() error { l.deliver(ctx); return nil })
	g.Go(func() error { l.close(l.write()); return nil })
	if l.dialer == l.mesh.self.id {
		g.Go(func() error { l.keepBulk(ctx); return nil })
	}
	inLink, over := context.WithCancel(ctx)
	l.close(l.read(inLink, &calls))
	over()
	close(l.inbox)
	_ = calls.Wait()
	_ = g.Wait()
}

// close ends the link for the reason cause, the first of which counts.
func (l *link) close(cause error) {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return
	}
	l.closed, l.cause = true, cause
	x := l.exchange
	l.mu.Unlock()
	l.control.close()
	if x != nil {
		x.wire.close()
	}
	close(l.done)
	l.mesh.unlink(l)
	l.mesh.log.Debug("link closed", "peer", l.id, "cause", cause)
}

// put queues a frame for control, or says that the queue is full.
func (l *link) put(frame []byte) error {
	select {
	case l.out <- frame:
		return nil
	default:
		return ErrBusy
	}
}

// putBeat makes b the next heartbeat. One that was not sent yet is dropped.
// Only the pulse calls it.
func (l *link) putBeat(b beat) {
	select {
	case <-l.beats:
	default:
	}
	select {
	case l.beats <- b:
	default:
	}
}

// farewell makes k the last frame of the link.
func (l *link) farewell(k kind) { l.lastWord(encode(k, nil)) }

func (l *link) lastWord(frame []byte) {
	select {
	case l.last <- frame:
	default:
	}
}

// write sends what is queued, heartbeats first, until the link ends.
func (l *link) write() error {
	if l.dialer == l.mesh.self.id {
		if err := l.control.write(controlTimeout, encode(kindOpen, nil)); err != nil {
			return fmt.Errorf("write control: %w", err)
		}
	}
	for {
		var frames [][]byte
		select {
		case b := <-l.beats:
			frames = append(frames, l.stampBeat(b))
		case f := <-l.out:
			frames = append(frames, f)
		case f := <-l.last:
			if err := l.control.write(farewellTimeout, f); err != nil {
				return err
			}
			// The reader ends the link when the peer has hung up.
			l.control.closeWrite()
			<-l.done
			return errFarewell
		case <-l.done:
			return nil
		}
		if err := l.control.write(controlTimeout, l.batch(frames)...); err != nil {
			return fmt.Errorf("write control: %w", err)
		}
	}
}

// batch adds what else is queued, as long as it is little.
func (l *link) batch(frames [][]byte) [][]byte {
	n := len(frames[0])
	for n < 16<<10 {
		select {
		case b := <-l.beats:
			frames = append(frames, l.stampBeat(b))
		case f := <-l.out:
			frames = append(frames, f)
		default:
			return frames
		}
		n += len(frames[len(frames)-1])
	}
	return frames
}

// stampBeat completes a heartbeat at the moment it is sent.
func (l *link) stampBeat(b beat) []byte {
	now := time.Now()
	l.mu.Lock()
	if l.theirs != 0 {
		b.Echo, b.Held = l.theirs, now.Sub(l.theirsAt).Microseconds()
		l.theirs = 0
	}
	l.sent[b.Seq%uint64(len(l.sent))] = sentBeat{b.Seq, now}
	l.mu.Unlock()
	return encode(kindBeat, b)
}

// gotBeat takes in a heartbeat and returns the round trip that it measures,
// if it does.
func (l *link) gotBeat(b beat, now time.Time) (time.Duration, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.theirs, l.theirsAt = b.Seq, now
	held := time.Duration(b.Held) * time.Microsecond
	s := l.sent[b.Echo%uint64(len(l.sent))]
	if b.Echo == 0 || s.seq != b.Echo || b.Held < 0 || b.Held > time.Minute.Microseconds() {
		return 0, false
	}
	rtt := now.Sub(s.at) - held
	return max(rtt, 0), rtt < time.Minute
}

// read takes in the frames of control until the connection ends.
func (l *link) read(ctx context.Context, calls *errgroup.Group) error {
	for {
		k, body, err := l.control.read(controlLimit, 0)
		if err != nil {
			if errors.Is(err, io.EOF) {
				return io.EOF
			}
			return fmt.Errorf("read control: %w", err)
		}
		if l.barred.Load() {
			continue
		}
		switch k {
		case kindBeat:
			err = l.mesh.onBeat(l, body)
		case kindAsk:
			err = l.mesh.onAsk(l, body)
		case kindTell:
			err = l.mesh.onTell(l, body)
		case kindSend:
			err = l.onSend(body)
		case kindCall:
			err = l.onCall(ctx, calls, body)
		case kindAnswer:
			err = l.onAnswer(body)
		case kindClosing:
			l.mesh.condemn(l.id, l, Down, "it stops")
			return errGoodbye
		case kindLeaving:
			l.mesh.condemn(l.id, l, Left, "it leaves")
			return errGoodbye
		case kindRefuse:
			return l.mesh.refusedBy(l.key, body)
		}
		if err != nil {
			return err
		}
	}
}
