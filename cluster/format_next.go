//go:build nextversion

package cluster

import "context"

// Format is that of a version to come, which knows one kind more. It is what tests of mixed versions are built with.
const Format = 2

const kindNext = "next"

func init() { formats[kindNext] = Format }

// PutNext writes an entity of the kind that version 1 does not know, and fields and a setting that it does not know.
func (s *Store) PutNext(ctx context.Context, id, value string) error {
	return s.update(ctx, func(t *tx) error {
		if err := t.put(refOf(kindNext, []byte(id)), fieldValue, []byte(value)); err != nil {
			return err
		}
		if err := t.put(gatewayRef(s.node), "next", []byte(value)); err != nil {
			return err
		}
		return t.put(settingRef("next-"+id), fieldValue, []byte(value))
	})
}

// Next returns all that PutNext wrote, as text: kind, id and value.
func (s *Store) Next() (all []string, err error) {
	for _, kind := range []string{kindNext, kindGateway, kindSetting} {
		err = s.eachEntity(kind, func(id []byte, e *entity) error {
			field := fieldValue
			if kind == kindGateway {
				field = "next"
			}
			if c := e.get(field); c != nil && (kind != kindSetting || string(id[:min(5, len(id))]) == "next-") {
				all = append(all, kind+" "+string(c.value))
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return all, nil
}
