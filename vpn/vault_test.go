package vpn

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"gatemesh/vpn/vpntest"

	"golang.zx2c4.com/wireguard/conn"
)

// heirOf is another gateway of g's cluster, with those devices; it is not running.
func heirOf(tb testing.TB, devices *[]Device) *Gateway {
	tb.Helper()
	g := idle(tb)
	g.cfg.Lookup = func(k Key) (Device, bool) {
		for _, d := range *devices {
			if d.Key == k {
				return d, true
			}
		}
		return Device{}, false
	}
	return g
}

// exporter is a gateway with one confirmed session, and its heir. far is the device's end.
func exporter(tb testing.TB) (a, b *Gateway, p *peer, far *keypair) {
	tb.Helper()
	devices := new([]Device)
	a, b = heirOf(tb, devices), heirOf(tb, devices)
	p, far = live(tb, a, netip.MustParseAddr("10.0.0.9"))
	*devices = append(*devices, Device{Key: p.key, Addresses: p.addresses})
	return a, b, p, far
}

func mustExport(tb testing.TB, a, b *Gateway, k Key) []byte {
	tb.Helper()
	m, err := a.Export(k, b.Incarnation(), false)
	if err != nil {
		tb.Fatal(err)
	}
	return m
}

// receiveOne opens one message, as from the socket, and reports whether it was accepted.
func (g *Gateway) receiveOne(m []byte, from netip.AddrPort) bool {
	before := g.count.rxPackets.Load()
	m = bytes.Clone(m)
	r := &receiver{g: g}
	r.transport(m, m, &vpntest.Endpoint{AddrPort: from}, g.now())
	r.flush(g.now())
	return g.count.rxPackets.Load() != before
}

var deviceAddr = netip.MustParseAddrPort("203.0.113.1:9")

func TestParts(t *testing.T) {
	var check func(r part, path string)
	check = func(r part, path string) {
		if r.depth > 0 && !r.valid() {
			t.Errorf("%s: %x is not valid", path, r)
		}
		above := r.end()
		if above-r.lo < maxOffset+2*keyMargin {
			t.Errorf("%s: only %d to send in", path, above-r.lo)
		}
		for n := 1; ; n++ {
			piece, ok := r.piece(n)
			if !ok {
				if n != maxPiece+1 && r.depth < maxDepth || r.depth == maxDepth && n != 1 {
					t.Errorf("%s: %d pieces", path, n-1)
				}
				return
			}
			if piece.lo != above || piece.size() != r.size()>>cutBits || piece.end() > piece.lo+piece.size() {
				t.Fatalf("%s: piece %d is %x after %x", path, n, piece, above)
			}
			above = piece.lo + piece.size()
			if above > r.lo+r.size() {
				t.Fatalf("%s: piece %d is beyond its part", path, n)
			}
			if n == 1 || n == 17 || n == maxPiece {
				check(piece, fmt.Sprint(path, ".", n))
			}
		}
	}
	check(part{}, "")
	for _, n := range []int{-1, 0, 32} {
		if _, ok := (part{}).piece(n); ok {
			t.Errorf("piece %d", n)
		}
	}
	for _, r := range []part{{}, {lo: 1 << 55}, {0, 1}, {1, 1}, {1<<55 + 1, 1}, {1 << 60, 1}, {1 << 63, 4}, {1 << 40, 5}, {1 << 39, 4}, {1 << 40, 255}} {
		if r.valid() {
			t.Errorf("%x is valid", r)
		}
	}
}

