package vpn

import (
	"crypto/rand"
	"errors"
	"sync"
	"sync/atomic"
)

// A receiver index is a slot of the table below twelve random bits, so the reader of a datagram finds its keypair
// with two loads and without a lock. Slots are drawn at random as well: an index says nothing about the number of
// devices, and its old user's late packets do not meet the next one.
//
//	31        20 19     10 9       0
//	│ random tag │  page  │  entry  │
//
// The index of keys that were taken over was drawn by another gateway. Such keypairs are chained in their slot, whoever
// has it, and where even the index is the same, a message is tried under each.
const (
	entryBits = 10
	pageBits  = 10
	slotBits  = entryBits + pageBits
	slotMask  = 1<<slotBits - 1
	entryMask = 1<<entryBits - 1
)

var errIndices = errors.New("receiver indices used up")

// indexTable finds keypairs by receiver index. The zero value is ready.
type indexTable struct {
	pages [1 << pageBits]atomic.Pointer[indexPage]

	mu   sync.Mutex // guards the fields below, what pages reserve, and writing their keypairs and chains
	free []uint32   // slots of pages made so far that are not in use
	made uint32     // pages made so far
}

type indexPage struct {
	keypairs [1 << entryBits]atomic.Pointer[keypair]
	reserved [1 << entryBits]uint32 // index in use, 0: none
}

// get returns the keypair with that index, or nil.
func (t *indexTable) get(index uint32) *keypair {
	page := t.pages[index&slotMask>>entryBits].Load()
	if page == nil {
		return nil
	}
	return page.keypairs[index&entryMask].Load().find(index)
}

// find returns the first keypair with that index from kp on, or nil. kp may be nil.
func (kp *keypair) find(index uint32) *keypair {
	for kp != nil && kp.local != index {
		kp = kp.chain.Load()
	}
	return kp
}

// twin returns another keypair with kp's index, or nil. From the one that get has returned it comes to all of them.
func (kp *keypair) twin() *keypair { return kp.chain.Load().find(kp.local) }

// reserve returns a random index that nobody has; it is never 0.
func (t *indexTable) reserve() (uint32, error) {
	var random [8]byte
	rand.Read(random[:])
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.free) < 1<<entryBits/2 && t.made < 1<<pageBits {
		t.grow()
	}
	n := uint32(len(t.free))
	if n == 0 {
		return 0, errIndices
	}
	i := le.Uint32(random[:]) % n
	slot := t.free[i]
	t.free[i] = t.free[n-1]
	t.free = t.free[:n-1]
	index := le.Uint32(random[4:])&^slotMask | slot
	if index == 0 {
		index = 1 << slotBits
	}
	t.pages[slot>>entryBits].Load().reserved[slot&entryMask] = index
	return index, nil
}

// grow makes another page, so that there is always a choice of slots. Under mu.
func (t *indexTable) grow() {
	t.page(t.made)
	for i := range uint32(1 << entryBits) {
		t.free = append(t.free, t.made<<entryBits|i)
	}
	t.made++
}

// page returns a page, which is made if there is none. Under mu.
func (t *indexTable) page(n uint32) *indexPage {
	page := t.pages[n].Load()
	if page == nil {
		page = new(indexPage)
		t.pages[n].Store(page)
	}
	return page
}

// put publishes a keypair under its index, which it has reserved or another gateway has drawn.
func (t *indexTable) put(kp *keypair) {
	t.mu.Lock()
	defer t.mu.Unlock()
	slot := &t.page(kp.local & slotMask >> entryBits).keypairs[kp.local&entryMask]
	kp.chain.Store(slot.Load())
	slot.Store(kp)
}

// remove takes a keypair out; one that is not there is not missed. Its index stays reserved. A reader that stands on kp
// still finds the way on.
func (t *indexTable) remove(kp *keypair) {
	t.mu.Lock()
	defer t.mu.Unlock()
	page := t.pages[kp.local&slotMask>>entryBits].Load()
	if page == nil {
		return
	}
	at := &page.keypairs[kp.local&entryMask]
	for at.Load() != nil && at.Load() != kp {
		at = &at.Load().chain
	}
	if at.Load() == kp {
		at.Store(kp.chain.Load())
	}
}

// release gives a reserved index back. Releasing it again does nothing, nor does it with an index of another gateway's.
func (t *indexTable) release(index uint32) {
	t.mu.Lock()
	defer t.mu.Unlock()
	slot := index & slotMask
	page := t.pages[slot>>entryBits].Load()
	if page == nil || index == 0 || page.reserved[slot&entryMask] != index {
		return
	}
	page.reserved[slot&entryMask] = 0
	t.free = append(t.free, slot)
}
