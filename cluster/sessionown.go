package cluster

// Own returns what this gateway wrote last of a device, whoever owns it, and
// false if it wrote nothing in this run.
func (t *Sessions) Own(k Key) (Session, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if r := t.columns[t.self].rows[k]; r != nil {
		return r.Session, true
	}
	return Session{}, false
}

// Confirm is Put of a session that is later than all that is known of its
// device, whatever the clocks said: its Epoch is the stamp, or one above the
// greatest known if that is more.
func (t *Sessions) Confirm(s Session, stamp uint64) {
	t.mu.Lock()
	s.Epoch = stamp
	if r := t.greatest(s.Device); r != nil {
		s.Epoch = max(s.Epoch, r.Epoch+1)
	}
	t.mu.Unlock()
	t.Put(s)
}
