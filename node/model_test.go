package node

import (
	"container/heap"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"gatemesh/cluster"
)

var histories = flag.Int("model.histories", 250, "histories of TestClaimHistories")

// The model is one device and a few gateways, on a clock of its own. The session tables and the rules of claims are
// the real ones; the engine, the client and what lies between them are as small as the rules allow.

const (
	modelParts  = 32
	modelWindow = 64
	modelHelp   = 20 * time.Second  // from the healing on, if the client's gateway knows its keys: rarely it gives way to one with older keys and a faster clock, and the client notices by itself 15 s after it said something
	modelRest   = 40 * time.Second  // from the healing on: two attempts of the client's own to find a gateway
	modelLife   = 180 * time.Second // of keys
	ms          = time.Millisecond
)

type model struct {
	rnd     *rand.Rand
	now     time.Duration
	queue   modelQueue
	order   int
	gws     []*modelGateway
	linked  map[[2]int]bool
	reach   []bool // does the device hear gateway i, and it the device?
	loss    float64
	used    map[[2]uint64]int // (key, counter) ► gateway
	keys    uint64            // made so far
	born    map[uint64]time.Duration
	client  modelClient
	trace   []string
	broken  string
	tracing bool
}

type modelEvent struct {
	at    time.Duration
	order int
	fn    func()
}

type modelQueue []modelEvent

func (q modelQueue) Len() int { return len(q) }
func (q modelQueue) Less(i, j int) bool {
	return q[i].at < q[j].at || q[i].at == q[j].at && q[i].order < q[j].order
}
func (q modelQueue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *modelQueue) Push(x any)   { *q = append(*q, x.(modelEvent)) }
func (q *modelQueue) Pop() any {
	old := *q
	x := old[len(old)-1]
	*q = old[:len(old)-1]
	return x
}

var modelDevice = cluster.Key{7}

// modelKey is a keypair at one gateway: the counters [next, end) of its part are its own to send, and exports come
// from above them.
type modelKey struct {
	next, end uint64 // of part 0
	size      uint64
	exports   uint64
	lo, hi    uint64
	imported  bool
	received  map[uint64]bool
}

func newModelKey(lo, hi uint64, imported bool) *modelKey {
	size := (hi - lo) / modelParts
	return &modelKey{next: lo, end: lo + size, size: size, lo: lo, hi: hi, imported: imported, received: map[uint64]bool{}}
}

// modelExport is an export on its way or held: for each key its part.
type modelExport struct {
	boot  int // for which run of the heir
	parts map[uint64][2]uint64
}

type modelGateway struct {
	m       *model
	i       int
	node    cluster.Node
	boot    int
	up      bool
	skew    time.Duration
	stamped uint64
	table   *cluster.Sessions
	stance  stance // explicit one; away: as the row says
	alive   []bool
	fallen  []bool

	keys       map[uint64]*modelKey
	current    uint64
	next       uint64 // as responder, not confirmed
	known      bool   // the engine has told of a session
	quiet      bool
	muteUntil  time.Duration // heard after it is told; 0: not muted
	initiating uint64        // handshake under way
	initiated  time.Duration
	heard      time.Duration
	held       *modelExport
	ends       map[uint64]uint64
	heir       [2]int // gateway + 1 and run that has the last export
	handedTo   int    // gateway + 1 that took a final one
	handedAt   time.Duration
}

type modelClient struct {
	keys      map[uint64]map[uint64]bool // counters accepted, by key
	highest   map[uint64]uint64
	current   uint64
	next      uint64
	endpoint  int
	sent      uint64 // counter of its packets
	unheard   time.Duration
	waiting   bool
	handshake time.Duration // when it sent an initiation last
	pings     map[uint64]time.Duration
	answered  int
	lost      int
}

func newModel(seed uint64, n int) *model {
	m := &model{
		rnd: rand.New(rand.NewPCG(seed, 1)), linked: map[[2]int]bool{}, used: map[[2]uint64]int{}, born: map[uint64]time.Duration{},
		reach: make([]bool, n), now: time.Hour,
	}
	m.client = modelClient{keys: map[uint64]map[uint64]bool{}, highest: map[uint64]uint64{}, pings: map[uint64]time.Duration{}, handshake: -time.Hour}
	for i := range n {
		g := &modelGateway{m: m, i: i, node: cluster.Node{byte(i + 1)}, skew: time.Duration(m.rnd.IntN(60)-30) * time.Second}
		m.gws = append(m.gws, g)
		m.reach[i] = true
	}
	for _, g := range m.gws {
		g.start()
	}
	m.after(0, m.antiEntropy)
	m.after(0, m.clientTick)
	return m
}

