package cluster

import (
	"fmt"
	"iter"
	"maps"
	"net/netip"
	"slices"
	"time"
)

const (
	maxColumns     = 1024 // of a digest or a part
	maxRows        = 1024 // of a part
	maxSessionPart = 256 << 10
)

// wireColumn is a column's name with its head, or with rows, in CBOR.
//
// The rows of a part stand in the order of seq and are all that the column has
// between From and To.
type wireColumn struct {
	Node        []byte    `cbor:"1,keyasint"`
	Incarnation uint64    `cbor:"2,keyasint"`
	From        uint64    `cbor:"3,keyasint,omitempty"`
	To          uint64    `cbor:"4,keyasint,omitempty"`
	Rows        []wireRow `cbor:"5,keyasint,omitempty"`
}

// wireRow is a row in CBOR. Times are Unix milliseconds, 0 for none.
type wireRow struct {
	Seq       uint64 `cbor:"1,keyasint"`
	Device    []byte `cbor:"2,keyasint"`
	Epoch     uint64 `cbor:"3,keyasint"`
	Released  bool   `cbor:"4,keyasint,omitempty"`
	Endpoint  []byte `cbor:"5,keyasint,omitempty"`
	Since     int64  `cbor:"6,keyasint,omitempty"`
	Handshake int64  `cbor:"7,keyasint,omitempty"`
	Received  []byte `cbor:"8,keyasint,omitempty"`
	Sent      []byte `cbor:"9,keyasint,omitempty"`
	Claimed   bool   `cbor:"10,keyasint,omitempty"`
	Index     uint32 `cbor:"11,keyasint,omitempty"`
	Previous  uint32 `cbor:"12,keyasint,omitempty"`
}

func (w wireColumn) column() (column, error) {
	if len(w.Node) != len(Node{}) || max(w.From, w.To, w.Incarnation) >= maxCount || w.From > w.To {
		return column{}, fmt.Errorf("%w: column out of bounds", ErrInvalidPart)
	}
	return column{Node(w.Node), w.Incarnation}, nil
}

// known returns the columns that a digest names, by their order: the newest of
// each gateway, and older ones that have rows.
func (t *Sessions) known() []*sessionColumn {
	var cs []*sessionColumn
	for c := range maps.Values(t.columns) {
		if len(c.rows) > 0 || t.newest[c.node] == c {
			cs = append(cs, c)
		}
	}
	slices.SortFunc(cs, func(a, b *sessionColumn) int { return a.compare(b.column) })
	return cs
}

// Digest returns what is known: equal bytes mean equal knowledge, but for what
// one side has forgotten by age already.
func (t *Sessions) Digest() []byte {
	t.mu.Lock()
	var w []wireColumn
	for _, c := range t.known() {
		w = append(w, wireColumn{Node: c.node[:], Incarnation: c.incarnation, To: c.head})
	}
	t.mu.Unlock()
	return must(encoder.Marshal(w))
}

func decodeSessionDigest(b []byte) (map[column]uint64, error) {
	known := map[column]uint64{}
	if len(b) == 0 {
		return known, nil
	}
	var w []wireColumn
	if len(b) > 64<<10 {
		return nil, fmt.Errorf("%w: digest of %d bytes", ErrInvalidPart, len(b))
	}
	if err := decoder.Unmarshal(b, &w); err != nil {
		return nil, fmt.Errorf("%w: digest: %w", ErrInvalidPart, err)
	}
	if len(w) > maxColumns {
		return nil, fmt.Errorf("%w: digest of %d columns", ErrInvalidPart, len(w))
	}
	for _, c := range w {
		at, err := c.column()
		if err != nil {
			return nil, err
		}
		known[at] = c.To
	}
	return known, nil
}

// Delta yields in parts what the holder of a digest lacks, and nothing if it
// lacks nothing; nil is the digest of an empty table. An error that wraps
// ErrInvalidPart ends the sequence. The parts belong to the caller.
func (t *Sessions) Delta(digest []byte) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		known, err := decodeSessionDigest(digest)
		if err != nil {
			yield(nil, err)
			return
		}
		for part := range slices.Chunk(t.missing(known), maxColumns) {
			for _, w := range splitRows(part) {
				b, err := encoder.Marshal(w)
				if !yield(b, err) {
					return
				}
			}
		}
	}
}

