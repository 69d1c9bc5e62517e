package cluster

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/dgraph-io/badger/v4"
)

// Reason says what kind of conflict a [Conflict] is.
type Reason string

// The reasons.
const (
	Overwritten Reason = "overwritten" // another gateway wrote the field without having seen this write
	Deleted     Reason = "deleted"     // another gateway deleted the device without having seen this write
	Readdressed Reason = "readdressed" // an older device keeps the address; this one has got another
	SameName    Reason = "same name"   // several devices answer to one name
	Future      Reason = "future"      // stamped far ahead of our clock, so not shown yet
)

// Conflict is something that two gateways did without knowing of each other, or that cannot
// be shown as it was written.
type Conflict struct {
	ID     string // 32 hex digits; the same at every gateway
	Reason Reason
	Ref    Ref      // what it is about; of SameName the ID is the name
	Name   string   // of the device or gateway, "" if it has none
	Field  string   // "name", "psk", "enabled", "value", "address", "public", "capacity"; "" for a whole entity
	Stands Side     // what is shown
	Other  Side     // what is not
	IDs    []string // of SameName: the keys
	order  stamp
}

// Side is one of two writes. The zero Side is none, or not known.
type Side struct {
	Text    string    // the value
	Secret  bool      // the value is a key: not told
	Omitted bool      // the value was too large to be kept
	Node    Node      // who wrote it
	At      time.Time // when, by his clock
}

// Conflicts returns all conflicts, the oldest first.
func (s *Store) Conflicts() (all []Conflict, err error) {
	err = s.view(func(txn *badger.Txn) error {
		all, err = readConflicts(txn)
		return err
	})
	slices.SortFunc(all, func(a, b Conflict) int { return cmp.Or(a.order.compare(b.order), strings.Compare(a.ID, b.ID)) })
	return all, err
}