func (m *model) after(d time.Duration, fn func()) {
	m.order++
	heap.Push(&m.queue, modelEvent{m.now + d, m.order, fn})
}

func (m *model) logf(format string, args ...any) {
	if m.tracing {
		m.trace = append(m.trace, fmt.Sprintf("%9v ", m.now-time.Hour)+fmt.Sprintf(format, args...))
	}
}

// run lets time pass.
func (m *model) run(d time.Duration) {
	end := m.now + d
	for len(m.queue) > 0 && m.queue[0].at <= end {
		e := heap.Pop(&m.queue).(modelEvent)
		m.now = max(m.now, e.at)
		e.fn()
	}
	m.now = end
}

// net delivers something between two ends, or loses it, or does so twice.
func (m *model) net(fn func()) {
	if m.rnd.Float64() < m.loss {
		return
	}
	m.after(time.Duration(1+m.rnd.IntN(40))*ms, fn)
	if m.rnd.Float64() < m.loss/4 {
		m.after(time.Duration(1+m.rnd.IntN(3000))*ms, fn)
	}
}

func pairOf(a, b int) [2]int { return [2]int{min(a, b), max(a, b)} }

func (g *modelGateway) linkedTo(b int) bool {
	return g.m.linked[pairOf(g.i, b)] && g.up && g.m.gws[b].up
}

// start begins a run of a gateway.
func (g *modelGateway) start() {
	m := g.m
	g.boot++
	g.up, g.stance = true, away
	g.alive, g.fallen = make([]bool, len(m.gws)), make([]bool, len(m.gws))
	g.keys, g.current, g.next, g.known, g.quiet, g.muteUntil = map[uint64]*modelKey{}, 0, 0, false, false, 0
	g.initiating, g.held, g.ends, g.heir = 0, nil, map[uint64]uint64{}, [2]int{}
	g.table = cluster.NewSessions(g.node, g.stamp(), slog.New(slog.DiscardHandler))
	g.table.Subscribe(func(s cluster.Session) {
		g.settle()
		if owner := int(s.Owner[0]) - 1; s.Owner != g.node && !s.Released && g.fallen[owner] && !g.linkedTo(owner) {
			g.orphan(owner)
		}
	})
	for b := range m.gws {
		if b != g.i && m.gws[b].up {
			m.gws[b].fall(g.i) // the run that it knew
			m.link(g.i, b)
		}
	}
}

func (g *modelGateway) stamp() uint64 {
	wall := uint64((g.m.now+g.skew)/ms) << 16
	g.stamped = max(g.stamped+1, wall)
	return g.stamped
}

// link joins two gateways: each learns of the other, and they tell each other all.
func (m *model) link(a, b int) {
	if !m.gws[a].up || !m.gws[b].up {
		return
	}
	m.linked[pairOf(a, b)] = true
	for _, at := range [2][2]int{{a, b}, {b, a}} {
		g, o := m.gws[at[0]], at[1]
		m.after(20*ms, func() {
			if !g.linkedTo(o) {
				return
			}
			g.alive[o] = true
			g.pull(o)
			g.abandon(o)
			if g.fallen[o] {
				g.fallen[o] = false
				g.recallAll()
			}
			g.look()
		})
	}
}

// cut breaks a link. Both ends take the other for dead some time later, unless it is back.
func (m *model) cut(a, b int, verdict time.Duration) {
	if !m.linked[pairOf(a, b)] {
		return
	}
	m.linked[pairOf(a, b)] = false
	for _, at := range [2][2]int{{a, b}, {b, a}} {
		g, o, boot := m.gws[at[0]], at[1], m.gws[at[0]].boot
		m.after(verdict+time.Duration(m.rnd.IntN(30))*ms, func() {
			if g.boot == boot && !g.linkedTo(o) {
				g.fall(o)
			}
		})
	}
}

