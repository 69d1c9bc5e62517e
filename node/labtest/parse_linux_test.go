package labtest

import (
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

const deviceConfig = `# laptop
[Interface]
PrivateKey = yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=
Address = 100.64.3.7/32, fd00::7
DNS = 1.1.1.1
MTU = 1380

[Peer]
PublicKey = xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=
AllowedIPs = 0.0.0.0/0, ::/0
Endpoint = 192.0.2.1:51820
PersistentKeepalive = 25

[Peer] # pinhole
PublicKey = TrMvSoP4jYQlY6RIzBgbssQqY3vxI2Pi+y71lOWWXX0=
PresharedKey = FpCyhws9cxwWoV4xELtfJvjJN+zQVRPISllRWgeopVE=
Endpoint = [2001:db8::1]:51820
`

func TestParseConfig(t *testing.T) {
	got, err := ParseConfig(deviceConfig)
	if err != nil {
		t.Fatal(err)
	}
	want := Config{
		PrivateKey: "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=",
		Addresses:  []netip.Prefix{netip.MustParsePrefix("100.64.3.7/32"), netip.MustParsePrefix("fd00::7/128")},
		DNS:        []string{"1.1.1.1"},
		MTU:        1380,
		Peers: []Peer{{
			PublicKey:  "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=",
			AllowedIPs: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")},
			Endpoint:   "192.0.2.1:51820",
			Keepalive:  25,
		}, {
			PublicKey:    "TrMvSoP4jYQlY6RIzBgbssQqY3vxI2Pi+y71lOWWXX0=",
			PresharedKey: "FpCyhws9cxwWoV4xELtfJvjJN+zQVRPISllRWgeopVE=",
			Endpoint:     "[2001:db8::1]:51820",
		}},
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Prefix{})); diff != "" {
		t.Error(diff)
	}
	quiet := got.Quiet().Toward(netip.MustParseAddrPort("192.0.2.2:51820"))
	if len(quiet.Addresses) != 1 || quiet.Peers[0].Keepalive != 0 || quiet.Peers[0].Endpoint != "192.0.2.2:51820" {
		t.Errorf("quiet toward: %+v", quiet)
	}
	if !reflect.DeepEqual(got, want) {
		t.Error("a derived configuration changed the one it came from")
	}
}

func TestParseConfigRefuses(t *testing.T) {
	for name, text := range map[string]string{
		"nothing":          "",
		"no peer":          "[Interface]\nPrivateKey = x\n",
		"no section":       "PrivateKey = x\n",
		"unknown key":      strings.Replace(deviceConfig, "DNS", "Table", 1),
		"unknown section":  strings.Replace(deviceConfig, "[Peer]", "[Pier]", 1),
		"not an address":   strings.Replace(deviceConfig, "fd00::7", "fd00::g", 1),
		"not a number":     strings.Replace(deviceConfig, "25", "off", 1),
		"printed greeting": "Device added!\n" + deviceConfig,
		"too long":         deviceConfig + strings.Repeat("#", maxConfig),
	} {
		if c, err := ParseConfig(text); err == nil {
			t.Errorf("%s: accepted as %+v", name, c)
		}
	}
}

// FuzzParseConfig: what is accepted survives being written for wg and read.
func FuzzParseConfig(f *testing.F) {
	f.Add(deviceConfig)
	f.Add("[Interface]\nPrivateKey=x\n[Peer]\n[Peer]\nAllowedIPs=\n")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := ParseConfig(text)
		if err != nil {
			return
		}
		again, err := ParseConfig(c.Setconf())
		if err != nil {
			t.Fatalf("%v in %q", err, c.Setconf())
		}
		if again.Setconf() != c.Setconf() {
			t.Fatalf("%q became %q", c.Setconf(), again.Setconf())
		}
	})
}

