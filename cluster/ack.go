package cluster

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/dgraph-io/badger/v4"
)

// fieldHave is the one field of an entity of kind have, whose id is a node and which only that node writes.
const fieldHave = "have"

// ack is what a member says that it holds.
type ack struct {
	author  author // of the cell that says so; zero: it never said anything
	seq     uint64
	time    uint64 // hybrid, of the cell
	have    vector // it holds all up to here, or what supersedes it
	without []absence
	lapsed  []absence // still counted, but in need of a whole delta
	gone    bool      // it was evicted, or has left
}

// absence is a member that need not have what is deleted: it was evicted, or was away for longer than the horizon. It
// ends when the member acknowledges the cell that said so first.
type absence struct {
	node   Node
	author author
	seq    uint64
}

// answers reports whether it ends an absence.
func (a ack) answers(o absence) bool { return a.have[o.author] >= o.seq }

// absent returns what is said of the absence of a member, if anything is.
func (a ack) absent(n Node) (absence, bool) {
	i := slices.IndexFunc(a.without, func(o absence) bool { return o.node == n })
	if i < 0 {
		return absence{}, false
	}
	return a.without[i], true
}

// wireAck is the value of an acknowledgement in CBOR.
type wireAck struct {
	Have    wireDigest    `cbor:"1,keyasint"`
	Without []wireAbsence `cbor:"2,keyasint,omitempty"` // by node
	Lapsed  []wireAbsence `cbor:"3,keyasint,omitempty"` // by node
}

type wireAbsence struct {
	_      struct{} `cbor:",toarray"`
	Node   []byte
	Author []byte // none: that of the cell it stands in, as Seq
	Seq    uint64
}

func haveRef(n Node) ref { return refOf(kindHave, n[:]) }

// ackOf reads an acknowledgement; one that is malformed says nothing.
func ackOf(e *entity) ack {
	c := e.get(fieldHave)
	if c == nil {
		return ack{}
	}
	a := ack{author: c.stamp.author, seq: c.seq, time: c.stamp.time}
	var w wireAck
	if decoder.Unmarshal(c.value, &w) != nil {
		return a
	}
	v, err := w.Have.vector()
	if err != nil {
		return a
	}
	a.have, a.without, a.lapsed = v, a.absences(w.Without), a.absences(w.Lapsed)
	return a
}

func (a ack) absences(all []wireAbsence) (out []absence) {
	for _, o := range all {
		switch {
		case len(o.Node) != len(Node{}):
		case len(o.Author) == 0:
			out = append(out, absence{Node(o.Node), a.author, a.seq})
		case len(o.Author) == len(author{}):
			out = append(out, absence{Node(o.Node), author(o.Author), o.Seq})
		}
	}
	return out
}

func (a ack) encode() ([]byte, error) {
	w := wireAck{Have: a.have.wire(0), Without: wireAbsences(a.without), Lapsed: wireAbsences(a.lapsed)}
	b, err := encoder.Marshal(w)
	if err != nil {
		return nil, fmt.Errorf("encode acknowledgement: %w", err)
	}
	return b, nil
}

func wireAbsences(all []absence) (out []wireAbsence) {
	slices.SortFunc(all, func(a, b absence) int { return bytes.Compare(a.node[:], b.node[:]) })
	for _, o := range all {
		e := wireAbsence{Node: o.node[:], Seq: o.seq}
		if o.seq > 0 {
			e.Author = o.author[:]
		}
		out = append(out, e)
	}
	return out
}

