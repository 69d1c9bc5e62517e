package cluster

// Claim writes that this gateway takes over devices: each row as Confirm would write it, but Claimed, and above the Epoch
// that it is given with, of which nothing else may be known yet. A claim permits sending; only a confirmation ends the
// session that another gateway has with the device. Thousands cost one push.
func (t *Sessions) Claim(sessions []Session, stamp uint64) {
	t.mu.Lock()
	for _, s := range sessions {
		s.Claimed, s.Released, s.Epoch = true, false, max(t.above(s.Device, stamp), s.Epoch+1)
		t.put(s)
	}
	t.mu.Unlock()
	t.signal()
}

// above returns an epoch that is later than all that is known of a device, at least stamp. The lock is held.
func (t *Sessions) above(k Key, stamp uint64) uint64 {
	if r := t.greatest(k); r != nil {
		return max(stamp, r.Epoch+1)
	}
	return stamp
}

// Greatest returns what was written last of a device, by (Epoch, Owner), also if that is a release, and false if
// nothing was.
func (t *Sessions) Greatest(k Key) (Session, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if r := t.greatest(k); r != nil {
		return r.Session, true
	}
	return Session{}, false
}

// ByIndex returns the session of the device that some gateway was addressed by with a receiver index, as Owner does.
// Indices are drawn at random by each gateway: where two devices have one, one of them is found at most.
func (t *Sessions) ByIndex(index uint32) (Session, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	k, ok := t.indices[index]
	if !ok {
		return Session{}, false
	}
	r := t.owner(k)
	if r == nil {
		return Session{}, false
	}
	return r.Session, true
}

// list lets a session be found by its indices. The lock is held.
func (t *Sessions) list(s Session) {
	for _, i := range [2]uint32{s.Index, s.Previous} {
		if i != 0 {
			t.indices[i] = s.Device
		}
	}
}

// unlist undoes list, but for indices under which another row of the device is found. The lock is held.
func (t *Sessions) unlist(s Session) {
	for _, i := range [2]uint32{s.Index, s.Previous} {
		if k, ok := t.indices[i]; !ok || k != s.Device {
			continue
		}
		delete(t.indices, i)
	}
	for _, r := range t.devices[s.Device] {
		if r.Session != s {
			t.list(r.Session)
		}
	}
}

// renew notes that a row raises the greatest TAI64N received from its device. The lock is held.
func (t *Sessions) renew(s Session) {
	var known [12]byte
	for _, r := range t.devices[s.Device] {
		known = later(known, r.Received)
	}
	if later(known, s.Received) != known {
		t.renewed[s.Device] = struct{}{}
	}
}

// Renewed returns the greatest TAI64N received of each device of which it has risen since the last call, whoever wrote
// it: what Store.SaveClocks is to keep.
func (t *Sessions) Renewed() map[Key][12]byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := make(map[Key][12]byte, len(t.renewed))
	for k := range t.renewed {
		var received [12]byte
		for _, r := range t.devices[k] {
			received = later(received, r.Received)
		}
		out[k] = received
	}
	clear(t.renewed)
	return out
}

// Unsaved takes back what Renewed returned and could not be kept.
func (t *Sessions) Unsaved(clocks map[Key][12]byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for k := range clocks {
		t.renewed[k] = struct{}{}
	}
}