func TestImportRefusals(t *testing.T) {
	a, b, p, _ := exporter(t)
	good := mustExport(t, a, b, p.key)
	change := func(at int, with ...byte) []byte {
		m := slices.Clone(good)
		copy(m[at:], with)
		return m
	}
	enrolled := b.cfg.Lookup
	for name, c := range map[string]struct {
		export []byte
		want   error
	}{
		"nothing":           {nil, errMalformed},
		"truncated":         {good[:len(good)-1], errMalformed},
		"header only":       {good[:exportHeader], errMalformed},
		"trailing byte":     {append(slices.Clone(good), 0), errMalformed},
		"version":           {change(0, 2), errMalformed},
		"no keypair":        {change(1, 0), errMalformed},
		"three keypairs":    {change(1, 3), errMalformed},
		"one that is not":   {change(1, 2), errMalformed},
		"twice one keypair": {append(change(1, 2), good[exportHeader:]...), errMalformed},
		"incarnation":       {change(2, ^good[2]), errIncarnation},
		"no device":         {change(26, make([]byte, 32)...), errMalformed},
		"foreign device":    {change(26, 1, 2, 3), errNotEnrolled},
		"address family":    {change(82, 5), errMalformed},
		"no address":        {change(82, 0), errMalformed},
		"long IPv4 address": {change(98, 1), errMalformed},
		"no port":           {change(99, 0, 0), errMalformed},
		"IPv4 as IPv6":      {change(82, append(append([]byte{6}, make([]byte, 10)...), 255, 255, 1, 2, 3, 4)...), errMalformed},
		"too old":           {change(exportHeader+72, 0x20, 0xbf, 0x02, 0), errTooOld}, // 180,000 ms
		"much too old":      {change(exportHeader+72, 255, 255, 255, 255), errTooOld},
		"role":              {change(exportHeader+76, 2), errMalformed},
		"a fresh key":       {change(exportHeader+77, make([]byte, 9)...), errMalformed},
		"depth":             {change(exportHeader+77, 5), errMalformed},
		"unaligned":         {change(exportHeader+78, 1), errMalformed},
		"beyond the end":    {change(exportHeader+78, 0, 0, 0, 0, 0, 0, 0, 0x10), errMalformed},
		"floor":             {change(exportHeader+86, bytes.Repeat([]byte{255}, 8)...), errMalformed},
	} {
		if _, err := b.Import(c.export); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	b.cfg.Lookup = func(Key) (Device, bool) { return Device{}, false }
	if _, err := b.Import(good); !errors.Is(err, errNotEnrolled) {
		t.Errorf("disabled device: %v", err)
	}
	b.cfg.Lookup = enrolled
	if len(b.Held()) != 0 || len(b.vault.known) != 0 {
		t.Fatalf("%d held, %d known", len(b.Held()), len(b.vault.known))
	}
	if k, err := b.Import(good); err != nil || k != p.key {
		t.Fatal(err)
	}
	if _, err := b.Import(change(18, 255)); !errors.Is(err, errOverlap) {
		t.Errorf("range held already: %v", err)
	}
	if _, err := b.Import(good); !errors.Is(err, errReplaced) {
		t.Errorf("twice: %v", err)
	}
	b.Refresh()
	if len(b.Held()) != 1 {
		t.Error("an import was dropped by a refresh")
	}
	b.cfg.Lookup = func(Key) (Device, bool) { return Device{}, false }
	h := b.vault.held[p.key]
	b.Refresh()
	if len(b.Held()) != 0 || h.pairs[0].send != (Key{}) || h.pairs[0].receive != (Key{}) {
		t.Error("the import of a disabled device is kept")
	}
	if err := b.TakeOver(p.key, netip.AddrPort{}); !errors.Is(err, ErrNoSession) {
		t.Error(err)
	}
}

func TestNoSessionToExport(t *testing.T) {
	g := idle(t)
	p, _ := live(t, g, netip.MustParseAddr("10.0.0.9"))
	if _, err := g.Export(Key{1}, 1, true); !errors.Is(err, ErrNoSession) {
		t.Errorf("unknown device: %v", err)
	}
	current := p.current.Swap(nil)
	p.next = current
	current.confirmed.Store(false)
	if _, err := g.Export(p.key, 1, true); !errors.Is(err, ErrNoSession) || p.quiet.Load() {
		t.Errorf("unconfirmed keys: %v", err)
	}
	p.next = nil
	p.current.Store(current)
	current.confirmed.Store(true)
	if _, err := g.Export(p.key, 1, false); err != nil {
		t.Error(err)
	}
	current.created = g.now() - RejectAfterTime
	if _, err := g.Export(p.key, 1, false); !errors.Is(err, ErrNoSession) {
		t.Errorf("expired keys: %v", err)
	}
}

// TestExportIsWhole exports two keypairs and finds all of it at the heir.
func TestExportIsWhole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, p, _ := exporter(t)
		p.received, p.sent = stamp(time.Now()), stamp(time.Now().Add(time.Second))
		old := p.current.Load()
		local, _ := a.indices.reserve()
		time.Sleep(10*time.Second + time.Microsecond)
		kp := newKeypair(p, &keys{send: Key{1}, receive: Key{2}, local: local, remote: 77}, a.now(), true)
		p.mu.Lock()
		p.install(kp)
		a.indices.put(kp)
		p.mu.Unlock()
		time.Sleep(5 * time.Second)
		s, err := decode(mustExport(t, a, b, p.key))
		if err != nil || s.n != 2 || s.received != p.received || s.sent != p.sent || s.address != deviceAddr || s.from != a.Incarnation() {
			t.Fatalf("%+v, %v", s, err)
		}
		if q := s.pairs[0]; q.send != (Key{1}) || q.receive != (Key{2}) || q.local != local || q.remote != 77 || !q.initiator || q.age != 5*time.Second || q.part != (part{1 << 55, 1}) {
			t.Errorf("current: %+v", q)
		}
		if q := s.pairs[1]; q.local != old.local || q.remote != 7 || q.initiator || q.age != 15*time.Second+time.Millisecond || q.part != (part{1 << 55, 1}) {
			t.Errorf("previous: %+v", q)
		}
		if _, err := b.Import(mustExport(t, a, b, p.key)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if err := b.TakeOver(p.key, netip.MustParseAddrPort("[2001:db8::1]:5")); err != nil {
			t.Fatal(err)
		}
		q := b.peer(p.key)
		if q.received != p.received || q.sent != p.sent || q.endpoint.Load().addr != netip.MustParseAddrPort("[2001:db8::1]:5") {
			t.Errorf("%x, %x, %v", q.received, q.sent, q.endpoint.Load().addr)
		}
		for i, kp := range []*keypair{q.current.Load(), q.previous} {
			of := []*keypair{p.current.Load(), p.previous}[i]
			next := kp.sealer.next.Load()
			if kp.local != of.local || kp.sealer.remote != of.sealer.remote || kp.initiator != of.initiator || *aeadKey(kp.opener.aead) != *aeadKey(of.opener.aead) ||
				b.now()-kp.created < a.now()-of.created || next < 2<<55 || next > 2<<55+maxOffset || kp.sealer.limit.Load() != 2<<55+1<<50 {
				t.Errorf("%d: %+v", i, kp)
			}
		}
		if s := b.Sessions()[0]; time.Since(s.Handshake) != 6*time.Second {
			t.Errorf("keys are %v old", time.Since(s.Handshake))
		}
	})
}

func TestHeldKeysEndInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, p, _ := exporter(t)
		go b.Run(t.Context())
		defer b.Close()
		known := func(g *Gateway) int {
			g.vault.mu.Lock()
			defer g.vault.mu.Unlock()
			return len(g.vault.known)
		}
		time.Sleep(100 * time.Second)
		if _, err := b.Import(mustExport(t, a, b, p.key)); err != nil {
			t.Fatal(err)
		}
		b.vault.mu.Lock()
		h := b.vault.held[p.key]
		b.vault.mu.Unlock()
		time.Sleep(80*time.Second - time.Millisecond)
		if len(b.Held()) != 1 {
			t.Error("let go too early")
		}
		time.Sleep(2 * time.Millisecond)
		synctest.Wait()
		if len(b.Held()) != 0 || h.pairs[0].send != (Key{}) {
			t.Error("held for too long")
		}
		if known(b) != 1 || known(a) != 1 {
			t.Error("forgotten too early")
		}
		time.Sleep(20 * time.Second)
		synctest.Wait()
		a.vault.sweep(a.now())
		if known(b) != 0 || known(a) != 0 {
			t.Error("remembered for too long")
		}
		if err := b.TakeOver(p.key, netip.AddrPort{}); !errors.Is(err, ErrNoSession) {
			t.Error(err)
		}
	})
}

func TestCloseErasesHeldKeys(t *testing.T) {
	a, b, p, _ := exporter(t)
	if _, err := b.Import(mustExport(t, a, b, p.key)); err != nil {
		t.Fatal(err)
	}
	h := b.vault.held[p.key]
	b.Close()
	if h.pairs[0].send != (Key{}) || h.pairs[0].receive != (Key{}) || len(b.Held()) != 0 {
		t.Error("keys are still there")
	}
	if _, err := b.Import(mustExport(t, a, b, p.key)); err == nil {
		t.Error("imported after Close")
	}
}

