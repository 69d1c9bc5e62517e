package vpntest

import (
	"net/netip"
	"os"
	"sync"
	"sync/atomic"

	"golang.zx2c4.com/wireguard/tun"
)

// TUN is a tun.Device whose network is the test.
type TUN struct {
	mtu int

	// Batch is the batch size; it is set before the TUN is given to a device. 0: 1.
	Batch int

	handle  atomic.Pointer[func([]byte)]
	packets chan []byte
	inject  chan []byte
	events  chan tun.Event
	closed  chan struct{}
	close   sync.Once
}

var _ tun.Device = (*TUN)(nil)

const queueSize = 1024

// NewTUN returns a TUN that is up. MTU 0: 1420.
func NewTUN(mtu int) *TUN {
	if mtu == 0 {
		mtu = 1420
	}
	t := &TUN{
		mtu:     mtu,
		packets: make(chan []byte, queueSize),
		inject:  make(chan []byte, queueSize),
		events:  make(chan tun.Event, 1),
		closed:  make(chan struct{}),
	}
	t.events <- tun.EventUp
	return t
}

// NewEchoTUN returns a TUN whose network answers ICMP and ICMPv6 echo requests to those addresses, to any if none is
// given; other packets are dropped.
func NewEchoTUN(mtu int, addrs ...netip.Addr) *TUN {
	t := NewTUN(mtu)
	t.Handle(func(packet []byte) {
		if reply := EchoReply(packet, addrs...); reply != nil {
			t.Inject(reply)
		}
	})
	return t
}

// Handle makes fn get each packet that the device writes from now on, in the device's goroutine, and returns who got them
// before. The packet is fn's own; fn may call Inject. nil, as at the beginning: Packets has them.
func (t *TUN) Handle(fn func(packet []byte)) (before func([]byte)) {
	var next *func([]byte)
	if fn != nil {
		next = &fn
	}
	if old := t.handle.Swap(next); old != nil {
		before = *old
	}
	return before
}

// Inject lets the device read a packet, as if it came from the network. It never blocks and reports whether there was
// room. The packet must not be changed afterwards.
func (t *TUN) Inject(packet []byte) bool {
	select {
	case <-t.closed:
		return false
	default:
	}
	select {
	case t.inject <- packet:
		return true
	default:
		return false
	}
}

// Packets has what the device has written while nobody handled it. It is never closed.
func (t *TUN) Packets() <-chan []byte { return t.packets }

// Read implements tun.Device.
func (t *TUN) Read(bufs [][]byte, sizes []int, offset int) (n int, err error) {
	select {
	case <-t.closed:
		return 0, os.ErrClosed
	default:
	}
	select {
	case <-t.closed:
		return 0, os.ErrClosed
	case packet := <-t.inject:
		sizes[0] = copy(bufs[0][offset:], packet)
	}
	for n = 1; n < len(bufs); n++ {
		select {
		case packet := <-t.inject:
			sizes[n] = copy(bufs[n][offset:], packet)
		default:
			return n, nil
		}
	}
	return n, nil
}

// Write implements tun.Device.
func (t *TUN) Write(bufs [][]byte, offset int) (int, error) {
	for i, buf := range bufs {
		select {
		case <-t.closed:
			return i, os.ErrClosed
		default:
		}
		packet := append([]byte(nil), buf[offset:]...)
		if handle := t.handle.Load(); handle != nil {
			(*handle)(packet)
			continue
		}
		select {
		case t.packets <- packet:
		default:
		}
	}
	return len(bufs), nil
}

// Close implements tun.Device.
func (t *TUN) Close() error {
	t.close.Do(func() {
		close(t.closed)
		close(t.events)
	})
	return nil
}

// File implements tun.Device; there is none.
func (t *TUN) File() *os.File { return nil }

// MTU implements tun.Device.
func (t *TUN) MTU() (int, error) { return t.mtu, nil }

// Name implements tun.Device.
func (t *TUN) Name() (string, error) { return "memory", nil }

// Events implements tun.Device.
func (t *TUN) Events() <-chan tun.Event { return t.events }

// BatchSize implements tun.Device.
func (t *TUN) BatchSize() int { return max(t.Batch, 1) }
