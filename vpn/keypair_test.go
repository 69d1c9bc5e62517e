package vpn

import (
	"bytes"
	"encoding/hex"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"gatemesh/vpn/vpntest"
)

// twoEnds is one session as both sides hold it.
func twoEnds(tb testing.TB) (device, gateway *keypair) {
	tb.Helper()
	a, _ := vpntest.NewKey()
	b, _ := vpntest.NewKey()
	device = newKeypair(nil, &keys{send: a, receive: b, local: 1, remote: 2}, 0, true)
	gateway = newKeypair(nil, &keys{send: b, receive: a, local: 2, remote: 1}, 0, false)
	return device, gateway
}

// sealed is a transport message with that payload.
func sealed(tb testing.TB, kp *keypair, payload string) []byte {
	tb.Helper()
	b := make([]byte, headerSize+len(payload)+tagSize)
	copy(b[headerSize:], payload)
	m, ok := kp.sealer.seal(b, len(payload))
	if !ok {
		tb.Fatal("not sealed")
	}
	return m
}

func TestSealAndOpen(t *testing.T) {
	d, g := twoEnds(t)
	for i := range 3 {
		m := sealed(t, d, "packet")
		if messageType(m) != typeTransport || le.Uint32(m[4:]) != 2 || le.Uint64(m[8:]) != uint64(i) {
			t.Errorf("header %x", m[:headerSize])
		}
		if plain, v := g.opener.open(slices.Clone(m)); v != opened || string(plain) != "packet" {
			t.Errorf("%q, %v", plain, v)
		}
		if _, v := g.opener.open(slices.Clone(m)); v != replayed {
			t.Errorf("second time: %v", v)
		}
		m[headerSize] ^= 1
		if _, v := g.opener.open(m); v != forged {
			t.Errorf("changed: %v", v)
		}
	}
}

func TestForgedCountersDoNotMoveTheWindow(t *testing.T) {
	d, g := twoEnds(t)
	first := sealed(t, d, "first")
	bad := sealed(t, d, "second")
	le.PutUint64(bad[8:], RejectAfterMessages-1)
	if _, v := g.opener.open(bad); v != forged {
		t.Fatal(v)
	}
	if _, v := g.opener.open(first); v != opened {
		t.Error(v)
	}
}

func TestLimitsOfACounter(t *testing.T) {
	d, g := twoEnds(t)
	if d.stale(RekeyAfterTime) || !d.stale(RekeyAfterTime+1) || g.stale(RejectAfterTime) {
		t.Error("only an initiator asks for new keys after 120 s")
	}
	if !d.usable(RejectAfterTime-1) || d.usable(RejectAfterTime) || (*keypair)(nil).usable(0) {
		t.Error("keys are usable for 180 s")
	}
	// A fresh key's counters are 2^60, of which its owner sends 2^55 itself: it asks for new keys before their end.
	last := uint64(RekeyAfterMessages/32 - 1)
	g.sealer.next.Store(last + 1 - keyMargin)
	if g.stale(0) {
		t.Error("stale too early")
	}
	sealed(t, g, "")
	if !g.stale(0) || !g.usable(0) {
		t.Error("not stale near the end of its counters")
	}
	g.sealer.next.Store(last)
	m := sealed(t, g, "last")
	if _, v := d.opener.open(m); v != opened {
		t.Errorf("last counter: %v", v)
	}
	if g.usable(0) {
		t.Error("usable after the last counter")
	}
	for range 3 {
		if _, ok := g.sealer.seal(make([]byte, 64), 16); ok {
			t.Fatal("sealed beyond the last counter")
		}
	}
	// A peer that does not care for 2^60 is accepted, one that does not care for the end of all counters is refused.
	aead := newAEAD(aeadKey(g.sealer.aead))
	for counter, want := range map[uint64]verdict{RejectAfterMessages - 1: opened, RejectAfterMessages: replayed} {
		m := make([]byte, headerSize, keepaliveSize)
		le.PutUint32(m, typeTransport)
		le.PutUint64(m[8:], counter)
		nonce := append(make([]byte, 4), m[8:16]...)
		if _, v := d.opener.open(aead.Seal(m, nonce, nil, nil)); v != want {
			t.Errorf("counter %x: %v", counter, v)
		}
	}
}

