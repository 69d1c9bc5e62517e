package node

import (
	"slices"
	"sync"
	"time"

	"gatemesh/cluster"
	"gatemesh/vpn"
)

// exports remembers which gateway can go on with which device of ours, and what is still to be told to whom. It has no
// clock and does no I/O.
type exports struct {
	wake chan struct{} // capacity 1

	mu      sync.Mutex // guards the fields below
	due     map[cluster.Key]attempt
	granted map[cluster.Key]grant
	alone   map[cluster.Key]grant // whose heir is out of reach
	calls   map[cluster.Node]bool // heirs that are being called
}

// attempt is an export that is to be made.
type attempt struct {
	tries int       // made before
	at    time.Time // not before
}

// grant is an export that its heir has taken.
type grant struct {
	heir heir
	at   time.Time
}

func newExports() *exports {
	return &exports{
		wake: make(chan struct{}, 1),
		due:  map[cluster.Key]attempt{}, granted: map[cluster.Key]grant{}, alone: map[cluster.Key]grant{},
		calls: map[cluster.Node]bool{},
	}
}

func (x *exports) rouse() {
	select {
	case x.wake <- struct{}{}:
	default:
	}
}

// want asks for an export of a device, whose keys are new.
func (x *exports) want(k cluster.Key) {
	x.mu.Lock()
	x.due[k] = attempt{}
	delete(x.granted, k)
	x.mu.Unlock()
	x.rouse()
}

// wantAt is want at a later time.
func (x *exports) wantAt(k cluster.Key, at time.Time) {
	x.mu.Lock()
	x.due[k] = attempt{at: at}
	x.mu.Unlock()
}

// regard asks for an export unless the heir has one.
func (x *exports) regard(k cluster.Key, h heir) {
	x.mu.Lock()
	defer x.mu.Unlock()
	g, ok := x.granted[k]
	if h.Node.IsZero() || ok && g.heir.Node == h.Node && g.heir.incarnation == h.incarnation {
		return
	}
	if _, waits := x.due[k]; !waits {
		x.due[k] = attempt{}
	}
}

// begin notes that an heir is being called, until end.
func (x *exports) begin(id cluster.Node) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.calls[id] = true
}

func (x *exports) end(id cluster.Node) {
	x.mu.Lock()
	delete(x.calls, id)
	x.mu.Unlock()
	x.rouse()
}

func (x *exports) busy(id cluster.Node) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.calls[id]
}

// take returns the devices whose time has come and that may go now. Those for which answered is not called are not
// exported.
func (x *exports) take(now time.Time, may func(cluster.Key) bool) (keys []cluster.Key) {
	x.mu.Lock()
	ready := make([]cluster.Key, 0, len(x.due))
	for k, a := range x.due {
		if !now.Before(a.at) {
			ready = append(ready, k)
		}
	}
	x.mu.Unlock()
	ready = slices.DeleteFunc(ready, func(k cluster.Key) bool { return !may(k) })
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, k := range ready {
		if a, waits := x.due[k]; waits && !now.Before(a.at) {
			keys = append(keys, k)
			a.at = now.Add(handoverTimeout << a.tries)
			if a.tries++; a.tries < exportTries {
				x.due[k] = a
			} else {
				delete(x.due, k)
			}
		}
	}
	return keys
}

// answered notes whether an heir has taken an export.
func (x *exports) answered(k cluster.Key, h heir, taken bool, now time.Time) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if a, waits := x.due[k]; !taken || waits && a.tries == 0 {
		return // it is tried again, or there are newer keys already
	}
	delete(x.due, k)
	x.granted[k] = grant{h, now}
}

// forget drops what is known of a device that is not ours any more.
func (x *exports) forget(k cluster.Key) {
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.due, k)
	delete(x.granted, k)
	delete(x.alone, k)
}

// cut returns the devices whose keys a gateway has that is out of reach from now on: it may be serving them.
func (x *exports) cut(id cluster.Node) (keys []cluster.Key) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for k, g := range x.granted {
		if g.heir.Node == id {
			x.alone[k] = g
			keys = append(keys, k)
		}
	}
	return keys
}

// joined returns the devices that cut named and whose heir is here again.
func (x *exports) joined(id cluster.Node) (keys []cluster.Key) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for k, g := range x.alone {
		if g.heir.Node == id {
			delete(x.alone, k)
			keys = append(keys, k)
		}
	}
	return keys
}

// confirmed says whether cut named the device, which has new keys now, unknown to whoever was its heir.
func (x *exports) confirmed(k cluster.Key) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	_, was := x.alone[k]
	delete(x.alone, k)
	return was
}

// expire returns the devices that cut named and whose exported keys are of no use any more.
func (x *exports) expire(now time.Time) (keys []cluster.Key) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for k, g := range x.alone {
		if now.Sub(g.at) > vpn.RejectAfterTime {
			delete(x.alone, k)
			keys = append(keys, k)
		}
	}
	return keys
}
