package cluster

import (
	"crypto/sha256"
	"encoding/binary"
	"maps"
	"slices"

	"github.com/dgraph-io/badger/v4"
)

// verdicts are the evictions that count, and what follows from them.
type verdicts struct {
	// of is one eviction of each: the first, beyond which nothing was known to any who evicted.
	of map[Node]Eviction
	// prints are those of all evictions, also of such as do not count, ascending. Who is not told of an eviction cannot
	// know its print.
	prints []uint64
}

// judged is the verdicts of the states of an epoch.
type judged struct {
	epoch uint64
	verdicts
}

// judge reads one committed state, of which the verdicts are known.
func (s *Store) judge(fn func(txn *badger.Txn, v *verdicts) error) error {
	return s.view(func(txn *badger.Txn) error {
		epoch, err := readNumber(snapshot{txn}, metaEpoch)
		if err != nil {
			return err
		}
		j := s.judged.Load()
		if j == nil || j.epoch != epoch {
			v, err := readVerdicts(snapshot{txn})
			if err != nil {
				return err
			}
			j = &judged{epoch, v}
			s.judged.Store(j)
		}
		return fn(txn, &j.verdicts)
	})
}

// raiseEpoch has the verdicts read again that are of the state before a change. It is raised in that state itself, so
// that nobody reads the change and goes by what was before it.
func (t *tx) raiseEpoch(r ref) error {
	if r.kind() != kindAdmission {
		return nil
	}
	n, err := readNumber(t, metaEpoch)
	t.setNumber(metaEpoch, n+1)
	return err
}

// readVerdicts decides which evictions count: in the order of their stamps all but those that are void by the ones
// before. So who is evicted evicts nobody in return, nor does whoever it brought along.
func readVerdicts(s source) (verdicts, error) {
	v := verdicts{of: map[Node]Eviction{}}
	type written struct {
		Eviction
		c *cell
	}
	var all []written
	var prints []uint64
	err := eachIn(s, kindAdmission, func(id []byte, e *entity) error {
		if len(id) != len(Node{}) || !e.evicted() {
			return nil
		}
		for i := range e.cells {
			x, ok := evictionOf(Node(id), &e.cells[i])
			if !ok {
				continue
			}
			if a, ok := admissionOf(id, e); ok {
				x.Name = a.Name
			}
			all = append(all, written{x, &e.cells[i]})
			prints = append(prints, x.prints...)
		}
		return nil
	})
	if err != nil {
		return v, err
	}
	slices.SortFunc(all, func(a, b written) int { return a.at.compare(b.at) })
	for _, x := range all {
		void, err := v.void(s, x.c)
		if err != nil {
			return v, err
		}
		if void {
			continue
		}
		first, again := v.of[x.Node]
		if !again {
			v.of[x.Node] = x.Eviction
			continue
		}
		v.of[x.Node] = first.with(&x.Eviction)
	}
	slices.Sort(prints)
	v.prints = prints
	return v, nil
}

// with adds what another that evicted the same gateway knew.
func (v Eviction) with(o *Eviction) Eviction {
	cut, own := maps.Clone(o.cut), maps.Clone(o.own)
	for a, seq := range v.cut {
		if cut == nil {
			cut = vector{}
		}
		cut[a] = max(cut[a], seq)
	}
	if v.own == nil || own == nil {
		own = nil
	} else {
		maps.Copy(own, v.own)
	}
	v.cut, v.own, v.prints = cut, own, slices.Concat(v.prints, o.prints)
	return v
}

// sum names all evictions; it is nil if there are none.
func (v *verdicts) sum() []byte {
	if len(v.prints) == 0 {
		return nil
	}
	b := []byte("gatemesh evictions v1\x00")
	for _, p := range v.prints {
		b = binary.BigEndian.AppendUint64(b, p)
	}
	h := sha256.Sum256(b)
	return h[:16]
}

// beyond reports whether an evicted gateway wrote a cell beyond what was known of it. nil is no cell.
func (v *verdicts) beyond(c *cell) bool {
	if c == nil {
		return false
	}
	x, evicted := v.of[c.stamp.author.node()]
	return evicted && x.beyond(c)
}

// void reports whether a cell says nothing of members, keys and passwords: an evicted gateway wrote it beyond what was
// known of it, or one whose own admission does not stand, be it that it has left since. nil is no cell.
func (v *verdicts) void(s source, c *cell) (bool, error) {
	if c == nil || len(v.of) == 0 {
		return false, nil
	}
	by := c.stamp.author.node()
	if _, evicted := v.of[by]; evicted {
		return v.beyond(c), nil
	}
	_, stands, err := v.admission(s, by)
	return !stands, err
}

// departed reports whether a gateway was a member and is none any more.
func (v *verdicts) departed(s source, n Node) (bool, error) {
	if _, evicted := v.of[n]; evicted {
		return true, nil
	}
	e, err := s.entity(admissionRef(n))
	return err == nil && e.get(fieldLeft) != nil, err
}

// standing returns the admission of a gateway and whether it stands. Of one that was evicted or left, or of none,
// nothing is returned.
func (v *verdicts) standing(s source, n Node) (Admission, bool, error) {
	if gone, err := v.departed(s, n); err != nil || gone {
		return Admission{}, false, err
	}
	return v.admission(s, n)
}

// admission returns the admission of a gateway, be it that it ended, and whether it stood.
//
// It does if whoever wrote it may have: a gateway that was evicted, up to what was known of it; one whose own
// admission stands; and itself, if all who evicted anybody knew of that, or it of the evictions. Members that go back
// to none of these admitted each other.
func (v *verdicts) admission(s source, n Node) (Admission, bool, error) {
	var first Admission
	for seen := map[Node]bool{}; !seen[n]; {
		seen[n] = true
		e, err := s.entity(admissionRef(n))
		if err != nil {
			return Admission{}, false, err
		}
		a, ok := admissionOf(n[:], e)
		if len(seen) == 1 {
			if !ok {
				return Admission{}, false, nil
			}
			first = a
		}
		if !ok { // nothing is known of it, or nothing any more
			break
		}
		c := e.get(fieldAdmission)
		by := c.stamp.author.node()
		if _, evicted := v.of[by]; evicted {
			return first, !v.beyond(c), nil
		}
		if by == n {
			return first, v.known(n, a.knew), nil
		}
		n = by
	}
	return first, len(v.of) == 0, nil
}

// known reports whether all who evicted anybody knew that a gateway had admitted itself, or it knew of the evictions.
func (v *verdicts) known(n Node, knew []uint64) bool {
	for _, x := range v.of {
		heard := slices.ContainsFunc(x.prints, func(p uint64) bool { return slices.Contains(knew, p) })
		if x.own != nil && !x.own[n] && !heard {
			return false
		}
	}
	return true
}

// each calls fn with the admission of every gateway that was not evicted and has not left, by node.
func (v *verdicts) each(s source, fn func(a Admission, stands bool)) error {
	found := map[ref]struct{}{}
	s.places(kindAdmission, found)
	for _, r := range slices.Sorted(maps.Keys(found)) {
		if len(r.id()) != len(Node{}) {
			continue
		}
		a, stands, err := v.standing(s, Node(r.id()))
		if err != nil {
			return err
		}
		if a.Key != nil {
			fn(a, stands)
		}
	}
	return nil
}
