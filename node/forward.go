package node

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"gatemesh/cluster"
	"gatemesh/mesh"
	"gatemesh/vpn"
)

// kindPacket is a packet for a device that the receiver has taken over: the device's key, the packet.
const kindPacket = "packet"

// Bounds of what waits for the answers to a hand-over.
const (
	heldPackets = 64      // per device
	heldBytes   = 4 << 20 // all devices
)

// forwards are the devices that were exported for good, and what is to be done with packets for them.
type forwards struct {
	mu      sync.Mutex // guards the fields below
	devices map[cluster.Key]*forward
	bytes   int // of packets
}

// forward is one device. Its packets wait until its heir has it, and overtake none that waited.
type forward struct {
	to      cluster.Node // zero: its heir has not answered yet
	since   time.Time    // it has it
	packets [][]byte
}

func newForwards() *forwards { return &forwards{devices: map[cluster.Key]*forward{}} }

// begin lets packets for a device wait.
func (f *forwards) begin(k cluster.Key) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.devices[k] == nil {
		f.devices[k] = &forward{}
	}
}

// open brings what waited for a device to its heir with send, and what comes from now on.
func (f *forwards) open(k cluster.Key, to cluster.Node, now time.Time, send func(cluster.Node, cluster.Key, []byte)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	d := f.devices[k]
	if d == nil {
		return
	}
	d.to, d.since = to, now
	for _, packet := range f.release(d) {
		send(to, k, packet)
	}
}

// heir returns who has a device, and since when; zero: nobody yet, or it was not exported.
func (f *forwards) heir(k cluster.Key) (to cluster.Node, since time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if d := f.devices[k]; d != nil {
		return d.to, d.since
	}
	return to, since
}

// sentTo returns the devices whose packets go to a gateway.
func (f *forwards) sentTo(id cluster.Node) (keys []cluster.Key) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for k, d := range f.devices {
		if d.to == id {
			keys = append(keys, k)
		}
	}
	return keys
}

// end forgets a device and returns what waited.
func (f *forwards) end(k cluster.Key) [][]byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	d := f.devices[k]
	if d == nil {
		return nil
	}
	delete(f.devices, k)
	return f.release(d)
}

// release is under mu.
func (f *forwards) release(d *forward) [][]byte {
	packets := d.packets
	d.packets = nil
	for _, packet := range packets {
		f.bytes -= len(packet)
	}
	return packets
}

// put takes a packet for a device: it waits, or is sent, or is lost. It copies what it keeps.
func (f *forwards) put(k cluster.Key, packet []byte, send func(cluster.Node, cluster.Key, []byte)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	d := f.devices[k]
	switch {
	case d == nil:
	case !d.to.IsZero():
		send(d.to, k, packet)
	case len(d.packets) < heldPackets && f.bytes+len(packet) <= heldBytes:
		d.packets = append(d.packets, slices.Clone(packet))
		f.bytes += len(packet)
	}
}

// forward is the engine's way to the new gateways of its devices. It does not block.
func (n *Node) forward(p *parts) vpn.ForwardFunc {
	return func(k vpn.Key, packet []byte) { p.forwards.put(k, packet, p.sendPacket) }
}

// sendPacket sends a packet to the gateway of its device. What its queue has no room for is lost.
func (p *parts) sendPacket(to cluster.Node, k cluster.Key, packet []byte) {
	b := append(make([]byte, 0, len(k)+len(packet)), k[:]...)
	_ = p.mesh.Send(mesh.ID(to), kindPacket, append(b, packet...)) // as a router with full queues
}

// onPacket sends a packet to a device that was taken over.
func (n *Node) onPacket(p *parts) mesh.Handler {
	return func(_ context.Context, _ mesh.ID, payload []byte) ([]byte, error) {
		var k cluster.Key
		if len(payload) <= len(k) {
			return nil, errors.New("not a packet")
		}
		copy(k[:], payload)
		p.vpn.Deliver(k, payload[len(k):])
		return nil, nil
	}
}
