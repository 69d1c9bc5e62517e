package cluster

import (
	"context"
	"testing"
)

// Whoever reads a commit reads what follows from the evictions in it, be it that the committer has not taken it in yet.
func TestVerdictsOfWhatIsRead(t *testing.T) {
	s, err := Open(Config{Node: memberNode(0), Log: quiet})
	check(t, err)
	read, told := make(chan struct{}), make(chan struct{})
	evicting := false
	s.pipeline.send = func(o overlay, done chan<- error) error {
		err := s.flush(o)
		if evicting {
			close(read)
			<-told
			evicting = false
		}
		done <- err
		return nil
	}
	ran := make(chan error, 1)
	go func() { ran <- s.Run(context.Background()) }()
	for i := range 2 {
		check(t, s.Admit(t.Context(), memberAdmission(i)))
	}
	admittedAt(t, map[int]bool{0: true, 1: true}, s)
	done := make(chan error, 1)
	go func() {
		done <- s.update(t.Context(), func(t *tx) error {
			evicting = true // the committer's
			_, err := s.evict(t, memberNode(1))
			return err
		})
	}()
	<-read
	admittedAt(t, map[int]bool{0: true, 1: false}, s)
	if _, ok, err := s.Evicted(memberNode(1)); err != nil || !ok {
		t.Errorf("evicted: %v, %v", ok, err)
	}
	close(told)
	check(t, <-done)
	admittedAt(t, map[int]bool{0: true, 1: false}, s)
	check(t, s.Close())
	check(t, <-ran)
}