// fall is the verdict on another gateway.
func (g *modelGateway) fall(o int) {
	if !g.up || !g.alive[o] {
		return
	}
	g.alive[o], g.fallen[o] = false, true
	g.m.logf("%d takes %d for dead", g.i, o)
	if g.stance == handed && g.handedTo == o+1 {
		if heirs := cluster.Heirs(modelDevice, g.node, g.weighted()); len(heirs) > 0 {
			g.turn(serving, resume)
			g.drain()
		} else {
			g.turn(serving, recall)
		}
	}
	g.orphan(o)
	g.look()
}

func (m *model) kill(i int) {
	m.logf("%d dies", i)
	g := m.gws[i]
	if !g.up {
		return
	}
	g.up = false
	for b := range m.gws {
		if b != i {
			m.linked[pairOf(i, b)] = true // so that the cut is seen
			m.cut(i, b, 5*ms)
		}
	}
}

// wrote pushes the table.
func (g *modelGateway) wrote() {
	for b := range g.m.gws {
		if b != g.i {
			o := g.m.gws[b]
			g.m.net(func() { o.pull(g.i) })
		}
	}
}

func (g *modelGateway) pull(from int) {
	if !g.linkedTo(from) {
		return
	}
	for part, err := range g.m.gws[from].table.Delta(g.table.Digest()) {
		if err != nil {
			panic(err)
		}
		if _, err := g.table.Merge(part); err != nil {
			panic(err)
		}
	}
}

func (m *model) antiEntropy() {
	for _, g := range m.gws {
		for b := range m.gws {
			if b != g.i {
				g.pull(b)
			}
		}
	}
	m.after(5*time.Second, m.antiEntropy)
}

// The node's half, as in sessions.go, takeover.go and handover.go.

func (g *modelGateway) stands() stance {
	if g.stance != away {
		return g.stance
	}
	if own, ok := g.table.Own(modelDevice); ok && !own.Released {
		return serving
	}
	return away
}

func (g *modelGateway) settle() {
	row, known := g.table.Greatest(modelDevice)
	g.turn(g.stands().after(g.node, row, known))
}

func (g *modelGateway) turn(s stance, mv move) {
	g.stance = s
	if s == serving {
		g.stance = away
	}
	switch mv {
	case stay:
	case mute:
		g.m.logf("%d is muted", g.i)
		g.quiet, g.muteUntil = true, g.m.now+600*ms
	case drop:
		row, _ := g.table.Greatest(modelDevice)
		g.m.logf("%d drops, because %d has epoch %x, claimed %v", g.i, row.Owner[0]-1, row.Epoch, row.Claimed)
		g.forget(true)
	case recall, resume:
		own, ok := g.table.Own(modelDevice)
		if !ok {
			return
		}
		g.m.logf("%d recalls", g.i)
		g.table.Claim([]cluster.Session{own}, g.stamp())
		g.wrote()
		if mv == resume {
			g.quiet, g.muteUntil = false, 0
			return
		}
		g.initiate()
	}
}

// confirmed is the engine's event.
func (g *modelGateway) confirmed() {
	g.known = true
	own, _ := g.table.Own(modelDevice)
	own.Device, own.Released, own.Handshake = modelDevice, false, time.Unix(1e9, 0)
	own.Index, own.Previous = uint32(g.current), own.Index
	boot := g.boot
	g.m.after(0, func() {
		if g.boot != boot || !g.up {
			return
		}
		g.table.Confirm(own, g.stamp())
		own, _ := g.table.Own(modelDevice)
		g.m.logf("%d confirms, epoch %x", g.i, own.Epoch)
		g.stance = away
		g.wrote()
		g.export()
	})
}

func (g *modelGateway) forget(dropped bool) {
	known := g.known
	g.keys, g.current, g.next, g.quiet, g.muteUntil, g.initiating, g.known = map[uint64]*modelKey{}, 0, 0, false, 0, 0, false
	if !known {
		return
	}
	boot := g.boot
	g.m.after(0, func() { // Gone
		if g.boot != boot || !g.up || g.known {
			return
		}
		own, ok := g.table.Own(modelDevice)
		owner, owned := g.table.Owner(modelDevice)
		g.stance, g.heir = away, [2]int{}
		if ok {
			own.Released = true
			g.table.Put(own)
			g.wrote()
		}
		if owned && owner.Owner == g.node && dropped {
			g.turn(serving, recall)
		}
	})
}

