package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
)

// want is what an acknowledged edit leaves at its writer.
type want struct {
	ref   ref
	field string
	ok    func(*entity) bool
}

func wantLife(k Key, alive bool) want {
	return want{deviceRef(k), "", func(e *entity) bool { return e.alive() == alive }}
}

func wantValue(r ref, field string, value []byte) want {
	return want{r, field, func(e *entity) bool { c := e.get(field); return c != nil && bytes.Equal(c.value, value) }}
}

// edit does one of everything that an administrator may do.
func (w *world) edit(g *gateway) {
	if g.store == nil || g.full {
		return
	}
	what, wants, do := w.draw(g)
	var err error
	lives := g.risky(func() { err = do() })
	w.note("%d %s: %v", g.i, what, err)
	var exists *ExistsError
	switch {
	case errors.Is(err, ErrNotFound), errors.As(err, &exists), errors.Is(err, ErrPoolFull), errors.Is(err, ErrNoPool):
		return
	case err != nil:
		w.fail("unexpected error: %v", err)
	case !lives:
		return // never acknowledged
	}
	w.acknowledge(g, what, wants)
	if w.chance(0.5) {
		w.push(g)
	}
}

// draw makes an edit up.
func (w *world) draw(g *gateway) (what string, wants []want, do func() error) {
	ctx, s := context.Background(), g.store
	i, j := w.rnd.IntN(w.weather.devices), w.rnd.IntN(w.weather.devices)
	k, other := testKey(i), testKey(j)
	name := fmt.Sprint("d", w.rnd.IntN(w.weather.devices))
	named := func(k Key) want { return wantValue(deviceRef(k), fieldName, []byte(name)) }
	switch w.rnd.IntN(11) {
	case 0, 1, 2:
		return fmt.Sprint("adds ", i, " as ", name), []want{wantLife(k, true), named(k)}, func() error {
			_, err := s.AddDevice(ctx, name, k)
			return err
		}
	case 3, 4:
		return fmt.Sprint("removes ", i), []want{wantLife(k, false)}, func() error { return s.RemoveDevice(ctx, k) }
	case 5:
		return fmt.Sprint("renames ", i, " to ", name), []want{named(k)}, func() error { return s.RenameDevice(ctx, k, name) }
	case 6:
		return fmt.Sprint("rekeys ", i, " to ", j), []want{wantLife(k, false), wantLife(other, true)}, func() error {
			_, err := s.RekeyDevice(ctx, k, other)
			return err
		}
	case 7:
		on := w.chance(0.5)
		is := want{deviceRef(k), fieldOff + g.node.String(), func(e *entity) bool { return enabled(e) == on }}
		return fmt.Sprint("enables ", i, " ", on), []want{is}, func() error { return s.EnableDevice(ctx, k, on) }
	case 8:
		psk := Key{byte(1 + w.rnd.IntN(3))}
		return fmt.Sprint("gives ", i, " a preshared key"), []want{wantValue(deviceRef(k), fieldPSK, psk[:])},
			func() error { return s.SetPresharedKey(ctx, k, psk) }
	case 9:
		n, capacity := pick(w, w.all...).node, w.rnd.IntN(100)
		r := gatewayRef(n)
		wants := []want{wantValue(r, "name", []byte(name)), wantValue(r, "capacity", fmt.Append(nil, capacity))}
		return fmt.Sprint("puts gateway ", n), wants, func() error {
			return s.PutGateway(ctx, Gateway{Node: n, Name: name, Capacity: capacity})
		}
	}
	return w.drawSettings(s, name)
}

// drawSettings makes up a transaction over two settings.
func (w *world) drawSettings(s *Store, name string) (what string, wants []want, do func() error) {
	values := map[string][]byte{name: make([]byte, 2+w.rnd.IntN(w.weather.value+1)), "x": {byte(w.rnd.IntN(99))}}
	values[name][0], values[name][1] = byte(w.rnd.IntN(99)), byte(w.rnd.IntN(99))
	wants = []want{
		wantValue(settingRef(name), fieldValue, values[name]), wantValue(settingRef("x"), fieldValue, values["x"]),
	}
	return fmt.Sprintf("sets %s to %x", name, values[name][:2]), wants,
		func() error { return s.SetSettings(context.Background(), values) }
}
