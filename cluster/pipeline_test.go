package cluster

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
)

// held is a store whose groups are on their way until the test lets them land.
type held struct {
	*Store
	sent chan overlay // of each group
	fate chan error   // nil: it is written
}

func hold(t *testing.T) (h *held, ran chan error) {
	t.Helper()
	s, err := Open(Config{Node: testNode(0), Log: quiet})
	check(t, err)
	h = &held{Store: s, sent: make(chan overlay, 10), fate: make(chan error)}
	s.pipeline.send = func(o overlay, done chan<- error) error {
		h.sent <- o
		go func() {
			if err := <-h.fate; err != nil {
				done <- err
				return
			}
			done <- s.flush(o)
		}()
		return nil
	}
	ran = make(chan error, 1)
	go func() { ran <- s.Run(context.Background()) }()
	return h, ran
}

// put writes a setting, which sees that another is there or not.
func (h *held) put(name, sees string, want bool) <-chan error {
	done := make(chan error, 1)
	go func() {
		done <- h.update(context.Background(), func(t *tx) error {
			if _, ok, err := readSetting(t, sees); err != nil || ok != want {
				return fmt.Errorf("%s sees %s: %v, %w", name, sees, ok, err)
			}
			return t.put(settingRef(name), fieldValue, []byte{1})
		})
	}()
	synctest.Wait()
	return done
}

// While a group is on its way the next one is carried out on top of it, and nobody is told of either.
func TestPipeline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, ran := hold(t)
		a := h.put("a", "b", false)
		b := h.put("b", "a", true)
		c := h.put("c", "b", true)
		if len(h.sent) != 1 || len(a)+len(b)+len(c) != 0 {
			t.Fatalf("%d groups sent, %d writes answered, while the first is on its way", len(h.sent), len(a)+len(b)+len(c))
		}
		if _, ok, _ := h.Setting("a"); ok {
			t.Error("a write is seen before it is durable")
		}
		h.fate <- nil
		synctest.Wait()
		if len(h.sent) != 2 || len(a) != 1 || len(b)+len(c) != 0 {
			t.Fatalf("%d groups sent, %d and %d writes answered, after the first landed", len(h.sent), len(a), len(b)+len(c))
		}
		d := h.put("d", "c", true)
		h.fate <- nil
		synctest.Wait()
		h.fate <- nil
		for _, done := range []<-chan error{a, b, c, d} {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		sound(t, h.Store)
		check(t, h.Close())
		if err := <-ran; err != nil {
			t.Error(err)
		}
	})
}

// When a group fails, so does what was carried out on top of it, and the store takes no more.
func TestPipelineFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, ran := hold(t)
		told := 0
		h.Subscribe(func(refs []Ref) { told += len(refs) })
		a := h.put("a", "b", false)
		h.fate <- nil
		b := h.put("b", "a", true)
		c := h.put("c", "b", true)
		broken := errors.New("broken")
		h.fate <- broken
		if err := <-a; err != nil {
			t.Error(err)
		}
		for _, done := range []<-chan error{b, c} {
			if err := <-done; !errors.Is(err, broken) {
				t.Errorf("a write on top of one that failed: %v", err)
			}
		}
		if err := <-ran; !errors.Is(err, broken) {
			t.Errorf("committer: %v", err)
		}
		if err := <-h.put("d", "a", true); !errors.Is(err, ErrClosed) {
			t.Errorf("after a failure: %v", err)
		}
		if told != 1 {
			t.Errorf("subscribers heard of %d writes, one was durable", told)
		}
		check(t, h.Close())
	})
}

// What does not fit into a group goes with the next, in order.
func TestPipelineSplits(t *testing.T) {
	s := replica(t, 0)
	var wg sync.WaitGroup
	for i := range 64 {
		wg.Go(func() {
			err := s.SetSettings(context.Background(), map[string][]byte{fmt.Sprint(i): make([]byte, MaxValue)})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for i := range 64 {
		if v, _, err := s.Setting(fmt.Sprint(i)); err != nil || len(v) != MaxValue {
			t.Errorf("setting %d has %d bytes: %v", i, len(v), err)
		}
	}
	sound(t, s)
}
