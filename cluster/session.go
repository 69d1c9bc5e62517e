package cluster

import (
	"bytes"
	"iter"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Session says that a gateway serves a device, or did.
type Session struct {
	Device    Key
	Owner     Node
	Epoch     uint64         // of its claim or confirmation, as Store.Stamp gives it; (Epoch, Owner) is the order, the greatest owns
	Claimed   bool           // the owner has taken it over, and has not heard the device since
	Released  bool           // the owner let go: keys dead, device removed, handed over
	Index     uint32         // receiver index of the owner's current keys, by which the device addresses it; 0: none
	Previous  uint32         // that of the keys before, under which messages may be on their way; 0: none
	Endpoint  netip.AddrPort // confirmed address of the device
	Since     time.Time      // to the millisecond, as Handshake
	Handshake time.Time      // the last one; by its age sessions are forgotten
	Received  [12]byte       // greatest TAI64N received from the device, as known to the owner
	Sent      [12]byte       // greatest TAI64N sent to the device
}

// column names what one gateway wrote in one run. Only that gateway writes it.
type column struct {
	node        Node
	incarnation uint64
}

func (c column) compare(o column) int {
	if n := bytes.Compare(c.node[:], o.node[:]); n != 0 {
		return n
	}
	switch {
	case c.incarnation < o.incarnation:
		return -1
	case c.incarnation > o.incarnation:
		return 1
	}
	return 0
}

// row is a session in its column. Rows of a column are linked in the order of seq.
type row struct {
	Session
	column   *sessionColumn
	seq      uint64
	previous *row // smaller seq
	next     *row
}

// sessionColumn is the rows of a column: for each device the last one written.
type sessionColumn struct {
	column
	head  uint64 // every row up to it was seen
	rows  map[Key]*row
	first *row
	last  *row
}

// Sessions says who serves which device. It is soft state: in memory, written by
// its owners, gone when all gateways are. All methods may be called from several
// goroutines and none blocks.
//
// For each gateway and incarnation there is a column that only it writes; a row
// of a later seq replaces the earlier one of its device. Only the newest
// incarnation of a gateway can own; older columns are kept for the clocks of
// their devices until they are forgotten by age. A row that was forgotten does not
// come back: its seq was seen, and where the whole column was forgotten its age is
// beyond the horizon.
type Sessions struct {
	log     *slog.Logger
	changed chan struct{}

	mu          sync.Mutex // guards the fields below and the columns
	self        column
	columns     map[column]*sessionColumn
	newest      map[Node]*sessionColumn
	devices     map[Key][]*row   // all rows of a device, one per column
	indices     map[uint32]Key   // devices by Index and Previous of their rows
	renewed     map[Key]struct{} // devices whose greatest Received has risen since Renewed
	counts      map[Node]int     // devices owned
	horizon     time.Time        // older rows are refused
	subscribers []func(Session)
}

// NewSessions returns an empty table. The incarnation is a stamp taken at the
// start of the process, so that it is above the last one.
func NewSessions(self Node, incarnation uint64, log *slog.Logger) *Sessions {
	if log == nil {
		log = slog.Default()
	}
	t := &Sessions{
		log: log, changed: make(chan struct{}, 1),
		self:    column{self, incarnation},
		columns: map[column]*sessionColumn{}, newest: map[Node]*sessionColumn{},
		devices: map[Key][]*row{}, counts: map[Node]int{},
		indices: map[uint32]Key{}, renewed: map[Key]struct{}{},
	}
	t.open(t.self)
	return t
}

// Put writes a session of ours: its Owner is set to this gateway.
func (t *Sessions) Put(s Session) {
	t.mu.Lock()
	t.put(s)
	t.mu.Unlock()
	t.signal()
}

// Confirm is Put of a session that is later than all that is known of its
// device, whatever the clocks say: its Epoch is the stamp, or one above the
// greatest known if that is more.
func (t *Sessions) Confirm(s Session, stamp uint64) {
	t.mu.Lock()
	s.Claimed, s.Epoch = false, t.above(s.Device, stamp)
	t.put(s)
	t.mu.Unlock()
	t.signal()
}

// put is under mu.
func (t *Sessions) put(s Session) {
	s.Since, s.Handshake = toMillisecond(s.Since), toMillisecond(s.Handshake)
	c := t.columns[t.self]
	s.Owner = c.node
	c.head++
	t.place(c, s, c.head)
}

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

func toMillisecond(at time.Time) time.Time {
	if at.IsZero() {
		return time.Time{}
	}
	return time.UnixMilli(at.UnixMilli()).UTC()
}

func (t *Sessions) signal() {
	select {
	case t.changed <- struct{}{}:
	default:
	}
}

// Changed is signalled after Put.
func (t *Sessions) Changed() <-chan struct{} { return t.changed }

// Owner returns the session of a device with the greatest (Epoch, Owner), and
// false if there is none or its owner has released it.
func (t *Sessions) Owner(k Key) (Session, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if r := t.owner(k); r != nil {
		return r.Session, true
	}
	return Session{}, false
}

// owner returns the row that owns a device, nil if none does.
func (t *Sessions) owner(k Key) *row {
	best := t.greatest(k)
	if best == nil || best.Released {
		return nil
	}
	return best
}

func (t *Sessions) greatest(k Key) (best *row) {
	for _, r := range t.devices[k] {
		if t.newest[r.column.node] == r.column && (best == nil || r.above(best)) {
			best = r
		}
	}
	return best
}

func (r *row) above(o *row) bool {
	return r.Epoch > o.Epoch || r.Epoch == o.Epoch && bytes.Compare(r.Owner[:], o.Owner[:]) > 0
}

// OwnedBy returns the sessions of devices that a gateway owns, in no order.
func (t *Sessions) OwnedBy(n Node) []Session {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := t.newest[n]
	if c == nil {
		return nil
	}
	owned := make([]Session, 0, t.counts[n])
	for r := c.first; r != nil; r = r.next {
		if t.owner(r.Device) == r {
			owned = append(owned, r.Session)
		}
	}
	return owned
}

// Owned yields the sessions of all devices that somebody owns, as of the start of
// the iteration, in no order.
func (t *Sessions) Owned() iter.Seq[Session] {
	return func(yield func(Session) bool) {
		t.mu.Lock()
		owned := make([]Session, 0, len(t.devices))
		for k := range t.devices {
			if r := t.owner(k); r != nil {
				owned = append(owned, r.Session)
			}
		}
		t.mu.Unlock()
		slices.Values(owned)(yield)
	}
}

// Count returns how many devices a gateway owns. It costs nothing.
func (t *Sessions) Count(n Node) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.counts[n]
}

