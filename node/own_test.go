package node

import (
	"testing"
	"time"
)

// Who has the last word: an administrator, unless a start asks for something else than the last one.
func TestSettle(t *testing.T) {
	asked := func(capacity int) offer { return offer{Capacity: capacity} }
	own := func(o offer, public string) offer { o.Name, o.Public = "host", public; return o }
	// first start
	is, mem := settle(asked(10), own(asked(10), "192.0.2.1:1"), offer{}, told{})
	want := offer{Name: "host", Public: "192.0.2.1:1", Capacity: 10}
	if is != want {
		t.Fatalf("first start: %+v", is)
	}
	// at another address
	if is, mem = settle(asked(10), own(asked(10), "192.0.2.2:1"), is, mem); is.Public != "192.0.2.2:1" {
		t.Fatalf("another address: %+v", is)
	}
	// an administrator changes all; three restarts, at another address
	admin := offer{Name: "berlin", Public: "vpn.example.org:1", Capacity: 5, Standby: true}
	is = admin
	for range 3 {
		if is, mem = settle(asked(10), own(asked(10), "192.0.2.3:1"), is, mem); is != admin {
			t.Fatalf("the administrator's word is lost: %+v", is)
		}
	}
	// told another capacity, then the same again, then the first one
	for _, capacity := range []int{20, 20, 10} {
		is, mem = settle(asked(capacity), own(asked(capacity), "192.0.2.3:1"), is, mem)
		if is.Capacity != capacity || is.Name != "berlin" || !is.Standby {
			t.Fatalf("told %d: %+v", capacity, is)
		}
	}
	// told a public address, which the administrator replaces, and then takes back what was told
	flag := offer{Public: "flag:1", Capacity: 10}
	is, mem = settle(flag, own(flag, "flag:1"), is, mem)
	is.Public = "admin:1"
	is, mem = settle(flag, own(flag, "flag:1"), is, mem)
	if is.Public != "admin:1" {
		t.Fatalf("%+v", is)
	}
	is.Public = "flag:1"
	if is, _ = settle(flag, own(flag, "flag:1"), is, mem); is.Public != "flag:1" {
		t.Fatalf("%+v", is)
	}
}

func TestSkew(t *testing.T) {
	const ahead, rtt = 250 * time.Millisecond, 20 * time.Millisecond
	now := time.Unix(1_700_000_000, 0)
	var s skew
	if _, known := s.offset(); known {
		t.Error("known before the first heartbeat")
	}
	s.take(0, now, rtt) // an older gateway
	if _, known := s.offset(); known {
		t.Error("known of one that does not say")
	}
	for i := range 10 * skewWindow {
		now = now.Add(200 * time.Millisecond)
		delay := rtt / 2
		if i%3 > 0 {
			delay += time.Duration(i%50) * time.Millisecond // it waited on its way
		}
		s.take(now.Add(ahead-delay).UnixMicro(), now, rtt)
		if d, known := s.offset(); !known || i > 3 && d != ahead {
			t.Fatalf("after %d: %v", i, d)
		}
	}
	for range 2*skewWindow + 1 { // its clock is set
		now = now.Add(200 * time.Millisecond)
		s.take(now.Add(-time.Second-rtt/2).UnixMicro(), now, rtt)
	}
	if d, _ := s.offset(); d != -time.Second {
		t.Errorf("after it was set: %v", d)
	}
}

func TestFullness(t *testing.T) {
	full := false
	for _, x := range []struct {
		sessions int
		want     bool
	}{{99, false}, {100, true}, {99, true}, {96, true}, {95, false}, {99, false}, {120, true}} {
		if full = fullness(full, x.sessions, 100); full != x.want {
			t.Errorf("%d of 100: %v", x.sessions, full)
		}
	}
	if fullness(true, 0, 1) || !fullness(false, 1, 1) {
		t.Error("a capacity of 1")
	}
}