func (g *modelGateway) weighted() []cluster.Weighted {
	out := []cluster.Weighted{{Node: g.node, Capacity: 1}}
	for b, ok := range g.alive {
		if ok {
			out = append(out, cluster.Weighted{Node: g.m.gws[b].node, Capacity: 1})
		}
	}
	return out
}

// look exports to another heir, if there is one.
func (g *modelGateway) look() {
	heirs := cluster.Heirs(modelDevice, g.node, g.weighted())
	if len(heirs) > 0 && g.stands() == serving {
		if h := int(heirs[0][0]); g.heir != [2]int{h, g.m.gws[h-1].boot} {
			g.export()
		}
	}
}

func (g *modelGateway) export() {
	heirs := cluster.Heirs(modelDevice, g.node, g.weighted())
	if len(heirs) == 0 || g.stands() != serving {
		return
	}
	h := g.m.gws[int(heirs[0][0])-1]
	e := g.cut(h.boot)
	if e == nil {
		return
	}
	g.m.net(func() {
		if g.linkedTo(h.i) && h.keep(e) {
			g.m.net(func() { g.heir = [2]int{h.i + 1, e.boot} })
		}
	})
}

// drain hands over for good.
func (g *modelGateway) drain() {
	heirs := cluster.Heirs(modelDevice, g.node, g.weighted())
	if len(heirs) == 0 || g.stands() != serving {
		return
	}
	h := g.m.gws[int(heirs[0][0])-1]
	e := g.cut(h.boot)
	if e == nil {
		return
	}
	g.m.logf("%d drains to %d", g.i, h.i)
	g.quiet, g.stance, g.handedTo, g.muteUntil = true, handed, 0, g.m.now+200*ms
	acked := false
	g.m.net(func() {
		if g.linkedTo(h.i) && h.keep(e) {
			h.succeed()
			g.m.net(func() { acked, g.handedTo, g.handedAt = true, h.i+1, g.m.now })
		}
	})
	boot := g.boot
	g.m.after(time.Second, func() {
		if acked || g.boot != boot || g.stance != handed {
			return
		}
		g.m.logf("%d resumes", g.i)
		g.stance, g.quiet, g.muteUntil = away, false, 0
		g.settle()
	})
}

func (g *modelGateway) orphan(dead int) {
	for rank, h := range cluster.Heirs(modelDevice, g.m.gws[dead].node, g.weighted()) {
		if h != g.node {
			continue
		}
		boot := g.boot
		g.m.after(time.Duration(rank)*rankDelay, func() {
			owner, ok := g.table.Owner(modelDevice)
			if g.up && g.boot == boot && ok && owner.Owner == g.m.gws[dead].node && !g.alive[dead] && !g.linkedTo(dead) {
				g.succeed()
			}
		})
	}
}

func (g *modelGateway) succeed() {
	if g.held == nil {
		if g.stands() == away {
			g.stance = calling
		}
		g.initiate()
		return
	}
	s, _ := g.table.Owner(modelDevice)
	s.Device, s.Handshake = modelDevice, time.Unix(1e9, 0)
	g.table.Claim([]cluster.Session{s}, g.stamp())
	g.wrote()
	g.stance = away
	g.takeOver()
	for _, d := range nudges {
		g.m.after(d, g.keepalive)
	}
	g.m.after(exportAfter, g.export)
}

func (g *modelGateway) abandon(o int) {
	if owner, ok := g.table.Owner(modelDevice); g.stance == calling && ok && owner.Owner == g.m.gws[o].node {
		g.stance = away
		if g.current == 0 {
			g.forget(true)
		}
	}
}

func (g *modelGateway) recallAll() {
	if owner, ok := g.table.Owner(modelDevice); ok && owner.Owner == g.node {
		g.keepalive()
		for _, d := range nudges {
			g.m.after(d, g.keepalive)
		}
	}
}

// The engine's half.

