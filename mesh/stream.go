package mesh

import (
	"fmt"
	"iter"
	mrand "math/rand/v2"
	"time"
)

// stream is a delta that is being sent.
type stream struct {
	r      *replica
	next   func() ([]byte, error, bool)
	stop   func()
	answer bool
	parts  int
}

// write sends digests and deltas. Deltas of several states take turns, part
// by part.
func (x *exchange) write() error {
	var streams []*stream
	defer func() {
		for _, s := range streams {
			s.stop()
		}
	}()
	period := time.NewTimer(digestPeriod/2 + mrand.N(digestPeriod))
	defer period.Stop()
	for {
		begun, err := x.plan()
		if err != nil {
			return err
		}
		streams = append(streams, begun...)
		if len(streams) > 0 {
			s := streams[0]
			more, err := x.advance(s)
			if err != nil {
				return err
			}
			if streams = streams[1:]; more {
				streams = append(streams, s)
			}
			continue
		}
		select {
		case <-x.kicked:
		case <-period.C:
			// In the middle of a delta ours says nothing that is of use.
			x.each("", func(r *replica) { r.rhythm = !r.merging })
			period.Reset(digestPeriod/2 + mrand.N(digestPeriod))
		case <-x.ended:
			return nil
		case <-x.link.done:
			return nil
		}
	}
}

// plan sends the digests that are due and returns the deltas that begin.
func (x *exchange) plan() ([]*stream, error) {
	var begun []*stream
	for _, r := range x.replicas {
		x.mu.Lock()
		busy := r.busy()
		x.mu.Unlock()
		if !busy {
			continue
		}
		ours := r.state.Digest()
		if len(ours) > maxDigest {
			return begun, fmt.Errorf("digest of %s is too long", r.name)
		}
		x.mu.Lock()
		s := r.plan(ours, time.Now())
		x.mu.Unlock()
		if s.digest {
			d := digest{Name: r.name, Have: ours, Want: s.want, Ack: s.ack, Ask: s.ask}
			if err := x.wire.write(bulkTimeout, encode(kindDigest, d)); err != nil {
				return begun, fmt.Errorf("write bulk: %w", err)
			}
		}
		switch {
		case s.delta:
			next, stop := iter.Pull2(r.state.Delta(s.from))
			begun = append(begun, &stream{r: r, next: next, stop: stop, answer: s.end})
		case s.end:
			if err := x.wire.write(bulkTimeout, encode(kindEnd, end{r.name, true})); err != nil {
				return begun, fmt.Errorf("write bulk: %w", err)
			}
		}
	}
	return begun, nil
}

// advance sends the next part of a delta, or its end, and says whether there
// is more.
func (x *exchange) advance(s *stream) (bool, error) {
	data, err, ok := s.next()
	if err == nil && ok && len(data) > maxPart {
		err = fmt.Errorf("part of %d bytes", len(data))
	}
	if err != nil {
		x.link.mesh.log.Error("read delta", "state", s.r.name, "err", err)
	} else if ok {
		// What was read after an eviction is known here is none of the evicted
		// one's business: it may be the keys that replace those it has.
		if err := x.link.mesh.admits(x.link); err != nil {
			s.stop()
			return false, err
		}
		s.parts++
		if err := x.wire.write(bulkTimeout, encode(kindPart, part{s.r.name, data})); err != nil {
			s.stop()
			return false, fmt.Errorf("write bulk: %w", err)
		}
		return true, nil
	}
	s.stop()
	x.mu.Lock()
	s.r.streams = false
	if s.parts > 0 {
		s.r.inFlight = time.Now()
	}
	x.mu.Unlock()
	if s.parts == 0 && !s.answer {
		return false, nil
	}
	if err := x.wire.write(bulkTimeout, encode(kindEnd, end{s.r.name, s.answer})); err != nil {
		return false, fmt.Errorf("write bulk: %w", err)
	}
	return false, nil
}