func TestNoCounterIsUsedTwice(t *testing.T) {
	d, g := twoEnds(t)
	const writers, each = 8, 500
	messages := make([][][]byte, writers)
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for range each {
				messages[w] = append(messages[w], sealed(t, d, "x"))
			}
		})
	}
	wg.Wait()
	all := slices.Concat(messages...)
	rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	for _, m := range all {
		if _, v := g.opener.open(m); v != opened {
			t.Fatalf("counter %d: %v", le.Uint64(m[8:]), v)
		}
	}
	if n := d.sealer.next.Load(); n != writers*each {
		t.Errorf("next counter is %d", n)
	}
}

func TestEraseOverwritesKeys(t *testing.T) {
	d, g := twoEnds(t)
	m := sealed(t, g, "late")
	send, receive := aeadKey(d.sealer.aead), aeadKey(d.opener.aead)
	if send == nil || receive == nil || *send == (Key{}) || *receive == (Key{}) {
		t.Fatal("the cipher of x/crypto is laid out otherwise: keys are not overwritten any more")
	}
	if *send != *aeadKey(g.opener.aead) {
		t.Fatal("that is not the key")
	}
	d.erase()
	d.erase()
	if *send != (Key{}) || *receive != (Key{}) {
		t.Error("keys are still there")
	}
	if _, ok := d.sealer.seal(make([]byte, 64), 16); ok {
		t.Error("sealed under an erased key")
	}
	if _, v := d.opener.open(m); v != erased {
		t.Errorf("opened under an erased key: %v", v)
	}
}

func TestEraseWhileSealing(t *testing.T) {
	d, g := twoEnds(t)
	key := *aeadKey(g.opener.aead)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			b := make([]byte, 256)
			for range 2000 {
				m, ok := d.sealer.seal(b, 64)
				if !ok {
					return
				}
				nonce := append(make([]byte, 4), m[8:16]...)
				if _, err := newAEAD(&key).Open(nil, nonce, m[headerSize:], nil); err != nil {
					t.Error("sealed under another key")
				}
			}
		})
	}
	wg.Go(d.erase)
	wg.Wait()
}

func TestPadding(t *testing.T) {
	for _, c := range [][3]int{{0, 1420, 0}, {1, 1420, 16}, {16, 1420, 16}, {17, 1420, 32}, {1408, 1420, 1408}, {1409, 1420, 1420}, {1420, 1420, 1420}, {1421, 1420, 1436}, {2840, 1420, 2840}} {
		if got := padded(c[0], c[1]); got != c[2] {
			t.Errorf("%d bytes at MTU %d are padded to %d, not %d", c[0], c[1], got, c[2])
		}
	}
}

func TestMessageTypes(t *testing.T) {
	message := func(kind uint32, n int) []byte {
		b := make([]byte, n)
		if n >= 4 {
			le.PutUint32(b, kind)
		}
		return b
	}
	for _, c := range []struct {
		kind uint32
		size int
		want uint32
	}{
		{1, 148, 1},
		{1, 147, 0},
		{1, 149, 0},
		{2, 92, 2},
		{2, 148, 0},
		{3, 64, 3},
		{3, 63, 0},
		{4, 32, 4},
		{4, 31, 0},
		{4, 1500, 4},
		{5, 148, 0},
		{0, 148, 0},
		{0x101, 148, 0}, // reserved bytes are zero
		{0x1000004, 64, 0},
		{0, 0, 0},
		{1, 4, 0},
	} {
		if got := messageType(message(c.kind, c.size)); got != c.want {
			t.Errorf("type %#x of %d bytes: %d", c.kind, c.size, got)
		}
	}
}

