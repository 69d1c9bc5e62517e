package mesh

import (
	"testing"
	"time"
)

func TestPlan(t *testing.T) {
	now := time.Unix(1, 0)
	a, b := []byte("a"), []byte("b")
	for name, c := range map[string]struct {
		r     replica
		ours  []byte
		want  step
		check func(*replica) bool
	}{
		"first":   {replica{ask: true}, a, step{digest: true, want: true}, nil},
		"nothing": {replica{known: true, theirs: a}, a, step{}, nil},
		"push": {
			replica{known: true, theirs: a, push: true},
			b,
			step{delta: true, from: a},
			func(r *replica) bool { return r.streams && !r.push && string(r.basis) == "a" },
		},
		"push to one that has it": {replica{known: true, theirs: b, push: true}, b, step{from: b}, nil},
		"push before their digest": {
			replica{push: true},
			b,
			step{},
			func(r *replica) bool { return r.push },
		},
		"push while one is in flight": {
			replica{known: true, theirs: a, push: true, inFlight: now},
			b,
			step{},
			func(r *replica) bool { return r.push },
		},
		"they want an answer and lack nothing": {replica{known: true, theirs: a, got: true, answer: true}, a, step{from: a, end: true}, nil},
		"they want an answer":                  {replica{known: true, theirs: a, got: true, answer: true, sent: b}, b, step{delta: true, from: a, end: true}, nil},
		"theirs differs, ours they never saw":  {replica{known: true, theirs: a, got: true}, b, step{digest: true, delta: true, from: a}, nil},
		"theirs differs, they ask":             {replica{known: true, theirs: a, got: true, tell: true, sent: b}, b, step{digest: true, delta: true, from: a}, nil},
		"theirs is the same, they ask":         {replica{known: true, theirs: b, got: true, tell: true}, b, step{from: b}, nil},
		"stuck":                                {replica{known: true, theirs: a, got: true, stuck: true, sent: b}, b, step{from: a}, nil},
		"stuck, but we have changed":           {replica{known: true, theirs: a, push: true, stuck: true}, b, step{delta: true, from: a}, nil},
		"offer":                                {replica{known: true, theirs: a, offer: true}, b, step{digest: true, ask: true, from: a}, nil},
		"offer to one that has it":             {replica{known: true, theirs: b, offer: true}, b, step{ask: true, from: b}, nil},
		"time for a digest":                    {replica{known: true, theirs: b, rhythm: true, synced: true}, b, step{digest: true, ask: true, from: b}, nil},
		"time for a digest, not synced":        {replica{known: true, theirs: b, rhythm: true}, b, step{digest: true, want: true, ask: true, from: b}, nil},
		"acknowledge":                          {replica{known: true, theirs: a, ack: true}, a, step{digest: true, ack: true, from: a}, nil},
	} {
		r := c.r
		got := r.plan(c.ours, now)
		if got.digest != c.want.digest || got.want != c.want.want || got.ack != c.want.ack || got.ask != c.want.ask ||
			got.delta != c.want.delta || got.end != c.want.end || got.delta && string(got.from) != string(c.want.from) {
			t.Errorf("%s: %+v", name, got)
		}
		if c.check != nil && !c.check(&r) {
			t.Errorf("%s: left %+v", name, r)
		}
		if got.digest && string(r.sent) != string(c.ours) {
			t.Errorf("%s: sent is not noted", name)
		}
	}
}

func TestHeard(t *testing.T) {
	now := time.Unix(100, 0)
	r := replica{basis: []byte("a"), streams: true}
	r.heard(digest{Have: []byte("x"), Want: true}, now)
	if r.known || !r.answer {
		t.Error("a digest that crossed our delta counts, or its wish does not")
	}
	r = replica{basis: []byte("a"), inFlight: now.Add(-time.Second)}
	r.heard(digest{Have: []byte("b"), Ack: true}, now)
	if !r.inFlight.IsZero() || r.stuck || string(r.theirs) != "b" || !r.got {
		t.Errorf("acknowledged: %+v", r)
	}
	r = replica{basis: []byte("a"), inFlight: now.Add(-time.Second)}
	r.heard(digest{Have: []byte("a"), Ack: true}, now)
	if !r.stuck {
		t.Error("acknowledged without progress")
	}
	r.heard(digest{Have: []byte("a")}, now)
	if r.stuck {
		t.Error("stuck for ever")
	}
	r = replica{inFlight: now.Add(-flightTimeout)}
	r.heard(digest{Have: []byte("a")}, now)
	if !r.known || !r.inFlight.IsZero() {
		t.Error("an acknowledgement that never comes blocks for ever")
	}
}
