package cluster

import (
	"fmt"
	"strings"
)

// A data format is what kinds of entities there are and what their fields mean. Unknown kinds and fields are kept and
// forwarded as they come, so a new kind needs no format of its own to be carried. It needs one to be written: a
// gateway that does not understand it would act as if nothing was there. So each gateway says in its entry which
// format it understands, and a kind of a later format is not written before all admitted gateways do.

// formats names the format that brought a kind; the others are of format 1. It is added to by later formats.
var formats = map[string]int{}

// OlderError says that a kind is not written yet, because of gateways that do not understand it.
type OlderError struct {
	Kind     string
	Format   int      // that brought it
	Gateways []string // by name
}

func (e *OlderError) Error() string {
	return fmt.Sprintf("%s needs data format %d, which is not understood by %s", e.Kind, e.Format,
		strings.Join(e.Gateways, ", "))
}

// Hint says what to do.
func (e *OlderError) Hint() string {
	return "update these gateways first, or evict those that are gone for good"
}

// Older returns those of the admitted gateways that do not understand a format, as far as their entries say.
func Older(format int, admitted []Admission, gateways []Gateway) (older []Admission) {
	understood := map[Node]int{}
	for _, g := range gateways {
		understood[g.Node] = g.Format
	}
	for _, a := range admitted {
		if max(1, understood[NodeOf(a.Key)]) < format {
			older = append(older, a)
		}
	}
	return older
}

// Older returns the admitted gateways that do not understand a format yet.
func (s *Store) Older(format int) ([]Admission, error) {
	if format <= 1 {
		return nil, nil
	}
	admitted, err := s.Admissions()
	if err != nil {
		return nil, err
	}
	gateways, err := s.Gateways()
	if err != nil {
		return nil, err
	}
	return Older(format, admitted, gateways), nil
}

// mayWrite returns an *OlderError if a kind may not be written here yet.
func (s *Store) mayWrite(kind string) error {
	older, err := s.Older(formats[kind])
	if err != nil || len(older) == 0 {
		return err
	}
	e := &OlderError{Kind: kind, Format: formats[kind]}
	for _, a := range older {
		e.Gateways = append(e.Gateways, a.Name)
	}
	return e
}