func TestHeldSessionsAreBounded(t *testing.T) {
	v := newVault()
	for i := range maxHeld + 2 {
		h := &held{session: session{n: 1}, deadline: deadline{at: time.Duration(i)}}
		h.device = Key{byte(i), byte(i >> 8), byte(i >> 16)}
		h.pairs[0].id = keyID(h.device[:])
		h.pairs[0].part = part{1 << 55, 1}
		if _, err := v.put(h); (err == nil) != (i < maxHeld) {
			t.Fatalf("%d: %v", i, err)
		}
	}
	h := &held{session: session{n: 1, number: 1}, deadline: deadline{at: 5}} // a newer one of the same device
	h.pairs[0].part = part{1 << 55, 1}
	h.pairs[0].id[15] = 1
	if _, err := v.put(h); err != nil || len(v.held) != maxHeld {
		t.Error(err)
	}
}

// TestCollidingIndices has two keypairs with one receiver index, and more in the same slot.
func TestCollidingIndices(t *testing.T) {
	g := idle(t)
	var fars []*keypair
	var mine []*keypair
	for i := range 5 {
		p, far := live(t, g, netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)}))
		kp := p.current.Load()
		g.indices.remove(kp)
		g.indices.release(kp.local)
		kp.foreign, kp.local = true, 0x12345678
		if i == 4 {
			kp.local ^= 1 << 31 // only the slot is the same
		}
		far.sealer.remote = kp.local
		g.indices.put(kp)
		fars, mine = append(fars, far), append(mine, kp)
	}
	packet := make([]byte, 64)
	message := func(i int) []byte {
		copy(packet, vpntest.Packet(netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)}), netip.MustParseAddr("10.9.9.9"), 17, make([]byte, 12)))
		return sealed(t, fars[i], string(packet[:32]))
	}
	var replays [][]byte
	for round := range 3 {
		for i := range fars {
			m := message(i)
			replays = append(replays, bytes.Clone(m))
			if !g.receiveOne(m, deviceAddr) || mine[i].opener.top != uint64(round+1) {
				t.Errorf("round %d: message %d was not accepted", round, i)
			}
		}
	}
	for i, m := range replays {
		if g.receiveOne(m, deviceAddr) {
			t.Errorf("%d was accepted twice", i)
		}
	}
	if s := g.Stats(); s.Replayed != 15 || s.Forged != 0 || s.BadSource != 0 || s.BadPacket != 0 {
		t.Errorf("%+v", s)
	}
	m := message(1)
	m[20] ^= 1
	if g.receiveOne(m, deviceAddr) || g.Stats().Forged != 1 {
		t.Error("forged")
	}
	for n, i := range []int{1, 3, 0, 4, 2} { // in the middle, at the end and the beginning of the chain
		g.indices.remove(mine[i])
		for j := range fars {
			gone := slices.Contains([]int{1, 3, 0, 4, 2}[:n+1], j)
			if got := g.receiveOne(message(j), deviceAddr); got == gone {
				t.Errorf("%d removed, %d: %v", i, j, got)
			}
		}
	}
}

