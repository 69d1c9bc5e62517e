package vpn

import (
	"maps"
	"slices"
	"sync"
)

// remotes keeps what was derived from the keys of devices whose initiations were proven false or passed to another
// gateway, so that the next one that names such a device costs one X25519 less. A flood that names devices is refused at
// the price of one that names nobody; so no device has to be locked out for what others say in its name. It holds up to
// twice maxRemotes, the ones used last, until Refresh finds that a device is gone.
type remotes struct {
	mu         sync.Mutex // guards the fields below and what they point to
	young, old map[Key]*derived
}

type derived struct {
	*remote
	secret [32]byte
}

func (r *remotes) get(k Key) (d derived, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if at := r.young[k]; at != nil {
		return *at, true
	}
	at := r.old[k]
	if at == nil {
		return d, false
	}
	d = *at
	delete(r.old, k)
	r.keep(k, at)
	return d, true
}

// put keeps what was derived for p. Under p.mu.
func (r *remotes) put(p *peer) {
	if p.secret == [32]byte{} { // dead
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.young[p.key] == nil {
		r.keep(p.key, &derived{p.remote, p.secret})
	}
}

// keep is under mu.
func (r *remotes) keep(k Key, d *derived) {
	if r.young == nil || len(r.young) >= maxRemotes {
		wipe(r.old)
		r.young, r.old = make(map[Key]*derived), r.young
	}
	r.young[k] = d
}

// devices are those of which something is kept.
func (r *remotes) devices() []Key {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.AppendSeq(slices.Collect(maps.Keys(r.young)), maps.Keys(r.old))
}

// drop erases what was derived for a device.
func (r *remotes) drop(k Key) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, kept := range [...]map[Key]*derived{r.young, r.old} {
		if d := kept[k]; d != nil {
			clear(d.secret[:])
			delete(kept, k)
		}
	}
}

func (r *remotes) erase() {
	r.mu.Lock()
	defer r.mu.Unlock()
	wipe(r.young)
	wipe(r.old)
	r.young, r.old = nil, nil
}

func wipe(kept map[Key]*derived) {
	for _, d := range kept {
		clear(d.secret[:])
	}
}
