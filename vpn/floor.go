package vpn

import (
	"fmt"
	"time"
)

// floor is the first counter that the heir of a key shall accept: a key's name and the counter, little endian.
type floor struct {
	id    keyID
	first uint64
}

const floorSize = 16 + 8

// Floors calls fn with what changed since the last call, in chunks of at most size bytes: for the keys that were
// exported to incarnation to, the first counter that their heir shall accept. The chunks are no secrets of worth but
// are sent like exports. fn must not keep the chunk.
func (g *Gateway) Floors(to uint64, size int, fn func(chunk []byte)) {
	chunk := make([]byte, 0, max(size, floorSize))
	for _, f := range g.vault.flush(to, g.now()) {
		if len(chunk)+floorSize > cap(chunk) {
			fn(chunk)
			chunk = chunk[:0]
		}
		chunk = append(chunk, f.id[:]...)
		chunk = le.AppendUint64(chunk, f.first)
	}
	if len(chunk) > 0 {
		fn(chunk)
	}
}

// RaiseFloors takes a chunk of Floors. What it says of keys that are not held is ignored.
func (g *Gateway) RaiseFloors(chunk []byte) error {
	if len(chunk)%floorSize != 0 {
		return fmt.Errorf("raise floors: %w", errMalformed)
	}
	for i := 0; i < len(chunk); i += floorSize {
		if le.Uint64(chunk[i+16:]) > RejectAfterMessages {
			return fmt.Errorf("raise floors: %w", errMalformed)
		}
	}
	g.vault.raise(chunk)
	return nil
}

// accepted notes that messages were accepted under kp. The packet path calls it once per run of messages; about once a
// second and session it comes as far as a lock.
func (v *vault) accepted(kp *keypair) {
	s := kp.share.Load()
	if s == nil || s.to == 0 || !s.flushed.Load() || !s.flushed.Swap(false) {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.unflushed = append(v.unflushed, kp)
}

// flush returns the floors of keypairs that were exported to that incarnation and have accepted messages since.
func (v *vault) flush(to uint64, now time.Duration) (floors []floor) {
	v.mu.Lock()
	defer v.mu.Unlock()
	rest := v.unflushed[:0]
	for _, kp := range v.unflushed {
		switch s := kp.share.Load(); {
		case kp.expired(now):
		case s.to == to && !s.flushed.Load(): // else exported again, with its floor
			s.flushed.Store(true) // before the floor is read: what is accepted afterwards is told next time
			floors = append(floors, floor{s.id, kp.opener.next()})
		case s.to != to:
			rest = append(rest, kp)
		}
	}
	clear(v.unflushed[len(rest):])
	v.unflushed = rest
	return floors
}

// raise takes floors whose form is right.
func (v *vault) raise(chunk []byte) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for ; len(chunk) > 0; chunk = chunk[floorSize:] {
		if k := v.known[keyID(chunk)]; k != nil {
			k.floor = max(k.floor, le.Uint64(chunk[16:]))
			if k.live != nil {
				k.live.opener.raise(k.floor)
			}
		}
	}
}
