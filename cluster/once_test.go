package cluster

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// A write that is repeated under its id is carried out once, also after a restart, also when both come at a time.
func TestOnce(t *testing.T) {
	dir := t.TempDir()
	var hours atomic.Int64
	now := func() time.Time { return wallStart.Add(time.Duration(hours.Load()) * time.Hour) }
	cfg := Config{Dir: dir, Node: testNode(0), Now: now}
	s, stop := start(t, cfg)
	withPool(t, s, "100.64.0.0/10")
	id := OnceID{1}
	ctx := Once(context.Background(), id)
	if _, err := s.AddDevice(ctx, "a", testKey(0)); err != nil {
		t.Fatal(err)
	}
	check(t, s.RemoveDevice(context.Background(), testKey(0)))
	repeat := func() {
		t.Helper()
		if _, err := s.AddDevice(ctx, "a", testKey(0)); !errors.Is(err, ErrRepeated) {
			t.Errorf("repeated: %v", err)
		}
	}
	repeat()
	check(t, s.KeepAnswer(context.Background(), id, []byte("answer")))
	stop()

	s, stop = start(t, cfg)
	repeat()
	if b, err := s.Answer(id); err != nil || string(b) != "answer" {
		t.Errorf("answer %q, %v", b, err)
	}
	if b, err := s.Answer(OnceID{2}); err != nil || b != nil {
		t.Errorf("answer to what nobody asked: %q, %v", b, err)
	}
	bad := Once(context.Background(), OnceID{3})
	if _, err := s.AddDevice(bad, "!", testKey(1)); err == nil {
		t.Error("a bad name was taken")
	}
	if _, err := s.AddDevice(bad, "good", testKey(1)); err != nil {
		t.Errorf("after a refusal: %v", err)
	}
	var wg sync.WaitGroup
	errs := make(chan error, 8)
	for range 8 {
		wg.Go(func() {
			_, err := s.AddDevice(Once(context.Background(), OnceID{4}), "twin", testKey(2))
			errs <- err
		})
	}
	wg.Wait()
	for done := false; len(errs) > 0; {
		switch err := <-errs; {
		case err == nil && !done:
			done = true
		case !errors.Is(err, ErrRepeated):
			t.Errorf("one of eight: %v", err)
		}
	}

	hours.Store(25)
	check(t, s.SetSettings(context.Background(), map[string][]byte{"time": []byte("passes")}))
	check(t, s.SetSettings(context.Background(), map[string][]byte{"time": []byte("has passed")}))
	if _, err := s.AddDevice(ctx, "a", testKey(0)); err != nil {
		t.Errorf("a day later: %v", err)
	}
	stop()
}

// Not more requests are remembered than is said, and the youngest are.
func TestOnceBound(t *testing.T) {
	o := onces{at: map[OnceID]uint64{}}
	id := func(i int) (id OnceID) {
		copy(id[:], fmt.Sprintf("%016d", i))
		return id
	}
	for i := range maxOnces + 500 {
		o.note(string(onceKey(id(i))), encodeOnce(wallStart, nil))
	}
	ids := o.old(wallStart)
	if len(ids) != 500 || ids[0] != id(0) || ids[499] != id(499) {
		t.Fatalf("%d are forgotten", len(ids))
	}
	for _, id := range ids {
		o.note(string(onceKey(id)), nil)
	}
	if again := o.old(wallStart); len(again) != 0 {
		t.Errorf("%d more are forgotten", len(again))
	}
	if all := o.old(wallStart.Add(2 * onceFor)); len(all) != forgetMost {
		t.Errorf("%d of the old ones are forgotten at a time", len(all))
	}
}

// What no transaction could hold cannot be written.
func TestEntityBound(t *testing.T) {
	s := replica(t, 0)
	var err error
	for i := 0; i < 8 && err == nil; i++ {
		err = s.update(context.Background(), func(tx *tx) error {
			return tx.put(settingRef("large"), fmt.Sprint("field", i), make([]byte, MaxValue))
		})
	}
	if !errors.Is(err, ErrTooLarge) {
		t.Errorf("an entity of half a megabyte: %v", err)
	}
	sound(t, s)
}