func readConflicts(txn *badger.Txn) (all []Conflict, err error) {
	r := snapshot{txn}
	err = eachOf(txn, kindConflict, func(id []byte, e *entity) error {
		l, ok := lossOf(e)
		if !ok {
			return nil
		}
		at, err := readShown(r, l.ref)
		if err != nil {
			return err
		}
		if c, shown := l.show(hex.EncodeToString(id), at); shown {
			all = append(all, c)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	names, err := sameNames(txn)
	if err != nil {
		return nil, err
	}
	err = eachHeld(txn, func(r ref, e, shown *entity) { all = append(all, futureOf(r, e, shown)) })
	return append(all, names...), err
}

// show returns a loss with what stands now; shown is false if that is the same.
func (l *loss) show(id string, e *entity) (c Conflict, shown bool) {
	c = Conflict{
		ID: id, Reason: Overwritten, Ref: l.ref.public(), Name: string(e.value(fieldName)),
		Field: publicField(l.cell.field), Other: sideOf(l.ref, &l.cell), order: l.cell.stamp,
	}
	c.Other.Omitted = l.omitted
	by := e.get(l.cell.field)
	switch {
	case l.cell.life < e.life() && (!e.alive() || by == nil):
		c.Reason, by = Deleted, e.get("")
		if c.Name == "" && l.cell.field == fieldName {
			c.Name = string(l.cell.value)
		}
	case l.cell.field == fieldIPv4, l.cell.field == fieldIPv6:
		c.Reason = Readdressed
	case by != nil && !l.omitted && sameValue(by, &l.cell):
		return c, false
	}
	if by != nil {
		c.Stands = sideOf(l.ref, by)
	}
	return c, true
}

func publicField(field string) string {
	switch {
	case strings.HasPrefix(field, fieldOff):
		return "enabled"
	case field == fieldIPv4, field == fieldIPv6:
		return "address"
	}
	return field
}

func sideOf(r ref, c *cell) Side {
	s := Side{Node: c.stamp.author.node(), At: c.stamp.when(), Text: string(c.value)}
	switch {
	case c.field == "":
		s.Text = "alive"
		if c.life%2 == 0 {
			s.Text = "deleted"
		}
	case strings.HasPrefix(c.field, fieldOff):
		s.Text = fmt.Sprint(c.rank%2 == 0)
	case r.kind() == kindDevice && c.field == fieldPSK, r.kind() == kindUser && c.field == fieldPassword:
		s.Text, s.Secret = "", true
	case c.field == fieldIPv4, c.field == fieldIPv6:
		a, _ := netip.AddrFromSlice(c.value)
		s.Text = a.String()
	}
	return s
}

// derivedID names a conflict that is no entity but follows from others.
func derivedID(reason Reason, what string) string {
	sum := sha256.Sum256([]byte(string(reason) + "\x00" + what))
	return hex.EncodeToString(sum[:16])
}

// sameNames finds the names that several devices have.
func sameNames(txn *badger.Txn) (all []Conflict, err error) {
	it := txn.NewIterator(prefixed([]byte{atName}))
	defer it.Close()
	for it.Rewind(); it.Valid(); it.Next() {
		if it.Item().ValueSize() <= int64(len(Key{})) {
			continue
		}
		b, err := it.Item().ValueCopy(nil)
		if err != nil {
			return nil, fmt.Errorf("read names: %w", err)
		}
		name := string(it.Item().Key()[1:])
		c := Conflict{ID: derivedID(SameName, name), Reason: SameName, Ref: Ref{kindDevice, name}, Name: name, Field: fieldName}
		for _, k := range decodeKeys(b) {
			e, err := readShown(snapshot{txn}, deviceRef(k))
			if err != nil {
				return nil, err
			}
			if n := e.get(fieldName); n != nil && n.stamp.compare(c.order) > 0 {
				c.order = n.stamp
			}
			c.IDs = append(c.IDs, KeyString(k))
		}
		all = append(all, c)
	}
	return all, nil
}

// futureOf shows an entity that has cells of the far future.
func futureOf(r ref, e, shown *entity) Conflict {
	c := Conflict{ID: derivedID(Future, string(r)), Reason: Future, Ref: r.public(), Name: string(shown.value(fieldName))}
	for i := range e.cells {
		o := &e.cells[i]
		if s := shown.get(o.field); s != nil && s.compare(o) == 0 || o.stamp.compare(c.order) < 0 {
			continue
		}
		c.order, c.Field, c.Other, c.Stands = o.stamp, publicField(o.field), sideOf(r, o), Side{}
		if s := shown.get(o.field); s != nil {
			c.Stands = sideOf(r, s)
		}
		if c.Name == "" {
			c.Name = string(e.value(fieldName))
		}
	}
	return c
}

// FindConflict returns the conflict whose id begins so, with at least 6 digits. It returns an
// error that wraps ErrNotFound, or an *AmbiguousError.
func (s *Store) FindConflict(id string) (Conflict, error) {
	all, err := s.Conflicts()
	if err != nil {
		return Conflict{}, err
	}
	found := filter(all, func(c Conflict) bool { return len(id) >= minPrefix && strings.HasPrefix(c.ID, id) })
	switch len(found) {
	case 0:
		return Conflict{}, fmt.Errorf("conflict %q: %w", id, ErrNotFound)
	case 1:
		return found[0], nil
	}
	e := &AmbiguousError{Name: id}
	for _, c := range found[:min(len(found), 16)] {
		e.IDs = append(e.IDs, c.ID)
	}
	slices.Sort(e.IDs)
	return Conflict{}, e
}

// ChoiceError says why a conflict cannot be ended by taking one side.
type ChoiceError struct {
	Conflict Conflict
	Reason   string // what stands against it
	Advice   string // what to do instead
}

func (e *ChoiceError) Error() string { return e.Reason }

// ResolveConflict writes what stands, or the other side, as an edit that has seen
// both, and ends the conflict. It returns an error that wraps ErrNotFound, an
// *AmbiguousError, a *ChoiceError, or what the edit returns, such as an *ExistsError.
func (s *Store) ResolveConflict(ctx context.Context, id string, other bool) (Conflict, error) {
	c, err := s.FindConflict(id)
	if err != nil {
		return c, err
	}
	return c, s.update(ctx, func(t *tx) error {
		switch c.Reason {
		case SameName:
			return &ChoiceError{c, "no side of it can be taken", "rename one of the devices by its key: " + strings.Join(c.IDs, ", ")}
		case Future:
			return t.resolveFuture(c, other)
		}
		return t.resolveLoss(c, other)
	})
}

func (t *tx) resolveLoss(c Conflict, other bool) error {
	id, err := hex.DecodeString(c.ID)
	if err != nil {
		return err
	}
	at := refOf(kindConflict, id)
	e, err := t.entity(at)
	if err != nil {
		return err
	}
	l, ok := lossOf(e)
	if !ok {
		return fmt.Errorf("conflict %q: %w", c.ID, ErrNotFound)
	}
	if _, err := t.entity(l.ref); err != nil {
		return err
	}
	stands := t.shown(l.ref).get(l.cell.field)
	switch {
	case c.Reason == Deleted && other:
		return &ChoiceError{c, "the write belongs to a device that is deleted", "enrol the device again, or take what stands"}
	case c.Reason == Readdressed && other:
		return &ChoiceError{c, "the address belongs to another device", "give the device its new configuration, then take what stands"}
	case other && l.omitted:
		return &ChoiceError{c, "the value was too large to be kept", "write it again, or take what stands"}
	case other:
		err = t.takeBack(&l)
	case c.Reason == Overwritten && stands != nil && !strings.HasPrefix(l.cell.field, fieldOff):
		err = t.write(l.ref, cell{field: stands.field, value: stands.value, over: l.cell.history()})
	}
	if err != nil {
		return err
	}
	return t.write(at, cell{life: 2})
}

// takeBack writes a lost value again.
func (t *tx) takeBack(l *loss) error {
	if l.ref.isDevice() {
		key := Key(l.ref.id())
		e, err := t.aliveDevice(key)
		if err != nil {
			return err
		}
		switch on := l.cell.rank%2 == 0; {
		case l.cell.field == fieldName:
			if err := t.freeName(string(l.cell.value), key); err != nil {
				return err
			}
		case strings.HasPrefix(l.cell.field, fieldOff) && on:
			return t.enable(key, e)
		case strings.HasPrefix(l.cell.field, fieldOff):
			return t.disable(key, e)
		}
	}
	return t.write(l.ref, cell{field: l.cell.field, value: l.cell.value, over: l.cell.history()})
}

// resolveFuture writes what is shown, or what is not, as of now.
func (t *tx) resolveFuture(c Conflict, other bool) error {
	r := settingRef(c.Ref.ID)
	if c.Ref.Kind == kindDevice {
		key, err := ParseKey(c.Ref.ID)
		if err != nil {
			return err
		}
		r = deviceRef(key)
	}
	e, err := t.entity(r)
	if err != nil {
		return err
	}
	take := t.shown(r).clone()
	if t.held[r] == nil {
		return fmt.Errorf("conflict %q: %w", c.ID, ErrNotFound)
	}
	if other {
		take = e.clone()
	}
	if take.get(fieldValue) == nil && r.kind() == kindSetting {
		return &ChoiceError{c, "the setting was never set before", "set it, or take the other side"}
	}
	if life := e.life(); life > 0 { // whatever is taken, in a life of its own
		next := newLife(life, t.time)
		if !take.alive() {
			next++
		}
		if err := t.write(r, cell{life: next}); err != nil || !take.alive() {
			return err
		}
	}
	return t.copyFields(r, take.cells)
}