func (g *modelGateway) cut(boot int) *modelExport {
	e := &modelExport{boot: boot, parts: map[uint64][2]uint64{}}
	if g.current == 0 || g.quiet {
		return nil
	}
	for id, k := range g.keys {
		if id == g.next || k.exports+1 >= modelParts || k.size < modelParts {
			continue
		}
		k.exports++
		lo := k.lo + k.exports*k.size
		e.parts[id] = [2]uint64{lo, lo + k.size}
		g.ends[id] = max(g.ends[id], k.end)
	}
	if _, ok := e.parts[g.current]; !ok {
		return nil
	}
	return e
}

func (g *modelGateway) keep(e *modelExport) bool {
	if e.boot != g.boot {
		return false
	}
	for id, p := range e.parts {
		if p[0] < g.ends[id] {
			return false
		}
	}
	for id, p := range e.parts {
		g.ends[id] = p[1]
	}
	g.held = e
	g.m.logf("%d holds an export", g.i)
	return true
}

func (g *modelGateway) takeOver() {
	e := g.held
	g.held = nil
	fresh := false
	for id, p := range e.parts {
		if g.m.now-g.m.born[id] > 180*time.Second {
			continue
		}
		g.keys[id] = newModelKey(p[0], p[1], true)
		g.current = max(g.current, id)
		fresh = true
	}
	if !fresh {
		g.initiate()
		return
	}
	g.m.logf("%d takes over", g.i)
	g.known, g.quiet, g.muteUntil = true, false, 0
	g.heard = g.m.now
	g.keepalive()
	boot, current := g.boot, g.current
	g.m.after(time.Second+time.Duration(g.m.rnd.IntN(2000))*ms, func() { g.renew(boot, current) })
}

// renew is the paced rekey after a takeover.
func (g *modelGateway) renew(boot int, current uint64) {
	switch {
	case g.boot != boot || g.current != current:
	case g.quiet:
		g.m.after(time.Second, func() { g.renew(boot, current) })
	default:
		g.initiate()
	}
}

