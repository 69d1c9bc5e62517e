package vpn

import (
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	"gatemesh/vpn/vpntest"

	"pgregory.net/rapid"
)

// from is an initiation from that address; number tells it from others.
func from(addr netip.AddrPort, number uint32) *datagram {
	var m [initiationSize]byte
	le.PutUint32(m[:], typeInitiation)
	le.PutUint32(m[4:], number)
	return newDatagram(m[:], &vpntest.Endpoint{AddrPort: addr}, false)
}

func number(d *datagram) uint32 { return le.Uint32(d.bytes[4:]) }

// TestFairQueue compares it with lists that follow its words.
func TestFairQueue(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const limit = 12
		q := newFairQueue(limit)
		lists, turns, size := map[netip.Addr][]*datagram{}, []netip.Addr{}, 0
		for n := range uint32(rapid.IntRange(1, 200).Draw(t, "steps")) {
			if rapid.IntRange(0, 2).Draw(t, "pop") == 0 {
				d := q.pop()
				if len(turns) == 0 {
					if d != nil {
						t.Fatal("something out of nothing")
					}
					continue
				}
				s := turns[0]
				if d != lists[s][0] {
					t.Fatalf("%v came, it is the turn of %v", d.addr, s)
				}
				turns, lists[s], size = turns[1:], lists[s][1:], size-1
				if len(lists[s]) > 0 {
					turns = append(turns, s)
				}
				continue
			}
			source := rapid.IntRange(1, 16).Draw(t, "source")
			s := netip.AddrFrom4([4]byte{203, 0, 113, byte(source)})
			d := from(netip.AddrPortFrom(s, uint16(rapid.IntRange(1, 2).Draw(t, "port"))), n)
			full := size == limit
			longest := 0
			for _, l := range lists {
				longest = max(longest, len(l))
			}
			if q.push(d) == full {
				t.Fatalf("push with %d waiting", size)
			}
			if full && longest == 1 && len(lists[s]) == 0 {
				continue // refused
			}
			if len(lists[s]) == 0 {
				turns = append(turns, s)
			}
			lists[s] = append(lists[s], d)
			size++
			if !full {
				continue
			}
			// One of those with most has lost its oldest.
			size--
			longest = max(longest, len(lists[s]))
			lost := slices.IndexFunc(turns, func(a netip.Addr) bool { return len(q.sources[a].waiting) < len(lists[a]) })
			if a := turns[lost]; len(lists[a]) != longest || q.sources[a].waiting[0] != lists[a][1] {
				t.Fatalf("%v with %d of at most %d has lost one", a, len(lists[a]), longest)
			} else {
				lists[a] = lists[a][1:]
			}
		}
		if q.size != size || len(q.newest) > size || len(q.sources) != len(turns) || len(q.longest) != len(turns) {
			t.Fatalf("%d waiting, %d senders, %d sources, %d in the heap, want %d of %d", q.size, len(q.newest), len(q.sources), len(q.longest), size, len(turns))
		}
	})
}

func TestSources(t *testing.T) {
	for _, c := range []struct {
		a, b string
		same bool
	}{
		{"203.0.113.1", "203.0.113.1", true},
		{"203.0.113.1", "203.0.113.2", false},
		{"2001:db8::1", "2001:db8::ffff:0:0:1", true},
		{"2001:db8::1", "2001:db8:0:1::1", false},
		{"fe80::1%a", "fe80::2%b", true},
	} {
		if same := sourceOf(netip.MustParseAddr(c.a)) == sourceOf(netip.MustParseAddr(c.b)); same != c.same {
			t.Errorf("%s and %s are one source: %v", c.a, c.b, same)
		}
	}
}

// TestSenderHasOnePlaceUnderLoad is for an attacker and a device behind one NAT.
func TestSenderHasOnePlaceUnderLoad(t *testing.T) {
	q := newIntake()
	nat := netip.MustParseAddr("203.0.113.1")
	attacker, device := netip.AddrPortFrom(nat, 1), netip.AddrPortFrom(nat, 2)
	for i := range uint32(loadThreshold) {
		if q.underLoad(1) {
			t.Fatalf("under load with %d waiting", i)
		}
		q.put(&q.knocking, from(attacker, i), 1)
	}
	if !q.underLoad(1) || !q.underLoad(loadLatch) || q.underLoad(1+loadLatch) {
		t.Fatal("not under load for a second")
	}
	for q.take() != nil {
	}
	q.put(&q.knocking, from(attacker, 1), 2)
	q.put(&q.knocking, from(device, 2), 2)
	for i := range uint32(1000) {
		if replaced, dropped := q.put(&q.knocking, from(attacker, 3+i), 2); !replaced || dropped {
			t.Fatal("the newer one did not take the older one's place")
		}
	}
	if a, b, c := q.take(), q.take(), q.take(); number(a) != 1002 || number(b) != 2 || c != nil {
		t.Errorf("got %v, %v, %v", a, b, c)
	}
	if got := q.timeLoaded(loadLatch / 2); got != loadLatch/2-1 {
		t.Errorf("%v under load", got)
	}
	for range loadThreshold { // as many as that hold it
		q.put(&q.asked, from(attacker, 1), loadLatch/2)
	}
	if !q.underLoad(loadLatch*3/2-1) || q.underLoad(loadLatch*3/2) || q.timeLoaded(time.Hour) != loadLatch*3/2-1 {
		t.Errorf("under load until %v, all in all %v", q.loadedUntil, q.loaded)
	}
}

// TestNoWayStarves fills all of them.
func TestNoWayStarves(t *testing.T) {
	q := newIntake()
	for i, queue := range []*fairQueue{&q.first, &q.knocking, &q.handed} {
		for j := range uint32(1000) {
			q.put(queue, from(netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(i), byte(j >> 8), byte(j)}), 1), 0), 1)
		}
	}
	got := map[byte]int{}
	for range 800 {
		got[q.take().addr.Addr().As4()[1]]++
	}
	if want := map[byte]int{0: 600, 1: 100, 2: 100}; !maps.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

func TestWorkersLeaveAProcessor(t *testing.T) {
	for processors, want := range map[int]int{1: 1, 2: 1, 3: 2, 9: 8, 64: 8} {
		if got := workers(processors); got != want {
			t.Errorf("%d workers on %d processors, want %d", got, processors, want)
		}
	}
}
