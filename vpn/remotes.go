package vpn

import "sync"

// remotes keeps what was derived from the keys of devices whose initiations were proven false or passed to another
// gateway, so that the next one that names such a device costs one X25519 less. A flood that names devices is refused at
// the price of one that names nobody; so no device has to be locked out for what others say in its name. It holds up to
// twice maxRemotes, the ones used last.
type remotes struct {
	mu         sync.Mutex // guards the fields below
	young, old map[Key]derived
}

type derived struct {
	*remote
	secret [32]byte
}

func (r *remotes) get(k Key) (d derived, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if d, ok = r.young[k]; ok {
		return d, ok
	}
	if d, ok = r.old[k]; ok {
		r.keep(k, d)
	}
	return d, ok
}

// put keeps what was derived for p. Under p.mu.
func (r *remotes) put(p *peer) {
	if p.secret == [32]byte{} { // dead
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.young[p.key]; !ok {
		r.keep(p.key, derived{p.remote, p.secret})
	}
}

// keep is under mu.
func (r *remotes) keep(k Key, d derived) {
	if r.young == nil || len(r.young) >= maxRemotes {
		r.young, r.old = make(map[Key]derived), r.young
	}
	r.young[k] = d
}

func (r *remotes) erase() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.young, r.old = nil, nil
}