func TestFloors(t *testing.T) {
	a, b, p, far := exporter(t)
	accept := func(g *Gateway, m []byte) bool { return g.receiveOne(m, deviceAddr) }
	var recorded [][]byte
	next := func() []byte {
		m := sealed(t, far, "")
		recorded = append(recorded, bytes.Clone(m))
		return m
	}
	for range 5 {
		accept(a, next())
	}
	floors := func() (n int) {
		a.Floors(b.Incarnation(), 100, func(chunk []byte) {
			n += len(chunk) / floorSize
			if err := b.RaiseFloors(chunk); err != nil {
				t.Fatal(err)
			}
		})
		return n
	}
	if n := floors(); n != 0 {
		t.Errorf("%d floors of keys that were not exported", n)
	}
	if _, err := b.Import(mustExport(t, a, b, p.key)); err != nil {
		t.Fatal(err)
	}
	if n := floors(); n != 0 {
		t.Errorf("%d floors that were in the export", n)
	}
	for range 3 {
		accept(a, next())
	}
	late := next() // counter 8: on its way as the floor is told
	accept(a, next())
	a.Floors(b.Incarnation()+1, 100, func([]byte) { t.Error("told to another") })
	if n := floors(); n != 1 {
		t.Errorf("%d floors", n)
	}
	if n := floors(); n != 0 {
		t.Errorf("%d floors without anything received", n)
	}
	if err := b.TakeOver(p.key, netip.AddrPort{}); err != nil {
		t.Fatal(err)
	}
	for i, m := range recorded {
		if accept(b, bytes.Clone(m)) {
			t.Errorf("counter %d was accepted again", i)
		}
	}
	if accept(b, late) {
		t.Error("below the floor")
	}
	if s := b.Stats(); s.Replayed != 11 || s.Forged != 0 {
		t.Errorf("%+v", s)
	}
	first := next()
	if !accept(b, bytes.Clone(first)) || accept(b, first) {
		t.Error("the first counter at the floor")
	}
	// The old owner's last word comes after the takeover; an older one does not lower it.
	chunk := append(bytes.Clone(b.peer(p.key).current.Load().share.Load().id[:]), 20, 0, 0, 0, 0, 0, 0, 0)
	if err := b.RaiseFloors(chunk); err != nil {
		t.Fatal(err)
	}
	chunk[16] = 3
	b.RaiseFloors(chunk)
	far.sealer.next.Store(18)
	for counter := uint64(18); counter < 25; counter++ {
		if got := accept(b, next()); got != (counter >= 20) {
			t.Errorf("counter %d: %v", counter, got)
		}
	}
	// It is remembered when the keys come back.
	b.Drop(p.key)
	if err := b.RaiseFloors(append(chunk[:16:16], 30, 0, 0, 0, 0, 0, 0, 0)); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Import(mustExport(t, a, b, p.key)); err != nil {
		t.Fatal(err)
	}
	if err := b.TakeOver(p.key, netip.AddrPort{}); err != nil {
		t.Fatal(err)
	}
	far.sealer.next.Store(29)
	if accept(b, next()) || !accept(b, next()) {
		t.Error("the floor was forgotten")
	}
	for _, bad := range [][]byte{chunk[:23], append(chunk, 0), append(chunk[:16:16], bytes.Repeat([]byte{255}, 8)...)} {
		if err := b.RaiseFloors(bad); err == nil {
			t.Errorf("%x is taken", bad)
		}
	}
	if err := b.RaiseFloors(make([]byte, 24)); err != nil {
		t.Errorf("floor of an unknown key: %v", err)
	}
}

// captureBind keeps what is sent.
type captureBind struct {
	conn.Bind
	sent *[]sentMessage
}

type sentMessage struct {
	to       netip.AddrPort
	receiver uint32
	kind     uint32
}

func (b captureBind) Send(messages [][]byte, to conn.Endpoint) error {
	for _, m := range messages {
		s := sentMessage{to: addrPort(to), kind: messageType(m)}
		if s.kind == typeTransport {
			s.receiver = le.Uint32(m[4:])
		}
		*b.sent = append(*b.sent, s)
	}
	return nil
}

// takenOver is a session at its heir, b, that was exported with two keypairs: the device knows the older one by index 7.
func takenOver(t *testing.T) (b *Gateway, p *peer, far *keypair, sent *[]sentMessage) {
	t.Helper()
	a, b, pa, _ := exporter(t)
	local, _ := a.indices.reserve()
	x, _ := vpntest.NewKey()
	y, _ := vpntest.NewKey()
	far = newKeypair(nil, &keys{send: y, receive: x, local: 8, remote: local}, a.now(), true)
	kp := newKeypair(pa, &keys{send: x, receive: y, local: local, remote: 8}, a.now(), true)
	pa.mu.Lock()
	pa.install(kp)
	a.indices.put(kp)
	pa.mu.Unlock()
	if _, err := b.Import(mustExport(t, a, b, pa.key)); err != nil {
		t.Fatal(err)
	}
	sent = new([]sentMessage)
	b.cfg.Bind = captureBind{b.cfg.Bind, sent}
	if err := b.TakeOver(pa.key, netip.AddrPort{}); err != nil {
		t.Fatal(err)
	}
	return b, b.peer(pa.key), far, sent
}

func TestKnocksUnderBothKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, p, far, sent := takenOver(t)
		want := []sentMessage{{deviceAddr, 7, 4}, {deviceAddr, 8, 4}} // the previous one first
		if !slices.Equal(*sent, want) {
			t.Errorf("sent %v", *sent)
		}
		*sent = nil
		b.Keepalive(p.key) // again, with fresh counters
		if !slices.Equal(*sent, want) {
			t.Errorf("sent %v", *sent)
		}
		*sent = nil
		b.receiveOne(sealed(t, far, ""), deviceAddr) // it has followed
		b.Keepalive(p.key)
		if !slices.Equal(*sent, want[1:]) {
			t.Errorf("sent %v", *sent)
		}
	})
}

func TestFenceHoldsKnocksBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		devices := new([]Device)
		a, b := heirOf(t, devices), heirOf(t, devices)
		pa, _ := live(t, a, netip.MustParseAddr("10.0.0.9"))
		*devices = append(*devices, Device{Key: pa.key})
		if _, err := b.Import(mustExport(t, a, b, pa.key)); err != nil {
			t.Fatal(err)
		}
		sent := new([]sentMessage)
		b.cfg.Bind = captureBind{b.cfg.Bind, sent}
		b.Allow(time.Time{})
		if err := b.TakeOver(pa.key, netip.AddrPort{}); err != nil || len(*sent) != 0 {
			t.Fatal(err, *sent)
		}
		b.Allow(time.Now().Add(time.Hour))
		time.Sleep(fenceRetry)
		q, _ := b.schedule.pop(b.now())
		if q == nil {
			t.Fatal("not tried again")
		}
		b.tick(q, b.now())
		if !slices.Equal(*sent, []sentMessage{{deviceAddr, 7, 4}}) {
			t.Errorf("sent %v", *sent)
		}
	})
}

// TestLastWordUnderOldKeys has a device that was taken over make new keys: before the first message under them comes one
// under the old ones.
func TestLastWordUnderOldKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, p, _, sent := takenOver(t)
		*sent = nil
		local, _ := b.indices.reserve()
		x, _ := vpntest.NewKey()
		y, _ := vpntest.NewKey()
		far := newKeypair(nil, &keys{send: y, receive: x, local: 9, remote: local}, b.now(), true)
		kp := newKeypair(p, &keys{send: x, receive: y, local: local, remote: 9}, b.now(), false)
		p.mu.Lock()
		p.install(kp)
		b.indices.put(kp)
		p.staged = append(p.staged, make([]byte, headerSize+20, headerSize+64))
		b.staged.Add(1)
		p.mu.Unlock()
		elsewhere := netip.MustParseAddrPort("203.0.113.77:7")
		b.receiveOne(sealed(t, far, ""), elsewhere)
		if !slices.Equal(*sent, []sentMessage{{elsewhere, 8, 4}, {elsewhere, 9, 4}}) {
			t.Errorf("sent %v", *sent)
		}
		if p.timers.renew.Load() != 0 {
			t.Error("new keys are still asked for")
		}
	})
}

// TestReplayDivertsNothing has what the device sent to its old owner replayed at the heir from elsewhere.
func TestReplayDivertsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, p, far, sent := takenOver(t)
		*sent = nil
		attacker := netip.MustParseAddrPort("198.51.100.66:666")
		m := sealed(t, far, "") // the floor was not told any more
		if !b.receiveOne(bytes.Clone(m), attacker) || b.receiveOne(m, attacker) {
			t.Error("not accepted just once")
		}
		if p.endpoint.Load().addr != deviceAddr || p.candidate == nil || p.candidate.addr != attacker {
			t.Errorf("the device is said to be at %v", p.endpoint.Load().addr)
		}
		if confirmations(b) != 0 {
			t.Error("the claim is confirmed")
		}
		b.Keepalive(p.key)
		if !slices.Equal(*sent, []sentMessage{{deviceAddr, 7, 4}, {deviceAddr, 8, 4}}) {
			t.Errorf("sent %v", *sent)
		}
		// The handshake that is asked for goes there and to the known address by turns.
		*sent = nil
		for range 4 {
			q, ok := b.requests.take()
			if !ok {
				t.Fatal("no handshake was asked for")
			}
			b.initiate(q)
			time.Sleep(RekeyTimeout + rekeyTimeoutJitter)
			for q, _ := b.schedule.pop(b.now()); q != nil; q, _ = b.schedule.pop(b.now()) {
				b.tick(q, b.now())
			}
		}
		var to []netip.AddrPort
		for _, s := range *sent {
			if s.kind == typeInitiation {
				to = append(to, s.to)
			}
		}
		if !slices.Equal(to, []netip.AddrPort{attacker, deviceAddr, attacker, deviceAddr}) {
			t.Errorf("initiations to %v", to)
		}
	})
}

