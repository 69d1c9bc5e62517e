package vpn

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"gatemesh/vpn/vpntest"

	"golang.zx2c4.com/wireguard/conn"
	"pgregory.net/rapid"
)

// holding is one part of one key's counters in use at one gateway.
type holding struct {
	gateway  int
	receiver uint32 // of the key, at the device
	lo       uint64 // of the part
	parent   *holding
	before   *holding // what this run of the gateway held of the key; nil: nothing
	min, max uint64   // counters used
	used     bool
}

// tree is every part of the keys of one session that was ever used, anywhere.
type tree struct {
	t        *rapid.T
	gateways [4]*Gateway
	device   Device
	at       [4]map[uint32]*holding // by receiver index
	held     [4]*parcel
	flying   []*parcel
	all      []*holding
	used     map[[2]uint64]bool // receiver and counter
	given    map[[2]uint64]bool // receiver and beginning of a part
	clock    time.Duration
	last     int // who took over last
}

// parcel is an export on its way.
type parcel struct {
	export []byte
	to     uint64 // incarnation
	target int
	made   time.Duration
	parent map[uint32]*holding
}

// tapBind tells which counters leave.
type tapBind struct {
	conn.Bind
	tap func(receiver uint32, counter uint64)
}

func (b tapBind) Send(messages [][]byte, _ conn.Endpoint) error {
	for _, m := range messages {
		if messageType(m) == typeTransport {
			b.tap(le.Uint32(m[4:]), le.Uint64(m[8:]))
		}
	}
	return nil
}

func (x *tree) start(t *testing.T, i int) {
	g := idle(t)
	g.start = g.start.Add(-x.clock)
	g.Allow(time.Now().Add(time.Hour))
	g.cfg.Bind = tapBind{g.cfg.Bind, func(receiver uint32, counter uint64) { x.sealed(i, receiver, counter) }}
	g.cfg.Lookup = func(k Key) (Device, bool) { return x.device, k == x.device.Key }
	g.cfg.Forward = func(Key, []byte) {}
	x.gateways[i], x.at[i], x.held[i] = g, make(map[uint32]*holding), nil
}

func (x *tree) sealed(i int, receiver uint32, counter uint64) {
	n := [2]uint64{uint64(receiver), counter}
	if x.used[n] {
		x.t.Fatalf("gateway %d used counter %x of key %d again", i, counter, receiver)
	}
	x.used[n] = true
	h := x.at[i][receiver]
	if h == nil {
		x.t.Fatalf("gateway %d seals under key %d, which it does not hold", i, receiver)
	}
	if !h.used {
		h.used, h.min, h.max = true, counter, counter
	}
	h.min, h.max = min(h.min, counter), max(h.max, counter)
}

func (x *tree) hold(i int, receiver uint32, lo uint64, parent *holding) {
	h := &holding{gateway: i, receiver: receiver, lo: lo, parent: parent, before: x.at[i][receiver]}
	x.at[i][receiver] = h
	x.all = append(x.all, h)
}

// begin gives gateway 0 a session with two keypairs.
func (x *tree) begin(t *testing.T) {
	g := x.gateways[0]
	p, _ := live(t, g, netip.MustParseAddr("10.0.0.9"))
	local, _ := g.indices.reserve()
	a, _ := vpntest.NewKey()
	b, _ := vpntest.NewKey()
	kp := newKeypair(p, &keys{send: a, receive: b, local: local, remote: 8}, g.now(), true)
	p.mu.Lock()
	p.install(kp)
	g.indices.put(kp)
	p.mu.Unlock()
	x.device = Device{Key: p.key, Addresses: p.addresses}
	x.hold(0, 7, 0, nil)
	x.hold(0, 8, 0, nil)
}

func (x *tree) export(i, j int, final bool) {
	g := x.gateways[i]
	m, err := g.Export(x.device.Key, x.gateways[j].Incarnation(), final)
	if err != nil {
		return
	}
	s, err := decode(m)
	if err != nil {
		x.t.Fatal(err)
	}
	e := &parcel{export: m, to: s.to, target: j, made: x.clock, parent: make(map[uint32]*holding)}
	for _, q := range s.pairs[:s.n] {
		if n := [2]uint64{uint64(q.remote), q.part.lo}; x.given[n] {
			x.t.Fatalf("gateway %d gave part %x of key %d away again", i, q.part.lo, q.remote)
		} else {
			x.given[n] = true
		}
		e.parent[q.remote] = x.at[i][q.remote]
	}
	x.flying = append(x.flying, e)
}

// arrive imports an export, which may arrive again.
func (x *tree) arrive(n int, again bool) {
	e := x.flying[n]
	if !again {
		x.flying = append(x.flying[:n:n], x.flying[n+1:]...)
	}
	if x.clock-e.made > 20*time.Second {
		return // by its carrier's duty
	}
	_, err := x.gateways[e.target].Import(e.export)
	if err != nil {
		return
	}
	if x.gateways[e.target].Incarnation() != e.to {
		x.t.Fatal("imported for an earlier run")
	}
	x.held[e.target] = e
}

