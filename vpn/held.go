package vpn

import (
	"container/heap"
	"slices"
	"sync"
	"time"
)

const (
	maxHeld       = 1 << 17           // sessions held for other gateways
	maxKnown      = 4 * maxHeld       // keys that an import may add to
	rememberAfter = 200 * time.Second // what is known of keys that left or came outlives them by 20 s
	maxTransit    = time.Second       // of an export, by which its keys look younger to the importer than they are
)

// vault is what this gateway knows of keys that others have or had: imports that wait for their takeover, and for every
// key that left or came how far its counters were used, so that none is ever used again.
//
//	Import ─► held ─┬─ TakeOver ─► session                     known: from the first export or import of a key
//	                ├─ a newer import of the device ─► erased         until 200 s after it was made
//	                └─ 180 s, Refresh, Close ─► erased
type vault struct {
	mu        sync.Mutex // guards the fields below and what known points to
	held      map[Key]*held
	known     map[keyID]*known
	heldDue   dueHeap[*held]
	knownDue  dueHeap[*known]
	unflushed []*keypair    // whose floor moved since its heir was told
	cleared   time.Duration // when unflushed was last freed of those that no heir can use any more
	closed    bool
}

// held is an import that waits. Its keys are erased when it is let go.
type held struct {
	session
	created [maxExportedPairs]time.Duration // since start
	deadline
}

// known is what is remembered of a key.
type known struct {
	id    keyID
	end   uint64   // above all counters that this gateway was given to use
	floor uint64   // the greatest one that was told
	live  *keypair // that is used here; nil: none
	deadline
}

// expire erases the keypairs that are too old, of which the last one is the oldest, and sets the deadline for the next.
func (h *held) expire(now time.Duration) {
	n := h.n
	for n > 0 && now-h.created[n-1] >= RejectAfterTime {
		n--
	}
	h.keep(n)
}

// keep erases all keypairs but the first n, and sets the deadline for what is left.
func (h *held) keep(n int) {
	for ; h.n > n; h.n-- {
		clear(h.pairs[h.n-1].send[:])
		clear(h.pairs[h.n-1].receive[:])
	}
	if n > 0 {
		h.at = h.created[n-1] + RejectAfterTime
	}
}

// outranks reports whether h is to stay: what was imported is an earlier export, or one of an owner before h's.
func (h *held) outranks(imported *held) bool {
	if h.from == imported.from {
		return h.number >= imported.number
	}
	return h.created[0] > imported.created[0]+maxTransit
}

func newVault() *vault { return &vault{held: make(map[Key]*held), known: make(map[keyID]*known)} }

// put keeps an import instead of the one that is there, or says why not. Previous keys whose counters are not above all
// that were held are left out: gateways before h's had them, too, and the current ones are what matters. next is when to
// sweep.
func (v *vault) put(h *held) (next time.Duration, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	old := v.held[h.device]
	if old != nil && old.outranks(h) {
		return 0, errReplaced
	}
	if v.closed || old == nil && len(v.held) >= maxHeld || len(v.known)+h.n > maxKnown {
		return 0, errFull
	}
	if v.overlaps(&h.pairs[0]) {
		return 0, errOverlap
	}
	if h.n > 1 && v.overlaps(&h.pairs[1]) {
		h.keep(1)
	}
	for i := range h.pairs[:h.n] {
		p := &h.pairs[i]
		k := v.remember(p.id, h.created[i])
		k.end, k.floor = p.part.end(), max(k.floor, p.floor)
	}
	if old != nil {
		v.letGo(old)
	}
	v.held[h.device] = h
	heap.Push(&v.heldDue, h)
	return v.next(), nil
}

// overlaps reports whether counters of a keypair may have been held here before. Under mu.
func (v *vault) overlaps(p *exportedKeys) bool {
	k := v.known[p.id]
	return k != nil && p.part.lo < k.end
}

// remember returns what is known of a key that was made at created. Under mu.
func (v *vault) remember(id keyID, created time.Duration) *known {
	k := v.known[id]
	if k == nil {
		k = &known{id: id, deadline: deadline{at: created + rememberAfter}}
		v.known[id] = k
		heap.Push(&v.knownDue, k)
	} else if at := created + rememberAfter; at > k.at {
		k.at = at
		heap.Fix(&v.knownDue, k.index)
	}
	return k
}