// TestRenewalsArePaced takes many sessions over at once.
func TestRenewalsArePaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		devices := new([]Device)
		a, b := heirOf(t, devices), heirOf(t, devices)
		b.cfg.Bind = discardBind{b.cfg.Bind}
		const n = 5000
		for i := range n {
			p, _ := live(t, a, netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}))
			d := Device{Key: p.key}
			b.cfg.Lookup = func(Key) (Device, bool) { return d, true }
			if _, err := b.Import(mustExport(t, a, b, p.key)); err != nil {
				t.Fatal(err)
			}
			if err := b.TakeOver(p.key, netip.AddrPort{}); err != nil {
				t.Fatal(err)
			}
		}
		begin := b.now()
		asked, most, last := 0, 0, 0
		for range 200 {
			time.Sleep(100 * time.Millisecond)
			for q, _ := b.schedule.pop(b.now()); q != nil; q, _ = b.schedule.pop(b.now()) {
				b.tick(q, b.now())
			}
			now := len(b.requests.queue)
			if now > 0 && b.now()-begin < minRenewal {
				t.Fatal("too early")
			}
			most, last = max(most, now-last), now
			asked = now
		}
		if asked != n {
			t.Errorf("%d of %d renewed", asked, n)
		}
		if most > 2*renewalRate/10 {
			t.Errorf("%d in 100 ms", most)
		}
	})
}

func FuzzImport(f *testing.F) {
	a, b, p, _ := exporter(f)
	f.Add(mustExport(f, a, b, p.key))
	two := mustExport(f, a, b, p.key)
	two[1] = 2
	f.Add(append(two, two[exportHeader:]...))
	f.Add([]byte{exportVersion})
	f.Fuzz(func(t *testing.T, m []byte) {
		s, err := decode(m)
		if err != nil {
			return
		}
		again := s.encode()
		if !bytes.Equal(m, again) {
			t.Errorf("%x decodes to %x", m, again)
		}
		b.vault = newVault()
		if k, err := b.Import(m); err == nil {
			b.TakeOver(k, netip.AddrPort{})
			b.Drop(k)
		}
	})
}

func FuzzRaiseFloors(f *testing.F) {
	a, b, p, _ := exporter(f)
	b.Import(mustExport(f, a, b, p.key))
	f.Add(make([]byte, 24))
	f.Fuzz(func(t *testing.T, m []byte) {
		if err := b.RaiseFloors(m); err == nil && len(m)%floorSize != 0 {
			t.Error("taken")
		}
	})
}

// synthetic is n sessions of a.
func synthetic(b *testing.B, n int) (a, heir *Gateway, keys []Key) {
	devices := make(map[Key]Device)
	lookup := func(k Key) (Device, bool) { d, ok := devices[k]; return d, ok }
	a, heir = idle(b), idle(b)
	heir.cfg.Lookup = lookup
	heir.cfg.Bind = discardBind{heir.cfg.Bind}
	for i := range n {
		p, _ := live(b, a, netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}))
		devices[p.key] = Device{Key: p.key, Addresses: p.addresses}
		keys = append(keys, p.key)
	}
	return a, heir, keys
}

func BenchmarkExport(b *testing.B) {
	a, heir, keys := synthetic(b, 1000)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		kp := a.peer(keys[i%1000]).current.Load()
		kp.sealer.given = 0
		if _, err := a.Export(keys[i%1000], heir.Incarnation(), false); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkImport(b *testing.B) {
	a, heir, keys := synthetic(b, 1000)
	exports := make([][]byte, 1000)
	for i, k := range keys {
		exports[i] = mustExport(b, a, heir, k)
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if i%1000 == 0 {
			b.StopTimer()
			heir.vault = newVault()
			b.StartTimer()
		}
		if _, err := heir.Import(exports[i%1000]); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkTakeOver is 10,000 sessions, with one knock each.
func BenchmarkTakeOver(b *testing.B) {
	const n = 10000
	a, heir, keys := synthetic(b, n)
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		for _, k := range keys {
			heir.Drop(k)
			a.peer(k).current.Load().sealer.given = 0
		}
		heir.vault = newVault()
		for _, k := range keys {
			if _, err := heir.Import(mustExport(b, a, heir, k)); err != nil {
				b.Fatal(err)
			}
		}
		b.StartTimer()
		for _, k := range keys {
			if err := heir.TakeOver(k, netip.AddrPort{}); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/n, "µs/session")
}
