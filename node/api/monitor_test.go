package api_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"gatemesh/node/api"
)

// telling is a gateway at which things happen, and which stops then.
type telling struct {
	api.Service
	events []api.Event
}

func (s telling) Monitor(_ context.Context, f func(api.Event) error) error {
	for _, e := range s.events {
		if err := f(e); err != nil {
			return err
		}
	}
	return nil
}

func TestMonitor(t *testing.T) {
	events := []api.Event{{Kind: api.EventUp, Gateway: "a"}, {Kind: api.EventMissed, Count: 7}}
	var got []api.Event
	keep := func(e api.Event) error { got = append(got, e); return nil }
	if err := answering(t, telling{events: events}, 0).Monitor(context.Background(), keep); err != nil || len(got) != 2 ||
		got[1] != events[1] {
		t.Errorf("%+v, %v", got, err)
	}
	gone := errors.New("gone")
	if err := answering(t, telling{events: events}, 0).Monitor(context.Background(),
		func(api.Event) error { return gone }); !errors.Is(err, gone) {
		t.Errorf("an error of the listener: %v", err)
	}
	long := []api.Event{{Text: strings.Repeat("x", 1<<20)}}
	if err := answering(t, telling{events: long}, 0).Monitor(context.Background(), keep); err == nil {
		t.Error("an event without bound was taken")
	}
}