// Clocks returns the greatest TAI64N received from a device and sent to it, as
// far as any gateway knows, in this run or an earlier one.
func (t *Sessions) Clocks(k Key) (received, sent [12]byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, r := range t.devices[k] {
		received, sent = later(received, r.Received), later(sent, r.Sent)
	}
	return received, sent
}

func later(a, b [12]byte) [12]byte {
	if bytes.Compare(a[:], b[:]) < 0 {
		return b
	}
	return a
}

// Subscribe has fn called after Merge with each device for which somebody else's
// rows changed the answer of Owner: with the new answer or, if nobody owns the
// device now, with what stood last and Released set. It must not block.
func (t *Sessions) Subscribe(fn func(Session)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.subscribers = append(t.subscribers[:len(t.subscribers):len(t.subscribers)], fn)
}

// Expire forgets every session whose last handshake was before a time, and from
// then on refuses such ones from others. Call it with the same age everywhere.
func (t *Sessions) Expire(before time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if before.After(t.horizon) {
		t.horizon = before
	}
	for at, c := range t.columns {
		for _, r := range c.rows {
			if r.Handshake.Before(t.horizon) {
				t.remove(r)
			}
		}
		if len(c.rows) == 0 && t.newest[c.node] != c {
			delete(t.columns, at)
		}
	}
}

// open returns a column, made if there is none. An older incarnation of the same
// gateway owns nothing from then on.
func (t *Sessions) open(at column) *sessionColumn {
	if c := t.columns[at]; c != nil {
		return c
	}
	c := &sessionColumn{column: at, rows: map[Key]*row{}}
	t.columns[at] = c
	old := t.newest[at.node]
	if old != nil && old.incarnation > at.incarnation {
		return c
	}
	if old != nil {
		for k := range old.rows {
			t.recount(k, -1)
		}
	}
	t.newest[at.node] = c
	if old != nil {
		for k := range old.rows {
			t.recount(k, 1)
		}
	}
	return c
}

// recount adds n to the count of the owner of a device.
func (t *Sessions) recount(k Key, n int) {
	if r := t.owner(k); r != nil {
		t.counts[r.Owner] += n
	}
}

// place makes a session the last row of a column.
func (t *Sessions) place(c *sessionColumn, s Session, seq uint64) {
	t.recount(s.Device, -1)
	t.renew(s)
	r := c.rows[s.Device]
	if r == nil {
		r = &row{column: c}
		c.rows[s.Device] = r
		t.devices[s.Device] = append(t.devices[s.Device], r)
	} else {
		c.unlink(r)
		t.unlist(r.Session)
	}
	r.Session, r.seq = s, seq
	c.link(r)
	t.list(s)
	t.recount(s.Device, 1)
}

// remove forgets a row.
func (t *Sessions) remove(r *row) {
	t.recount(r.Device, -1)
	r.column.unlink(r)
	t.unlist(r.Session)
	delete(r.column.rows, r.Device)
	rest := slices.DeleteFunc(t.devices[r.Device], func(o *row) bool { return o == r })
	if len(rest) == 0 {
		delete(t.devices, r.Device)
	} else {
		t.devices[r.Device] = rest
	}
	t.recount(r.Device, 1)
}

// link puts a row in its place by seq, which is nearly always the last.
func (c *sessionColumn) link(r *row) {
	at := c.last
	for at != nil && at.seq > r.seq {
		at = at.previous
	}
	r.previous = at
	if at == nil {
		r.next, c.first = c.first, r
	} else {
		r.next, at.next = at.next, r
	}
	if r.next == nil {
		c.last = r
	} else {
		r.next.previous = r
	}
}

func (c *sessionColumn) unlink(r *row) {
	if r.previous == nil {
		c.first = r.next
	} else {
		r.previous.next = r.next
	}
	if r.next == nil {
		c.last = r.previous
	} else {
		r.next.previous = r.previous
	}
	r.previous, r.next = nil, nil
}
