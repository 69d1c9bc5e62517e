package vpn

import (
	"math/rand/v2"
	"sync/atomic"
	"time"
)

// timers are the deadlines of one device (whitepaper §6.5), in nanoseconds since the gateway's start; 0: not running.
// The packet path starts and stops keepalive and newHandshake without a lock; the others are written under peer.mu.
//
//	            started by                        stopped by                        then
//	keepalive   data received                     anything sent                     keepalive
//	handshake   data sent                         anything received                 initiation
//	retransmit  initiation sent                   response or confirmation          initiation, 18 times
//	erase       keys made                         newer keys made                   device forgotten
//	renew       takeover                          newer keys made                   initiation
type timers struct {
	keepalive        atomic.Int64
	anotherKeepalive atomic.Bool // data came in while keepalive was running
	handshake        atomic.Int64
	retransmit       atomic.Int64
	erase            atomic.Int64
	renew            atomic.Int64
}

// dataSent is called after a packet that is no keepalive was sent. It returns a deadline to schedule, or 0.
func (t *timers) dataSent(now time.Duration) time.Duration {
	if t.handshake.Load() != 0 {
		return 0
	}
	at := now + newHandshakeAfter + jitter()
	t.handshake.Store(int64(at))
	return at
}

// dataReceived is called after a packet that is no keepalive was accepted. It returns a deadline to schedule, or 0.
func (t *timers) dataReceived(now time.Duration) time.Duration {
	if t.keepalive.Load() != 0 {
		if !t.anotherKeepalive.Load() {
			t.anotherKeepalive.Store(true)
		}
		return 0
	}
	at := now + KeepaliveTimeout
	t.keepalive.Store(int64(at))
	return at
}

// anySent is called after any authenticated message was sent.
func (t *timers) anySent() {
	if t.keepalive.Load() != 0 {
		t.keepalive.Store(0)
	}
}

// anyReceived is called after any authenticated message was accepted.
func (t *timers) anyReceived() {
	if t.handshake.Load() != 0 {
		t.handshake.Store(0)
	}
}

// complete is called when a handshake is confirmed.
func (t *timers) complete() { t.retransmit.Store(0) }

// due stops a timer that has run out and reports whether it had.
func due(t *atomic.Int64, now time.Duration) bool {
	at := t.Load()
	return at != 0 && at <= int64(now) && t.CompareAndSwap(at, 0)
}

// next is the earliest deadline; 0: none runs.
func (t *timers) next() (at time.Duration) {
	for _, timer := range [...]*atomic.Int64{&t.keepalive, &t.handshake, &t.retransmit, &t.erase, &t.renew} {
		at = earliest(at, time.Duration(timer.Load()))
	}
	return at
}

// earliest is the lesser of two deadlines of which 0 means none.
func earliest(a, b time.Duration) time.Duration {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}

func jitter() time.Duration { return rand.N(rekeyTimeoutJitter) }
