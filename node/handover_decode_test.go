package node

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"

	"gatemesh/cluster"
)

func FuzzDecodeBequest(f *testing.F) {
	b, err := cbor.Marshal(bequest{Final: true, Exports: [][]byte{make([]byte, 289), {}}, Epochs: []uint64{1, 2}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte{0xa1, 2, 0x9b})
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := decodeBequest(b)
		if err == nil && (len(h.Exports) == 0 || len(h.Exports) > handoverCount) {
			t.Fatalf("%d exports", len(h.Exports))
		}
	})
}

func FuzzDecodeDatagram(f *testing.F) {
	m := make([]byte, 32)
	m[0] = 4
	b, err := cbor.Marshal(datagram{From: netip.MustParseAddrPort("192.0.2.1:9"), Message: m})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := decodeDatagram(b)
		if err == nil && (len(d.Message) < 32 || !d.From.IsValid()) {
			t.Fatalf("%+v", d)
		}
	})
}

func TestExports(t *testing.T) {
	k, x := cluster.Key{1}, newExports()
	first := heir{cluster.Weighted{Node: cluster.Node{1}, Capacity: 1}, 7}
	second := heir{cluster.Weighted{Node: cluster.Node{2}, Capacity: 1}, 8}
	now := time.Unix(1000, 0)
	due := func(want bool) {
		t.Helper()
		if got := x.take(now, func(cluster.Key) bool { return true }); slices.Contains(got, k) != want {
			t.Errorf("due %v, want %v", got, want)
		}
	}
	due(false)
	x.want(k)
	x.want(k)
	due(true)
	due(false) // it is being made
	now = now.Add(handoverTimeout)
	due(true) // not answered
	x.answered(k, first, false)
	now = now.Add(2 * handoverTimeout)
	due(true) // refused
	x.want(k)
	x.answered(k, first, true)
	due(true) // new keys while the old ones were on their way
	x.answered(k, first, true)
	now = now.Add(time.Hour)
	x.regard(k, first)
	due(false)
	x.regard(k, heir{first.Weighted, 9})
	due(true) // its heir was started again
	x.answered(k, first, true)
	x.regard(k, second)
	due(true)
	x.answered(k, second, true)
	x.regard(k, heir{})
	due(false) // nobody is there

	x.want(k)
	for range exportTries {
		now = now.Add(time.Hour)
		due(true)
	}
	now = now.Add(time.Hour)
	due(false) // given up
	x.forget(k)
}

// Packets for a device wait until its heir has it, keep their order, and are bounded.
func TestForwards(t *testing.T) {
	k, f := cluster.Key{1}, newForwards()
	var sent []byte
	send := func(to cluster.Node, _ cluster.Key, packet []byte) {
		if to != (cluster.Node{2}) {
			t.Errorf("sent to %v", to)
		}
		sent = append(sent, packet[0])
	}
	f.put(k, []byte{9}, send) // not handed over
	f.begin(k)
	p := []byte{1}
	f.put(k, p, send)
	p[0] = 8 // its caller's again
	f.put(k, []byte{2}, send)
	f.open(k, cluster.Node{2}, time.Time{}, send)
	f.put(k, []byte{3}, send)
	if !slices.Equal(sent, []byte{1, 2, 3}) || len(f.end(k)) != 0 {
		t.Errorf("sent %v", sent)
	}
	f.begin(k)
	for range 2 * heldPackets {
		f.put(k, make([]byte, 1000), send)
	}
	if n := len(f.end(k)); n != heldPackets || f.bytes != 0 {
		t.Errorf("%d packets waited, %d bytes are left", n, f.bytes)
	}
}

func TestStraysAreBounded(t *testing.T) {
	s, now := newStrays(), time.Unix(1000, 0)
	if !s.may(cluster.Key{1}, false, now) || s.may(cluster.Key{1}, false, now.Add(strayInterval-1)) || !s.may(cluster.Key{1}, false, now.Add(strayInterval)) {
		t.Error("a device is called more often than every 5 s, or not at all")
	}
	for i := range 2 * strayDevices {
		s.may(cluster.Key{2, byte(i), byte(i >> 8), byte(i >> 16)}, false, now)
	}
	if len(s.acted) > strayDevices {
		t.Errorf("%d devices are remembered", len(s.acted))
	}
	doubtful := now.Add(3 * strayInterval)
	if s := newStrays(); s.may(cluster.Key{4}, true, now) || s.may(cluster.Key{4}, true, now.Add(strayPause-1)) ||
		!s.may(cluster.Key{4}, true, now.Add(strayPause)) || s.may(cluster.Key{4}, true, doubtful) {
		t.Error("in doubt a device is called because of one stray, or not because of two")
	}
	if !s.may(cluster.Key{3}, false, now.Add(2*strayInterval)) {
		t.Error("full for ever")
	}
	for range 2 * strayQueue {
		s.put(1, netip.AddrPort{}, []byte{4})
	}
	if len(s.queue) != strayQueue {
		t.Errorf("%d strays wait", len(s.queue))
	}
}