// missing copies what a replica with those heads lacks.
func (t *Sessions) missing(known map[column]uint64) (w []wireColumn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, c := range t.known() {
		from, ok := known[c.column]
		if ok && from >= c.head {
			continue
		}
		m := wireColumn{Node: c.node[:], Incarnation: c.incarnation, From: from, To: c.head}
		for r := c.last; r != nil && r.seq > from; r = r.previous {
			m.Rows = append(m.Rows, wireOf(r))
		}
		slices.Reverse(m.Rows)
		w = append(w, m)
	}
	return w
}

// splitRows cuts columns into parts with at most maxRows rows.
func splitRows(all []wireColumn) (parts [][]wireColumn) {
	var part []wireColumn
	room := maxRows
	for _, c := range all {
		for len(c.Rows) > room {
			cut := c
			cut.Rows, c.Rows = c.Rows[:room], c.Rows[room:]
			cut.To = c.Rows[0].Seq - 1
			c.From = cut.To
			parts = append(parts, append(part, cut))
			part, room = nil, maxRows
		}
		part, room = append(part, c), room-len(c.Rows)
	}
	if len(part) > 0 {
		parts = append(parts, part)
	}
	return parts
}

func wireOf(r *row) wireRow {
	w := wireRow{
		Seq: r.seq, Device: r.Device[:], Epoch: r.Epoch, Released: r.Released,
		Since: millis(r.Since), Handshake: millis(r.Handshake),
		Claimed: r.Claimed, Index: r.Index, Previous: r.Previous,
	}
	if r.Endpoint.IsValid() {
		w.Endpoint, _ = r.Endpoint.MarshalBinary() // never fails, netip
	}
	if r.Received != ([12]byte{}) {
		w.Received = slices.Clone(r.Received[:])
	}
	if r.Sent != ([12]byte{}) {
		w.Sent = slices.Clone(r.Sent[:])
	}
	w.Device = slices.Clone(w.Device)
	return w
}

func millis(at time.Time) int64 {
	if at.IsZero() {
		return 0
	}
	return at.UnixMilli()
}

func fromMillis(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}

// session reads a row of a column.
func (w wireRow) session(owner Node) (Session, error) {
	s := Session{
		Owner: owner, Epoch: w.Epoch, Released: w.Released,
		Since: fromMillis(w.Since), Handshake: fromMillis(w.Handshake),
		Claimed: w.Claimed, Index: w.Index, Previous: w.Previous,
	}
	if len(w.Device) != len(s.Device) || len(w.Endpoint) > 64 || w.Seq >= maxCount || w.Epoch >= maxCount ||
		len(w.Received) != 0 && len(w.Received) != 12 || len(w.Sent) != 0 && len(w.Sent) != 12 {
		return Session{}, fmt.Errorf("%w: session out of bounds", ErrInvalidPart)
	}
	s.Device = Key(w.Device)
	copy(s.Received[:], w.Received)
	copy(s.Sent[:], w.Sent)
	if len(w.Endpoint) > 0 {
		if err := s.Endpoint.UnmarshalBinary(w.Endpoint); err != nil {
			return Session{}, fmt.Errorf("%w: endpoint: %w", ErrInvalidPart, err)
		}
		s.Endpoint = netip.AddrPortFrom(s.Endpoint.Addr().WithZone(""), s.Endpoint.Port())
	}
	return s, nil
}

// sessionRows is a column of a part, checked.
type sessionRows struct {
	at       column
	from, to uint64
	seqs     []uint64
	sessions []Session
}