func TestPacketPathDoesNotAllocate(t *testing.T) {
	d, g := twoEnds(t)
	b := make([]byte, headerSize+1440+tagSize)
	if n := testing.AllocsPerRun(1000, func() {
		m, _ := d.sealer.seal(b, 1440)
		if _, v := g.opener.open(m); v != opened {
			t.Fatal(v)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestIPPackets(t *testing.T) {
	decode := func(s string) []byte {
		b, err := hex.DecodeString(s)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	v4 := decode("45000015000000004011000001020304050607080a")
	v6 := decode("6000000000013b40" + "fd000000000000000000000000000001" + "fd000000000000000000000000000002" + "0a")
	v6[4], v6[5] = 0, 1
	for name, b := range map[string][]byte{"IPv4": v4, "IPv6": v6} {
		packet, src, dst, ok := parseIP(append(slices.Clone(b), 0, 0, 0))
		if !ok || !bytes.Equal(packet, b) {
			t.Errorf("%s: %x, %v", name, packet, ok)
		}
		if got := src.String() + " " + dst.String(); got != "1.2.3.4 5.6.7.8" && got != "fd00::1 fd00::2" {
			t.Errorf("%s: %s", name, got)
		}
		for n := range b {
			if _, _, _, ok := parseIP(b[:n]); ok {
				t.Errorf("%s: cut to %d bytes", name, n)
			}
		}
	}
	long := slices.Clone(v6)
	long[4], long[5] = 0xff, 0xff // 65535 + 40 does not fit into 16 bits
	short := slices.Clone(v4)
	short[3] = 19
	mapped := slices.Clone(v6)
	copy(mapped[8:], decode("00000000000000000000ffff01020304"))
	for name, b := range map[string][]byte{"length": long, "header": short, "IPv4-mapped": mapped, "version": decode("55000015000000004011000001020304050607080a")} {
		if _, _, _, ok := parseIP(b); ok {
			t.Errorf("wrong %s", name)
		}
	}
}

func FuzzIPPacket(f *testing.F) {
	f.Add([]byte("\x45\x00\x00\x15\x00\x00\x00\x00\x40\x11\x00\x00\x01\x02\x03\x04\x05\x06\x07\x08\x0a"))
	f.Add(append([]byte{0x60, 0, 0, 0, 0xff, 0xff}, make([]byte, 40)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		packet, src, dst, ok := parseIP(b)
		if ok && (len(packet) < ipv4Header || len(packet) > len(b) || !src.IsValid() || src.Is4() != dst.Is4()) {
			t.Errorf("%x: %x %v %v", b, packet, src, dst)
		}
	})
}

func FuzzTransport(f *testing.F) {
	d, g := twoEnds(f)
	f.Add(sealed(f, d, "packet"))
	f.Add(make([]byte, keepaliveSize))
	genuine := sealed(f, d, "")
	f.Fuzz(func(t *testing.T, b []byte) {
		if messageType(b) != typeTransport || bytes.Equal(b, genuine) {
			return
		}
		if plain, v := g.opener.open(b); v == opened && string(plain) != "packet" {
			t.Errorf("forged: %x", b)
		}
	})
}

func BenchmarkSeal(b *testing.B) {
	d, _ := twoEnds(b)
	buf := make([]byte, headerSize+1440+tagSize)
	b.SetBytes(1420)
	b.ReportAllocs()
	for b.Loop() {
		sealPacket(d, buf, 1420, 1440)
	}
}

func BenchmarkOpen(b *testing.B) {
	d, g := twoEnds(b)
	buf := make([]byte, headerSize+1440+tagSize)
	m, _ := sealPacket(d, buf, 1420, 1440)
	original := slices.Clone(m)
	b.SetBytes(1420)
	b.ReportAllocs()
	for b.Loop() {
		copy(m, original)
		g.opener.filter.Reset()
		if _, v := g.opener.open(m); v != opened {
			b.Fatal(v)
		}
	}
}

func BenchmarkRespond(b *testing.B) {
	p := newPair(b)
	m, _ := p.initiation(b, stamp(time.Now()))
	b.ReportAllocs()
	for b.Loop() {
		if !checkMAC1(&p.gateway.mac1Key, m[:]) {
			b.Fatal("mac1")
		}
		in, err := p.gateway.openInitiation(m[:])
		if err != nil {
			b.Fatal(err)
		}
		if _, err := in.openTimestamp(&p.secret); err != nil {
			b.Fatal(err)
		}
		r, k, err := in.respond(p.toDevice.public, &p.psk, 1)
		if err != nil {
			b.Fatal(err)
		}
		putMAC1(&p.toDevice.mac1Key, r[:])
		newKeypair(nil, &k, 0, false)
	}
}

func BenchmarkInitiate(b *testing.B) {
	p := newPair(b)
	b.ReportAllocs()
	for b.Loop() {
		m, _, err := p.gateway.initiate(p.toDevice, &p.secret, 1, stamp(time.Now()))
		if err != nil {
			b.Fatal(err)
		}
		putMAC1(&p.toDevice.mac1Key, m[:])
	}
}

func BenchmarkFinish(b *testing.B) {
	p := newPair(b)
	m, out := p.initiation(b, stamp(time.Now()))
	in, _ := p.gateway.openInitiation(m[:])
	in.openTimestamp(&p.secret)
	r, _, _ := in.respond(p.toDevice.public, &p.psk, 1)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := p.device.finish(*out, &p.psk, r[:]); err != nil {
			b.Fatal(err)
		}
	}
}