const pingOutput = `PING 10.0.0.1 (10.0.0.1) 56(84) bytes of data.
[100.000000] 64 bytes from 10.0.0.1: icmp_seq=1 ttl=64 time=1.50 ms
[100.050000] 64 bytes from 10.0.0.1: icmp_seq=2 ttl=64 time=0.5 ms
[100.060000] 64 bytes from 10.0.0.1: icmp_seq=2 ttl=64 time=9.5 ms (DUP!)
[100.150000] no answer yet for icmp_seq=3
[100.200000] no answer yet for icmp_seq=4
ping: sendmsg: Network is unreachable
[100.250000] From 10.0.0.9 icmp_seq=5 Destination Host Unreachable
[100.250100] no answer yet for icmp_seq=5
[100.260000] 64 bytes from 10.0.0.1: icmp_seq=4 ttl=64 time=110 ms
[100.310000] 64 bytes from 10.0.0.1: icmp_seq=6 ttl=64 time=0.5 ms
[100.370000] no answer yet for icmp_seq=7
[100.570000] no answer yet for icmp_seq=11
[100.600000] 64 bytes from 10.0.0.1: icmp_seq=12 ttl=64 time=0.5 ms
[100.650000] 64 bytes from 10.0.0.1: icmp_seq=13 ttl=64 ti`

func at(ms int) time.Time { return time.Unix(100, 0).Add(time.Duration(ms) * time.Millisecond) }

func TestParsePing(t *testing.T) {
	log := parsePing(pingOutput, 50*time.Millisecond)
	want := PingLog{
		Replies: []Reply{
			{1, at(0), 1500 * time.Microsecond},
			{2, at(50), 500 * time.Microsecond},
			{4, at(260), 110 * time.Millisecond},
			{6, at(310), 500 * time.Microsecond},
			{12, at(600), 500 * time.Microsecond},
		},
		Lost:       []time.Time{at(100), at(250), at(320)},
		Duplicates: 1,
		Errors:     1,
	}
	if diff := cmp.Diff(want, log); diff != "" {
		t.Error(diff)
	}
	if n := log.LostSince(at(250)); n != 2 {
		t.Errorf("lost since 250 ms: %d", n)
	}
	if first, ok := log.FirstAfter(at(160)); !ok || !first.Equal(at(310)) {
		t.Errorf("first after 160 ms: %v %v", first, ok)
	}
	for _, tt := range []struct {
		from, until int
		gap         int
		back        bool
	}{
		{10, 20, 50, true},     // inside a short one
		{100, 150, 210, true},  // inside the long one
		{260, 400, 290, true},  // after it: from the answer on
		{270, 300, 50, true},   //
		{620, 900, 300, false}, // no answer any more: until the end
	} {
		gap, back := log.Gap(at(tt.from), at(tt.until))
		if gap != time.Duration(tt.gap)*time.Millisecond || back != tt.back {
			t.Errorf("gap from %d until %d: %v %v", tt.from, tt.until, gap, back)
		}
	}
	if gap, back := (PingLog{}).Gap(at(0), at(1)); gap != 0 || back {
		t.Errorf("gap of nothing: %v %v", gap, back)
	}
}

// FuzzParsePing: no request is both answered and lost, whatever ping prints.
func FuzzParsePing(f *testing.F) {
	f.Add(pingOutput)
	f.Fuzz(func(t *testing.T, text string) {
		log := parsePing(text, time.Millisecond)
		seen := make(map[int]bool)
		for _, r := range log.Replies {
			if seen[r.Seq] {
				t.Fatalf("request %d answered twice", r.Seq)
			}
			seen[r.Seq] = true
		}
		if n := strings.Count(text, "icmp_seq="); len(log.Replies)+len(log.Lost)+log.Duplicates > n {
			t.Fatalf("%+v of %d lines", log, n)
		}
	})
}

// packet is an IPv4 packet with a UDP header and the beginning of a message.
func packet(src, dst string, sport, dport uint16, message ...byte) []byte {
	s, d := netip.MustParseAddr(src).As4(), netip.MustParseAddr(dst).As4()
	b := []byte{0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 17, 0, 0}
	b = append(append(b, s[:]...), d[:]...)
	b = append(b, byte(sport>>8), byte(sport), byte(dport>>8), byte(dport), 0, 0, 0, 0)
	return append(b, message...)
}