// loadNodes reads which nodes were ever admitted or acknowledged anything.
func (s *Store) loadNodes(txn *badger.Txn) error {
	for _, kind := range []string{kindAdmission, kindHave} {
		err := eachEntity(txn, append([]byte{byte(len(kind))}, kind...), func(r ref, _ *entity) error {
			s.noteNode(r)
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// noteNode takes notice of an entity that changed. What it may change is whom collection waits for.
func (s *Store) noteNode(r ref) {
	if k := r.kind(); (k == kindAdmission || k == kindHave) && len(r.id()) == len(Node{}) {
		s.nodes[Node(r.id())] = struct{}{}
		s.due, s.unread = true, true
	}
}

// members reads who is admitted, and what they said. t may hold newer acknowledgements than what is committed.
func (s *Store) members(t *tx) (members, error) {
	nodes := maps.Clone(s.nodes)
	for r := range t.entities {
		if r.kind() == kindAdmission && len(r.id()) == len(Node{}) {
			nodes[Node(r.id())] = struct{}{}
		}
	}
	v, err := readVerdicts(t)
	if err != nil {
		return nil, err
	}
	all := members{}
	for n := range nodes {
		e, err := t.entity(admissionRef(n))
		if err != nil {
			return nil, err
		}
		if _, ok := admissionOf(n[:], e); !ok {
			continue
		}
		gone, err := v.departed(t, n)
		if err != nil {
			return nil, err
		}
		if e, err = t.entity(haveRef(n)); err != nil {
			return nil, err
		}
		a := ackOf(e)
		a.gone = gone
		all[n] = a
	}
	return all, nil
}

// acknowledge writes what this replica holds if it never did, if it holds a deletion that it has not acknowledged, or if
// somebody holds up a deletion who is to be left out; anyway if it must. A horizon of zero leaves out nobody.
func (s *Store) acknowledge(t *tx, horizon time.Duration, must bool) error {
	return s.acknowledgeLapse(t, nil, horizon, must)
}

// acknowledgeLapse is acknowledge that says of some that they have lapsed.
func (s *Store) acknowledgeLapse(t *tx, anew map[Node]struct{}, horizon time.Duration, must bool) error {
	all, err := s.members(t)
	if err != nil {
		return err
	}
	own, admitted := all[s.node]
	if !admitted {
		return nil
	}
	have, counted := s.holds(), all.counted()
	old := uint64(0)
	if age := uint64(horizon.Milliseconds()) << 16; horizon > 0 && age < t.time {
		old = t.time - age
	}
	wanted, out := must || own.seq == 0 || !slices.Contains(counted, s.node), map[Node]absence{}
	err = s.markers(func(m marker) bool {
		if m.cells[0].life >= t.time {
			m.hold(have) // a new life of ours would be below it
			return true
		}
		wanted = wanted || !m.covered(own.have)
		for _, n := range counted {
			late := all[n].gone || m.cells[0].stamp.time < old
			if n != s.node && late && !m.covered(all[n].have) {
				out[n], wanted = absence{node: n}, true
			}
		}
		return true
	})
	if err != nil {
		return err
	}
	for _, n := range counted { // who was not heard to the end
		if a := all[n]; n != s.node && a.seq > 0 && s.heads[a.author].seq < a.seq && a.time < old {
			out[n], wanted = absence{node: n}, true
		}
	}
	if !wanted {
		return nil
	}
	for _, o := range own.without { // they stay out until they have come back
		if a, ok := all[o.node]; ok && !a.answers(o) {
			out[o.node] = o
		}
	}
	lapsed := map[Node]absence{}
	for _, o := range own.lapsed {
		if a, ok := all[o.node]; ok && !a.answers(o) {
			lapsed[o.node] = o
		}
	}
	for n := range anew {
		lapsed[n] = absence{node: n}
	}
	return s.writeAck(t, ack{have: have, without: slices.Collect(maps.Values(out)), lapsed: slices.Collect(maps.Values(lapsed))})
}

// lapse takes notice of an acknowledgement that another of the same member replaced without having seen it: that
// member's disk was rolled back. Others may have forgotten deletions upon what it does not know any more, and its word
// of that may be gone with the next acknowledgement.
func (t *tx) lapse(r ref, e *entity, c cell, taken bool, gone []cell) {
	if r.kind() != kindHave || c.field != fieldHave || len(r.id()) != len(Node{}) {
		return
	}
	unseen := slices.ContainsFunc(gone, func(g cell) bool { return !c.saw(&g) })
	if by := e.get(fieldHave); !taken && by != nil {
		unseen = !bytes.Equal(by.raw, c.raw) && !by.saw(&c)
	}
	if !unseen {
		return
	}
	if t.lapsed == nil {
		t.lapsed = map[Node]struct{}{}
	}
	t.lapsed[Node(r.id())] = struct{}{}
}

// onLapse has those who lapsed take a whole delta: this replica, or another that is told so.
func (s *Store) onLapse(t *tx) error {
	if len(t.lapsed) == 0 {
		return nil
	}
	lapsed := t.lapsed
	t.lapsed = nil
	if _, ok := lapsed[s.node]; ok {
		s.markForeign(t)
		delete(lapsed, s.node)
	}
	if len(lapsed) == 0 {
		return nil
	}
	s.log.Warn("disks that were set back: they are given everything anew", "gateways", len(lapsed))
	return s.acknowledgeLapse(t, lapsed, 0, true)
}

func (s *Store) writeAck(t *tx, a ack) error {
	value, err := a.encode()
	if err != nil {
		return err
	}
	return t.put(haveRef(s.node), fieldHave, value)
}

// maxHidden bounds the authors in an acknowledgement of whom nothing stands.
const maxHidden = 512

// holds returns the vector that this replica may acknowledge. It names also authors of whom nothing stands: another
// may not have collected yet what is gone here.
func (s *Store) holds() vector {
	v := vectorOf(s.heads)
	return withHidden(v, s.heads, min(maxAuthors, len(v)+maxHidden))
}

// withHidden adds authors of whom nothing stands to a vector, up to a number of entries.
func withHidden(v vector, heads map[author]head, limit int) vector {
	for _, a := range slices.SortedFunc(maps.Keys(heads), compareAuthors) {
		if h := heads[a]; h.seq > 0 && h.cells == 0 && len(v) < limit {
			v[a] = h.seq
		}
	}
	return v
}