func (x *tree) takeOver(i int) {
	e, g := x.held[i], x.gateways[i]
	x.held[i] = nil
	before := make(map[uint32]part)
	if p := g.peer(x.device.Key); p != nil {
		for _, kp := range [...]*keypair{p.current.Load(), p.previous} {
			if kp != nil {
				before[kp.sealer.remote] = kp.sealer.part
			}
		}
	}
	// Holdings are noted first, because the knocks leave at once.
	old := x.at[i]
	x.at[i] = make(map[uint32]*holding)
	for r, h := range old {
		x.at[i][r] = h
	}
	if e != nil {
		s, _ := decode(e.export)
		for _, q := range s.pairs[:s.n] {
			x.hold(i, q.remote, q.part.lo, e.parent[q.remote])
		}
	}
	if err := g.TakeOver(x.device.Key, netip.AddrPort{}); err != nil {
		x.at[i] = old
		return
	}
	if e == nil {
		x.t.Fatal("took over what was not imported")
	}
	x.last = i
	p := g.peer(x.device.Key)
	for _, kp := range [...]*keypair{p.current.Load(), p.previous} {
		if kp != nil && x.at[i][kp.sealer.remote].lo != kp.sealer.part.lo {
			x.at[i][kp.sealer.remote] = old[kp.sealer.remote]
		}
	}
}

// age lets time pass everywhere.
func (x *tree) age(d time.Duration) {
	x.clock += d
	for _, g := range x.gateways {
		g.start = g.start.Add(-d)
		g.Allow(time.Now().Add(time.Hour))
		now := g.now()
		g.vault.sweep(now)
		for p, _ := g.schedule.pop(now); p != nil; p, _ = g.schedule.pop(now) {
			g.tick(p, now)
		}
	}
}

func (x *tree) step(t *testing.T) {
	i, j := rapid.IntRange(0, 3).Draw(x.t, "i"), rapid.IntRange(0, 3).Draw(x.t, "j")
	g, k := x.gateways[i], x.device.Key
	switch rapid.IntRange(0, 18).Draw(x.t, "step") {
	case 0, 1, 2:
		x.export(i, j, false)
	case 3:
		x.export(i, j, true)
	case 4, 5, 6:
		if n := len(x.flying); n > 0 {
			x.arrive(rapid.IntRange(0, n-1).Draw(x.t, "n"), rapid.Bool().Draw(x.t, "again"))
		}
	case 7, 8, 9:
		x.takeOver(i)
	case 10:
		g.Drop(k)
	case 11:
		g.Mute(k)
	case 12:
		g.Unmute(k)
	case 13:
		x.age(time.Duration(rapid.IntRange(0, 10_000).Draw(x.t, "ms")) * time.Millisecond)
	case 14:
		if rapid.IntRange(0, 3).Draw(x.t, "restart") == 0 {
			g.Close()
			x.start(t, i)
		}
	default: // straight through, from whoever had it last
		x.export(x.last, j, i == 0)
		if n := len(x.flying); n > 0 {
			x.arrive(n-1, rapid.Bool().Draw(x.t, "again"))
			x.takeOver(j)
		}
	}
	for _, g := range x.gateways {
		g.Keepalive(k)
		g.Deliver(k, vpntest.Packet(netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.9"), 17, make([]byte, 8)))
	}
}

// check holds that an heir is above all its owners, a later heir above an earlier one with all that came of it, and what
// a gateway is given again above what it had.
func (x *tree) check() {
	top := make(map[*holding]uint64) // the greatest counter of a holding and its heirs
	for _, h := range x.all {
		for a := h; a != nil && h.used; a = a.parent {
			top[a] = max(top[a], h.max)
		}
	}
	for _, h := range x.all {
		if !h.used {
			continue
		}
		for a := h.parent; a != nil; a = a.parent {
			if a.used && h.min <= a.max {
				x.t.Fatalf("%s is not above its owner %s", h, a)
			}
		}
		if h.before != nil && h.before.used && h.min <= h.before.max {
			x.t.Fatalf("%s is not above %s", h, h.before)
		}
		for _, o := range x.all {
			if o != h && o.parent == h.parent && o.receiver == h.receiver && o.lo < h.lo && h.parent != nil && top[o] >= h.min {
				x.t.Fatalf("%s is not above the earlier heir %s", h, o)
			}
		}
	}
}

func (h *holding) String() string {
	return fmt.Sprintf("gateway %d's part %x (%x to %x) of key %d", h.gateway, h.lo, h.min, h.max, h.receiver)
}

// TestNoHistoryUsesACounterTwice drives real gateways through random trees of exports, retries, duplicates, losses,
// takeovers, returns, restarts and time.
func TestNoHistoryUsesACounterTwice(t *testing.T) {
	taken, deep := 0, 0
	rapid.Check(t, func(rt *rapid.T) {
		x := &tree{t: rt, used: make(map[[2]uint64]bool), given: make(map[[2]uint64]bool)}
		for i := range x.gateways {
			x.start(t, i)
		}
		x.begin(t)
		for range rapid.IntRange(1, 60).Draw(rt, "steps") {
			x.step(t)
		}
		x.check()
		for _, h := range x.all {
			depth := 0
			for a := h.parent; a != nil; a = a.parent {
				depth++
			}
			deep = max(deep, depth)
			if h.used && h.parent != nil {
				taken++
			}
		}
		for _, g := range x.gateways {
			g.Close()
		}
	})
	if taken < 50 || deep < 2 {
		t.Errorf("%d takeovers, up to %d in a row: the histories test nothing", taken, deep)
	}
	t.Logf("%d takeovers, up to %d in a row", taken, deep)
}