// keepalive sends an empty message under each key, older ones first.
func (g *modelGateway) keepalive() {
	ids := make([]uint64, 0, 2)
	for id := range g.keys {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	for _, id := range ids {
		if id != g.next {
			g.send(id, 0)
		}
	}
}

func (g *modelGateway) send(id, reply uint64) {
	k := g.keys[id]
	if !g.up || k == nil || g.quiet || k.next >= k.end || g.m.now-g.m.born[id] > 180*time.Second {
		return
	}
	counter := k.next
	k.next++
	if by, twice := g.m.used[[2]uint64{id, counter}]; twice {
		g.m.broken = fmt.Sprintf("counter %d of key %d was sent by %d and %d", counter, id, by, g.i)
	}
	g.m.used[[2]uint64{id, counter}] = g.i
	g.m.net(func() { g.m.clientReceives(g.i, id, counter, reply) })
}

func (g *modelGateway) initiate() {
	if !g.up {
		return
	}
	g.quiet, g.muteUntil = false, 0
	if g.initiating != 0 && g.m.now-g.initiated < 5*time.Second {
		return
	}
	g.m.keys++
	id := g.m.keys
	g.initiating, g.initiated = id, g.m.now
	boot := g.boot
	g.m.logf("%d initiates key %d", g.i, id)
	g.m.net(func() { g.m.clientAnswers(g.i, boot, id) })
	g.m.after(5*time.Second+time.Duration(g.m.rnd.IntN(300))*ms, func() { // retransmission
		if g.boot == boot && g.initiating == id && !g.quiet && g.up {
			g.initiating = 0
			if g.stands() != away {
				g.initiate()
			}
		}
	})
}

// completed: the response to our initiation came.
func (g *modelGateway) completed(boot int, id uint64) {
	if !g.up || g.boot != boot || g.initiating != id {
		return
	}
	g.initiating = 0
	g.install(id)
	g.current = id
	g.quiet, g.muteUntil = false, 0
	g.m.logf("%d has key %d as initiator", g.i, id)
	g.heard = g.m.now
	g.send(id, 0)
	g.confirmed()
}

func (g *modelGateway) install(id uint64) {
	for old := range g.keys {
		if old != g.current {
			delete(g.keys, old)
		}
	}
	g.keys[id] = newModelKey(0, 1<<60, false)
}

// answer is a client's initiation, which the table says is to be answered here.
func (g *modelGateway) answer(hops int) {
	if !g.up {
		return
	}
	owner, owned := g.table.Owner(modelDevice)
	if o := int(owner.Owner[0]) - 1; owned && o != g.i && g.alive[o] && hops == 0 {
		g.m.net(func() {
			if g.linkedTo(o) {
				g.m.gws[o].answer(1)
			}
		})
		return
	}
	g.m.keys++
	id, boot := g.m.keys, g.boot
	g.install(id)
	g.m.born[id] = g.m.now
	g.next = id
	g.m.net(func() {
		if g.m.reach[g.i] {
			g.m.clientInitiated(g.i, boot, id)
		}
	})
}

// receives opens a packet of the client.
func (g *modelGateway) receives(id, counter, ping uint64, hops int) {
	if !g.up {
		return
	}
	k := g.keys[id]
	if k == nil {
		g.stray(id, counter, ping, hops)
		return
	}
	if k.received[counter] {
		return
	}
	k.received[counter] = true
	g.heard = g.m.now
	if id == g.next {
		g.next, g.current = 0, id
		g.quiet, g.muteUntil = false, 0
		g.m.logf("%d has key %d as responder", g.i, id)
		g.confirmed()
	} else if k.imported && id == g.current {
		k.imported = false
		g.m.logf("%d hears the device under imported keys", g.i)
		if g.stands().confirmed(true) {
			g.confirmed()
		}
	}
	if g.muteUntil != 0 && g.m.now >= g.muteUntil {
		g.muteUntil = 1<<63 - 1
		g.hearsAgain()
	}
	if ping != 0 && g.current != 0 {
		g.send(g.current, ping)
	}
}

// hearsAgain: the device still talks to this gateway though another has it.
func (g *modelGateway) hearsAgain() {
	is := g.stands()
	if is == handed {
		g.muteUntil = g.m.now + 100*ms
		if g.handedTo == 0 {
			return
		}
	}
	next, m := is.heard(g.m.now-g.handedAt, false)
	if o := g.handedTo - 1; m == callAgain {
		g.m.net(func() {
			if h := g.m.gws[o]; g.linkedTo(o) && h.stands() == serving {
				h.keepalive()
			}
		})
	}
	g.turn(next, m)
}

// stray is a packet under a key that is not here.
func (g *modelGateway) stray(id, counter, ping uint64, hops int) {
	owner, ok := g.table.ByIndex(uint32(id))
	if o := int(owner.Owner[0]) - 1; !ok || hops > 0 && o != g.i {
		return
	}
	if o := int(owner.Owner[0]) - 1; o == g.i {
		if g.stands() == serving {
			g.initiate()
		}
	} else if g.alive[o] {
		g.m.net(func() {
			if g.linkedTo(o) {
				g.m.gws[o].receives(id, counter, ping, 1)
			}
		})
	}
}

// The client.

// shaking says whether the client has given its gateway up and knocks, or is about to.
func (c *modelClient) shaking(now time.Duration) bool {
	return now-c.handshake < 30*time.Second || c.waiting && now-c.unheard > 5*time.Second
}

func (m *model) clientReceives(from int, id, counter, reply uint64) {
	c := &m.client
	seen := c.keys[id]
	if !m.reach[from] || seen == nil || seen[counter] || counter+modelWindow < c.highest[id] {
		return
	}
	seen[counter] = true
	c.highest[id] = max(c.highest[id], counter)
	c.endpoint, c.waiting = from, false
	if id == c.next {
		c.current, c.next = id, 0
		m.trim()
	}
	if _, ok := c.pings[reply]; ok {
		delete(c.pings, reply)
		c.answered++
	}
}

// trim keeps the current, the previous and the next key.
func (m *model) trim() {
	c := &m.client
	previous := uint64(0)
	for id := range c.keys {
		if id < c.current {
			previous = max(previous, id)
		}
	}
	for id := range c.keys {
		if id != previous && id != c.current && id != c.next {
			delete(c.keys, id)
			delete(c.highest, id)
		}
	}
}

// clientAnswers answers an initiation of a gateway, which its client follows.
func (m *model) clientAnswers(from, boot int, id uint64) {
	c := &m.client
	if !m.reach[from] || id <= c.next || id <= c.current {
		return
	}
	c.endpoint, c.next = from, id
	c.keys[id] = map[uint64]bool{}
	m.born[id] = m.now
	m.trim()
	g := m.gws[from]
	m.net(func() {
		if m.reach[from] {
			g.completed(boot, id)
		}
	})
}

// clientInitiated: the response to the client's initiation came.
func (m *model) clientInitiated(from, boot int, id uint64) {
	c := &m.client
	if id <= c.current {
		return
	}
	c.current, c.next, c.endpoint, c.waiting = id, 0, from, false
	c.keys[id] = map[uint64]bool{}
	m.trim()
	m.clientSends(0)
}

func (m *model) clientSends(ping uint64) {
	c := &m.client
	c.sent++
	id, counter, to := c.current, c.sent, c.endpoint
	if id == 0 || m.now-m.born[id] > 180*time.Second {
		return
	}
	m.net(func() {
		if m.reach[to] {
			m.gws[to].receives(id, counter, ping, 0)
		}
	})
}

// clientTick is a ping a second, and the client's own handshakes.
func (m *model) clientTick() {
	c := &m.client
	defer m.after(time.Duration(500+m.rnd.IntN(1000))*ms, m.clientTick)
	for p, at := range c.pings {
		if m.now-at > 2*time.Second {
			delete(c.pings, p)
			c.lost++
		}
	}
	if !c.waiting {
		c.waiting, c.unheard = true, m.now
	}
	old := c.current == 0 || m.now-m.born[c.current] > 120*time.Second
	if (old || m.now-c.unheard > 15*time.Second) && m.now-c.handshake > 5*time.Second {
		c.handshake = m.now
		to := c.endpoint
		m.logf("client knocks at %d", to)
		m.net(func() {
			if m.reach[to] {
				m.gws[to].answer(0)
			}
		})
	}
	m.clientSends(c.sent + 1)
	c.pings[c.sent] = m.now
}

// expire erases keys that are too old, as the engine's sweeper, and lets a serving gateway without keys go.
func (m *model) expire() {
	for _, g := range m.gws {
		for id := range g.keys {
			if m.now-m.born[id] > 180*time.Second {
				delete(g.keys, id)
				if id == g.current {
					g.current = 0
				}
			}
		}
		if g.up && g.known && len(g.keys) == 0 && g.initiating == 0 {
			g.forget(false)
			g.current = 0
		}
	}
}

// disturb does one thing that may happen.
func (m *model) disturb(what, a, b int) {
	n := len(m.gws)
	a %= n
	b = (a + 1 + b%(n-1)) % n
	switch what {
	case 0:
		m.kill(a)
	case 1:
		if !m.gws[a].up {
			m.logf("%d starts", a)
			m.gws[a].start()
		}
	case 2:
		m.logf("%d and %d are cut", a, b)
		m.cut(a, b, time.Duration(600+m.rnd.IntN(400))*ms)
	case 3:
		m.logf("%d and %d meet", a, b)
		m.link(a, b)
	case 4:
		m.logf("%d is cut off", a)
		for o := range n {
			if o != a {
				m.cut(a, o, time.Duration(600+m.rnd.IntN(400))*ms)
			}
		}
	case 5:
		for o := range n {
			if o != a {
				m.link(a, o)
			}
		}
	case 6:
		m.reach[a] = !m.reach[a]
		m.logf("the device reaches %d: %v", a, m.reach[a])
	case 7:
		m.gws[a].drain()
	case 8: // the owner dies
		if owner, ok := m.gws[a].table.Owner(modelDevice); ok {
			m.kill(int(owner.Owner[0]) - 1)
		}
	}
	m.expire()
}

// rest heals everything, lets time pass and says what is wrong then.
func (m *model) rest() string {
	m.loss = 0
	at := m.gws[m.client.endpoint] // if it knows the client's keys, it or who has claimed the device helps, not the client's own timers
	known := at.up && at.keys[m.client.current] != nil && !m.client.shaking(m.now)
	for i, g := range m.gws {
		m.reach[i] = true
		if !g.up {
			g.start()
		}
	}
	for a := range m.gws {
		for b := range a {
			if !m.linked[pairOf(a, b)] {
				m.link(a, b)
			}
		}
	}
	m.client.answered = 0
	for begin := m.now; known && m.client.answered == 0; m.run(100 * ms) {
		if m.now-begin > modelHelp {
			return fmt.Sprintf("the client is without an answer %v after the healing", modelHelp)
		}
	}
	for range modelRest / (5 * time.Second) {
		m.run(5 * time.Second)
		m.expire()
	}
	m.client.lost, m.client.answered = 0, 0
	m.run(20 * time.Second)
	lost, answered := m.client.lost, m.client.answered
	for range modelLife / (5 * time.Second) { // what is muted goes with the next handshake or with its keys
		if m.parted() == "" {
			break
		}
		m.run(5 * time.Second)
		m.expire()
	}
	if wrong := m.parted(); wrong != "" {
		return wrong
	}
	if lost > 1 || answered < 10 { // a handshake may cost one
		return fmt.Sprintf("%d pings lost and %d answered at rest", lost, answered)
	}
	return m.broken
}

// parted says where the gateways and the client do not agree on the owner and its keys.
func (m *model) parted() string {
	owner, ok := m.gws[0].table.Owner(modelDevice)
	if !ok {
		return fmt.Sprintf("no owner after %v", m.now)
	}
	for _, g := range m.gws {
		if o, ok := g.table.Owner(modelDevice); !ok || o != owner {
			return fmt.Sprintf("%d says that the owner is %v, %d says %v", g.i, o.Owner[0], 0, owner.Owner[0])
		}
		if g.node != owner.Owner && (g.current != 0 || g.stands() != away) {
			return fmt.Sprintf("%d has keys and stance %d, but %d is the owner", g.i, g.stands(), owner.Owner[0]-1)
		}
	}
	o := m.gws[owner.Owner[0]-1]
	if k := o.keys[o.current]; owner.Claimed && (k == nil || k.imported) { // its own keys need no confirmation
		return fmt.Sprintf("the claim of %d was not confirmed after %v", o.i, m.now)
	}
	if m.client.endpoint != o.i || m.client.current != o.current || o.quiet {
		return fmt.Sprintf("the client is at %d with key %d, the owner %d has %d, quiet %v", m.client.endpoint, m.client.current, o.i, o.current, o.quiet)
	}
	return ""
}

// history runs one history that rapid or a seed draws.
func history(seed uint64, tracing bool, draw func(label string, n int) int) (*model, string) {
	m := newModel(seed, 3+draw("gateways", 3))
	m.tracing = tracing
	m.run(5 * time.Second)
	m.loss = []float64{0, 0.05, 0.2}[draw("loss", 3)]
	for range 1 + draw("events", 20) {
		m.disturb(draw("what", 9), draw("a", 5), draw("b", 5))
		m.run(time.Duration([]int{1, 30, 150, 400, 900, 3000, 20000}[draw("pause", 7)]) * ms)
		if m.broken != "" {
			return m, m.broken
		}
	}
	return m, m.rest()
}

// Across histories of exports, lost and repeated messages, changes of heir, wrong verdicts, splits, deaths, restarts and
// returns no counter is used twice, and the session comes to rest at one owner.
func TestClaimHistories(t *testing.T) {
	for seed := range uint64(*histories) {
		rnd := rand.New(rand.NewPCG(seed, 2))
		draw := func(_ string, n int) int { return rnd.IntN(n) }
		if _, wrong := history(seed, false, draw); wrong != "" {
			rnd = rand.New(rand.NewPCG(seed, 2))
			m, _ := history(seed, true, draw)
			for _, line := range m.trace[max(0, len(m.trace)-150):] {
				t.Log(line)
			}
			t.Fatalf("seed %d: %s", seed, wrong)
		}
	}
}

// The same, with histories that rapid makes small.
func TestClaimLaws(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		seed := rapid.Uint64Range(0, 1000).Draw(t, "seed")
		draw := func(label string, n int) int { return rapid.IntRange(0, n-1).Draw(t, label) }
		if m, wrong := history(seed, true, draw); wrong != "" {
			for _, line := range m.trace[max(0, len(m.trace)-80):] {
				t.Log(line)
			}
			t.Fatal(wrong)
		}
	})
}
