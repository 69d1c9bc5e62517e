package cluster

import (
	"maps"
	"slices"
	"strings"
)

// source reads entities of one state: of what is committed, or as a transaction has it so far.
type source interface {
	reader
	// entity returns an entity, empty if there is none. It is only read.
	entity(r ref) (*entity, error)
	// places adds to found where entities of a kind may stand.
	places(kind string, found map[ref]struct{})
}

var (
	_ source = snapshot{}
	_ source = layered{}
	_ source = (*tx)(nil)
)

func kindPrefix(kind string) string { return string(append([]byte{byte(len(kind))}, kind...)) }

// eachIn calls fn with every entity of a kind that stands, by id. It reads each alone, so it is for kinds of few
// entities.
func eachIn(s source, kind string, fn func(id []byte, e *entity) error) error {
	found := map[ref]struct{}{}
	s.places(kind, found)
	for _, r := range slices.Sorted(maps.Keys(found)) {
		e, err := s.entity(r)
		if err != nil {
			return err
		}
		if len(e.cells) == 0 {
			continue
		}
		if err := fn(r.id(), e); err != nil {
			return err
		}
	}
	return nil
}

func (s snapshot) entity(r ref) (*entity, error) { return readEntity(s, r) }

func (s snapshot) places(kind string, found map[ref]struct{}) {
	it := s.txn.NewIterator(keysOnly([]byte(string(atEntity) + kindPrefix(kind))))
	defer it.Close()
	for it.Rewind(); it.Valid(); it.Next() {
		if r, _, ok := cutRef(it.Item().KeyCopy(nil)[1:]); ok {
			found[r] = struct{}{}
		}
	}
}

func (o overlay) places(kind string, found map[ref]struct{}) {
	for k := range o {
		if !strings.HasPrefix(k, string(atEntity)+kindPrefix(kind)) {
			continue
		}
		if r, _, ok := cutRef([]byte(k)[1:]); ok {
			found[r] = struct{}{}
		}
	}
}

func (l layered) entity(r ref) (*entity, error) { return readEntity(l, r) }

func (l layered) places(kind string, found map[ref]struct{}) {
	l.over.places(kind, found)
	l.below.places(kind, found)
}

func (t *tx) places(kind string, found map[ref]struct{}) {
	t.group.places(kind, found)
	t.mine.places(kind, found)
	for r := range t.entities {
		if r.kind() == kind {
			found[r] = struct{}{}
		}
	}
	t.read.places(kind, found)
}