func decodeSessionPart(b []byte) ([]sessionRows, error) {
	if len(b) > maxSessionPart {
		return nil, fmt.Errorf("%w: part of %d bytes", ErrInvalidPart, len(b))
	}
	var w []wireColumn
	if err := decoder.Unmarshal(b, &w); err != nil {
		return nil, fmt.Errorf("%w: part: %w", ErrInvalidPart, err)
	}
	if len(w) > maxColumns {
		return nil, fmt.Errorf("%w: part of %d columns", ErrInvalidPart, len(w))
	}
	parts := make([]sessionRows, len(w))
	for i, c := range w {
		at, err := c.column()
		if err != nil {
			return nil, err
		}
		p := sessionRows{at: at, from: c.From, to: c.To}
		last := c.From
		for _, r := range c.Rows {
			s, err := r.session(at.node)
			if err != nil {
				return nil, err
			}
			if r.Seq <= last || r.Seq > c.To {
				return nil, fmt.Errorf("%w: rows out of order", ErrInvalidPart)
			}
			last = r.Seq
			p.seqs, p.sessions = append(p.seqs, r.Seq), append(p.sessions, s)
		}
		parts[i] = p
	}
	return parts, nil
}

// Merge takes in a part. behind says that something before it is missing, so that
// this replica should ask for it. It calls the subscribers before it returns.
func (t *Sessions) Merge(b []byte) (behind bool, err error) {
	parts, err := decodeSessionPart(b)
	if err != nil {
		return false, err
	}
	t.mu.Lock()
	watch := watch{t: t, before: map[Key]Session{}}
	renamed := false
	for _, p := range parts {
		if p.at.node == t.self.node {
			if p.at.incarnation == t.self.incarnation {
				continue // what we wrote, coming back
			}
			if p.at.incarnation > t.self.incarnation {
				t.rename(p.at.incarnation + 1)
				renamed = true
			}
		}
		behind = t.take(p, &watch) || behind
	}
	told, subscribers := watch.changes(), t.subscribers
	t.mu.Unlock()
	if renamed {
		t.signal()
	}
	for _, s := range told {
		for _, fn := range subscribers {
			fn(s)
		}
	}
	return behind, nil
}

// take merges the rows of one column, and reports whether some before them are
// missing. It merges them also then: the head stays, so they are asked for again.
func (t *Sessions) take(p sessionRows, w *watch) (behind bool) {
	if old := t.newest[p.at.node]; old != nil && old.incarnation < p.at.incarnation {
		for k := range old.rows {
			w.note(k)
		}
	}
	c := t.open(p.at)
	for i, s := range p.sessions {
		old, seen := c.rows[s.Device], c.head
		if old != nil {
			seen = old.seq
		}
		if p.seqs[i] <= seen || s.Handshake.Before(t.horizon) {
			continue
		}
		w.note(s.Device)
		t.place(c, s, p.seqs[i])
	}
	if p.from > c.head {
		return true
	}
	c.head = max(c.head, p.to)
	return false
}

// rename gives our column a newer incarnation: somebody else has one of ours that
// is newer, which can only be if our clock was set back and our store was lost.
func (t *Sessions) rename(incarnation uint64) {
	t.log.Warn("an earlier run of this gateway had a later clock", "incarnation", incarnation)
	old := t.columns[t.self]
	t.self.incarnation = incarnation
	c := t.open(t.self)
	for r := old.first; r != nil; r = r.next {
		c.head++
		t.place(c, r.Session, c.head)
	}
}

// watch finds out for which devices the answer of Owner changes.
type watch struct {
	t      *Sessions
	before map[Key]Session // zero: nobody
}

func (w *watch) note(k Key) {
	if _, ok := w.before[k]; ok {
		return
	}
	var s Session
	if r := w.t.owner(k); r != nil {
		s = r.Session
	}
	w.before[k] = s
}

func (w *watch) changes() (changed []Session) {
	for k, was := range w.before {
		var is Session
		if r := w.t.owner(k); r != nil {
			is = r.Session
		}
		if is == was {
			continue
		}
		if is.Owner.IsZero() {
			is = was
			if r := w.t.greatest(k); r != nil {
				is = r.Session
			}
			is.Released = true
		}
		changed = append(changed, is)
	}
	return changed
}
