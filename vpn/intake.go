package vpn

import (
	"net/netip"
	"sync"
	"time"

	"golang.zx2c4.com/wireguard/conn"
)

// datagram is a received handshake message waiting for a worker. Its length is right for its type; so is mac1, where
// the type has one.
type datagram struct {
	bytes    [initiationSize]byte
	size     int
	from     conn.Endpoint
	addr     netip.AddrPort // of from
	injected bool           // by another gateway: not to be steered again
}

func newDatagram(m []byte, from conn.Endpoint, injected bool) *datagram {
	d := &datagram{from: from, addr: addrPort(from), injected: injected, size: len(m)}
	copy(d.bytes[:], m)
	return d
}

func (d *datagram) message() []byte { return d.bytes[:d.size] }
func (d *datagram) sender() sender  { return sender{d.addr, messageType(d.message())} }

// intake is where handshake messages wait for a worker. None can take another one's place: each way has a queue.
//
//	answers to our own messages; few initiations from each address of a device  ─► first     three turns of four
//	other initiations; under load only those that carry our cookie              ─► knocking  ┐ the rest, and what
//	initiations that another gateway has handed to us                           ─► handed    ┘ first leaves
//
// It is under load for a second from when loadThreshold knocking ones wait, and for another one each time that as many
// have been kept out. That is by number, not by waiting time, because waiting = number × cost of one, and against a high
// cost at a low rate a cookie helps nobody. The number is high, because the wait that it stands for, some 0.15 s per
// worker, is far less than the 5 s that a cookie costs a device.
//
// Under load, and in first always, a sender's newer initiation takes the place of its older one: a device has no use
// for two answers, so whoever sends many has no more than one place, also among those who share a NAT's address with
// him. Those who wait for a cookie wait likewise. So whoever sends in the name of a device's address and port can take
// its place, and the cookie reply then answers him; that costs the device the 5 s until its next initiation, as long as
// he goes on. Telling the two apart would cost what a cookie is to save.
type intake struct {
	wake chan struct{} // capacity 1: there is something to take
	ask  chan struct{} // capacity 1: there is somebody to ask for a cookie

	mu                      sync.Mutex // guards the fields below
	first, knocking, handed fairQueue
	asked                   fairQueue // to get a cookie
	turn                    uint
	loadedUntil             time.Duration // since start; 0: never was
	keptOut                 int           // knocking ones that got no place since it was set
	loaded                  time.Duration // all time under load
}

func newIntake() *intake {
	return &intake{
		wake: make(chan struct{}, 1), ask: make(chan struct{}, 1),
		first: newFairQueue(queueSize), knocking: newFairQueue(queueSize), handed: newFairQueue(queueSize),
		asked: newFairQueue(cookieQueue),
	}
}

// enqueue hands a handshake message to the workers. It never blocks and copies; what has no business here is dropped
// before it takes anybody's place.
func (g *Gateway) enqueue(m []byte, from conn.Endpoint, injected bool) {
	kind := messageType(m)
	if kind != typeInitiation && g.awaiting(m) == nil {
		g.count.badHandshake.Add(1)
		return
	}
	if kind != typeCookie && !checkMAC1(&g.identity.mac1Key, m) {
		g.count.badMAC.Add(1)
		return
	}
	if kind == typeInitiation {
		g.count.initiationsReceived.Add(1)
	}
	now := g.now()
	d := newDatagram(m, from, injected)
	queue, full := &g.intake.knocking, &g.count.queueFull
	switch {
	case injected:
		queue = &g.intake.handed
	case kind != typeInitiation || g.whereabouts.precedes(d.addr, now):
		queue = &g.intake.first
	case g.intake.underLoad(now) && !g.cookies.proves(m, d.addr, g.cfg.Now()):
		if [macSize]byte(m[len(m)-macSize:]) != [macSize]byte{} {
			g.count.badCookie.Add(1)
		}
		queue, full = &g.intake.asked, &g.count.cookiesHeld
	}
	replaced, dropped := g.intake.put(queue, d, now)
	switch {
	case replaced:
		g.count.replaced.Add(1)
	case dropped:
		full.Add(1)
	}
}

// awaiting finds the device that a response or cookie reply may be from; nil: none.
func (g *Gateway) awaiting(m []byte) *peer {
	if messageType(m) == typeResponse {
		return g.pending.get(le.Uint32(m[8:]))
	}
	index := le.Uint32(m[4:])
	if p := g.pending.get(index); p != nil {
		return p
	}
	if kp := g.indices.get(index); kp != nil {
		return kp.peer
	}
	return nil
}

// underLoad reports whether knocking ones are asked for a cookie.
func (q *intake) underLoad(now time.Duration) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return now < q.loadedUntil
}

// put queues a message. Either it or another one may be replaced or dropped.
func (q *intake) put(queue *fairQueue, d *datagram, now time.Duration) (replaced, dropped bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	one := now < q.loadedUntil || queue == &q.first && messageType(d.message()) == typeInitiation
	replaced = one && queue.replace(d)
	if queue == &q.asked || replaced && queue == &q.knocking {
		q.keptOut++
	}
	if !replaced {
		dropped = !queue.push(d)
	}
	if q.knocking.size >= loadThreshold || q.keptOut >= loadThreshold {
		q.loaded += now + loadLatch - max(now, q.loadedUntil)
		q.loadedUntil, q.keptOut = now+loadLatch, 0
	}
	if queue == &q.asked {
		signal(q.ask)
	} else {
		signal(q.wake)
	}
	return replaced, dropped
}

// take returns what is to be handled next; nil: nothing waits.
func (q *intake) take() *datagram {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.turn++
	order := [3]*fairQueue{&q.first, &q.knocking, &q.handed}
	switch q.turn % 8 {
	case 0:
		order = [3]*fairQueue{&q.knocking, &q.handed, &q.first}
	case 4:
		order = [3]*fairQueue{&q.handed, &q.knocking, &q.first}
	case 1, 3, 5, 7:
		order[1], order[2] = order[2], order[1]
	}
	for _, queue := range order {
		if d := queue.pop(); d != nil {
			if q.first.size+q.knocking.size+q.handed.size > 0 {
				signal(q.wake)
			}
			return d
		}
	}
	return nil
}

// takeAsked returns who gets the next cookie; nil: nobody waits for one.
func (q *intake) takeAsked() *datagram {
	q.mu.Lock()
	defer q.mu.Unlock()
	d := q.asked.pop()
	if q.asked.size > 0 {
		signal(q.ask)
	}
	return d
}

// signal fills a channel of capacity 1.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// timeLoaded is how long it was under load, all in all.
func (q *intake) timeLoaded(now time.Duration) time.Duration {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.loaded - max(q.loadedUntil-now, 0)
}