// letGo erases an import. Under mu.
func (v *vault) letGo(h *held) {
	delete(v.held, h.device)
	heap.Remove(&v.heldDue, h.index)
	h.erase()
}

// take returns the import of a device, which is its caller's to erase, with the floors known by now; nil: there is none.
func (v *vault) take(device Key) *held {
	v.mu.Lock()
	defer v.mu.Unlock()
	h := v.held[device]
	if h == nil {
		return nil
	}
	delete(v.held, device)
	heap.Remove(&v.heldDue, h.index)
	for i := range h.pairs[:h.n] {
		if k := v.known[h.pairs[i].id]; k != nil {
			h.pairs[i].floor = max(h.pairs[i].floor, k.floor)
		}
	}
	return h
}

// drop erases the import of a device, if there is one.
func (v *vault) drop(device Key) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if h := v.held[device]; h != nil {
		v.letGo(h)
	}
}

func (v *vault) holds(device Key) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.held[device] != nil
}

// devices are those of which there are imports.
func (v *vault) devices() []Key {
	v.mu.Lock()
	defer v.mu.Unlock()
	devices := make([]Key, 0, len(v.held))
	for k := range v.held {
		devices = append(devices, k)
	}
	return devices
}

// enter notes that kp, whose keys have that name, is used here and has left or come. Its owner's peer.mu is held.
func (v *vault) enter(kp *keypair, id keyID) {
	v.mu.Lock()
	defer v.mu.Unlock()
	k := v.remember(id, kp.created)
	k.end, k.live = max(k.end, kp.sealer.limit.Load()), kp
	kp.opener.raise(k.floor)
}

// retire notes that kp is not used any more.
func (v *vault) retire(kp *keypair) {
	s := kp.share.Load()
	if s == nil {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if k := v.known[s.id]; k != nil && k.live == kp {
		k.live = nil
	}
}

// sweep lets go what is due and returns when to look again; 0: nothing is there.
func (v *vault) sweep(now time.Duration) (next time.Duration) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for len(v.heldDue) > 0 && v.heldDue[0].at <= now {
		h := v.heldDue[0]
		if h.expire(now); h.n == 0 {
			v.letGo(h)
			continue
		}
		heap.Fix(&v.heldDue, h.index)
	}
	for len(v.knownDue) > 0 && v.knownDue[0].at <= now {
		k := heap.Pop(&v.knownDue).(*known)
		delete(v.known, k.id)
	}
	if now-v.cleared >= rememberAfter-RejectAfterTime { // so the last of what is known is in time for the last of these
		v.cleared = now
		v.unflushed = slices.DeleteFunc(v.unflushed, func(kp *keypair) bool { return kp.expired(now) })
	}
	return v.next()
}

// next is the first deadline; 0: there is none. Under mu.
func (v *vault) next() (at time.Duration) {
	if len(v.heldDue) > 0 {
		at = v.heldDue[0].at
	}
	if len(v.knownDue) > 0 {
		at = earliest(at, v.knownDue[0].at)
	}
	return at
}

// clear erases everything.
func (v *vault) clear() {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, h := range v.held {
		h.erase()
	}
	clear(v.held)
	v.closed = true
	v.heldDue, v.unflushed = nil, nil
}

// deadline is a place in a dueHeap.
type deadline struct {
	at    time.Duration // since start
	index int
}

func (d *deadline) place() *deadline { return d }

// dueHeap implements heap.Interface, the earliest deadline first.
type dueHeap[T interface{ place() *deadline }] []T

func (h dueHeap[T]) Len() int           { return len(h) }
func (h dueHeap[T]) Less(i, j int) bool { return h[i].place().at < h[j].place().at }
func (h dueHeap[T]) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].place().index, h[j].place().index = i, j
}

func (h *dueHeap[T]) Push(x any) {
	d := x.(T)
	d.place().index = len(*h)
	*h = append(*h, d)
}

func (h *dueHeap[T]) Pop() any {
	old := *h
	d := old[len(old)-1]
	var none T
	old[len(old)-1] = none
	*h = old[:len(old)-1]
	return d
}