func TestClassify(t *testing.T) {
	const node, peer = "192.0.2.1", "192.0.2.50"
	options := packet(peer, node, 5, 51820, 1, 0, 0, 0)
	options = append(append(append([]byte{0x46}, options[1:20]...), 0, 0, 0, 0), options[20:]...)
	fragment := packet(peer, node, 5, 51820, 4, 0, 0, 0)
	fragment[7] = 9
	for name, tt := range map[string]struct {
		packet []byte
		flow   Flow
		kind   int
	}{
		"in":             {packet(peer, node, 5, 51820, 1, 0, 0, 0), Flow{netip.MustParseAddr(peer), false}, Initiation},
		"out":            {packet(node, peer, 51820, 5, 4, 0, 0, 0, 9), Flow{netip.MustParseAddr(peer), true}, Data},
		"options":        {options, Flow{netip.MustParseAddr(peer), false}, Initiation},
		"other port":     {packet(peer, node, 5, 7946, 1, 0, 0, 0), Flow{}, 0},
		"client's side":  {packet(node, peer, 5, 51820, 1, 0, 0, 0), Flow{}, 0},
		"other type":     {packet(peer, node, 5, 51820, 5, 0, 0, 0), Flow{}, 0},
		"reserved bytes": {packet(peer, node, 5, 51820, 1, 0, 1, 0), Flow{}, 0},
		"short":          {packet(peer, node, 5, 51820, 1, 0, 0), Flow{}, 0},
		"fragment":       {fragment, Flow{}, 0},
		"empty":          {nil, Flow{}, 0},
	} {
		flow, kind, ok := classify(tt.packet, netip.MustParseAddr(node), 51820)
		if flow != tt.flow || kind != tt.kind || ok != (tt.kind != 0) {
			t.Errorf("%s: %v %d %v", name, flow, kind, ok)
		}
	}
}

func FuzzClassify(f *testing.F) {
	node := netip.MustParseAddr("192.0.2.1")
	f.Add(packet("192.0.2.50", "192.0.2.1", 5, 51820, 1, 0, 0, 0))
	f.Add([]byte{0x4f})
	f.Fuzz(func(t *testing.T, p []byte) {
		_, kind, ok := classify(p, node, 51820)
		if ok != (kind >= Initiation && kind <= Data) {
			t.Fatalf("kind %d, %v", kind, ok)
		}
	})
}

func TestParseDump(t *testing.T) {
	peers, err := parseDump("key\tpub\t51820\toff\n" +
		"A=\t(none)\t192.0.2.1:51820\t0.0.0.0/0\t1700000000\t10\t20\t25\n" +
		"B=\t(none)\t(none)\t(none)\t0\t0\t0\toff\n")
	want := []PeerState{
		{PublicKey: "A=", Endpoint: netip.MustParseAddrPort("192.0.2.1:51820"), LastHandshake: time.Unix(1700000000, 0), Rx: 10, Tx: 20},
		{PublicKey: "B="},
	}
	if err != nil || !reflect.DeepEqual(peers, want) {
		t.Errorf("%+v, %v", peers, err)
	}
	for _, bad := range []string{"i\nA=\tx", "i\nA=\t-\t1.2.3.4\t-\t0\t0\t0\t0", "i\nA=\t-\t(none)\t-\tx\t0\t0\t0"} {
		if _, err := parseDump(bad); err == nil {
			t.Errorf("accepted %q", bad)
		}
	}
}

func TestDurations(t *testing.T) {
	var d Durations
	for i := 100; i > 0; i-- {
		d = append(d, time.Duration(i))
	}
	for q, want := range map[float64]time.Duration{.01: 1, .5: 50, .99: 99, 1: 100} {
		if got := d.P(q); got != want {
			t.Errorf("P(%v) = %d, want %d", q, got, want)
		}
	}
	if got := (Durations{7}).P(.5); got != 7 {
		t.Errorf("of one: %d", got)
	}
	if got := (Durations{1, 2, 3}).P(.5); got != 2 {
		t.Errorf("of three: %d", got)
	}
	if got := Durations(nil).P(.99); got != 0 {
		t.Errorf("of none: %d", got)
	}
}
