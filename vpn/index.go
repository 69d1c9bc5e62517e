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

	mu   sync.Mutex // guards the fields below and all but the keypairs of pages
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
	if kp := page.keypairs[index&entryMask].Load(); kp != nil && kp.local == index {
		return kp
	}
	return nil
}

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
	t.pages[t.made].Store(new(indexPage))
	for i := range uint32(1 << entryBits) {
		t.free = append(t.free, t.made<<entryBits|i)
	}
	t.made++
}

// put publishes a keypair under its reserved index.
func (t *indexTable) put(kp *keypair) {
	t.pages[kp.local&slotMask>>entryBits].Load().keypairs[kp.local&entryMask].Store(kp)
}

// release gives an index back, published or not. Releasing it again does nothing.
func (t *indexTable) release(index uint32) {
	t.mu.Lock()
	defer t.mu.Unlock()
	slot := index & slotMask
	page := t.pages[slot>>entryBits].Load()
	if page == nil || index == 0 || page.reserved[slot&entryMask] != index {
		return
	}
	page.keypairs[slot&entryMask].Store(nil)
	page.reserved[slot&entryMask] = 0
	t.free = append(t.free, slot)
}
