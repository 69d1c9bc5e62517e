package mesh

import (
	"context"
	"errors"
	"fmt"
	"unicode/utf8"

	"golang.org/x/sync/errgroup"
)

// Limits of messages.
const (
	MaxMessage = 64 << 10 // payload of Send and Call
	MaxAnswer  = 1 << 20  // of an answer

	queueLen = 256  // messages that wait for the wire
	inboxLen = 1024 // messages that wait for their handler
	maxCalls = 64   // of one peer that are worked on at once
)

// Errors of Send and Call.
var (
	ErrNotLinked = errors.New("not linked to that member")
	ErrBusy      = errors.New("queue is full")
	ErrTooLong   = errors.New("message is too long")
	// ErrUnknownKind says that the peer has no handler for the call.
	ErrUnknownKind = errors.New("unknown kind of message")
)

// RemoteError is what the handler of a call returned at the other side.
type RemoteError struct{ Text string }

// Error returns the text.
func (e *RemoteError) Error() string { return e.Text }

// Handler works on a message of the member from. The payload is its own. What
// it returns is the answer of a call, at most [MaxAnswer], or the error's
// text, and is dropped for a message that was only sent.
//
// Messages of one link that were sent are handled one after the other in
// their order; while the queue of [Send] is full, newer ones are dropped.
// Calls are handled in goroutines of their own, a bounded number at once, and
// their ctx ends with the link.
type Handler func(ctx context.Context, from ID, payload []byte) ([]byte, error)

// Handle makes fn the handler of messages of a kind. It is called before Run.
func (m *Mesh) Handle(kind string, fn Handler) { m.handlers[kind] = fn }

// Send queues a message for a member and never blocks. That it returns nil
// does not mean that it arrives. Errors: ErrNotLinked, ErrBusy, ErrTooLong.
// It does not keep payload.
func (m *Mesh) Send(to ID, kind string, payload []byte) error {
	if len(payload) > MaxMessage || len(kind) > maxNameLen {
		return ErrTooLong
	}
	l := m.linkTo(to)
	if l == nil {
		return ErrNotLinked
	}
	return l.put(encode(kindSend, message{Kind: kind, Payload: payload}))
}

// Call sends a message and waits for the answer. Errors: those of Send,
// ErrUnknownKind, *RemoteError, and those of ctx. ErrNotLinked is also the
// loss of the link; the call may or may not have been worked on.
func (m *Mesh) Call(ctx context.Context, to ID, kind string, payload []byte) ([]byte, error) {
	if len(payload) > MaxMessage || len(kind) > maxNameLen {
		return nil, ErrTooLong
	}
	l := m.linkTo(to)
	if l == nil {
		return nil, ErrNotLinked
	}
	id, answers := l.expect()
	defer l.forget(id)
	if err := l.put(encode(kindCall, message{Kind: kind, Payload: payload, ID: id})); err != nil {
		return nil, err
	}
	select {
	case a := <-answers:
		return a.result()
	case <-l.done:
		return nil, ErrNotLinked
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// message is the body of kindSend and kindCall.
type message struct {
	Kind    string `cbor:"1,keyasint"`
	Payload []byte `cbor:"2,keyasint,omitempty"`
	ID      uint64 `cbor:"3,keyasint,omitempty"` // of a call
}

// answer is the body of kindAnswer.
type answer struct {
	ID      uint64  `cbor:"1,keyasint"`
	Outcome outcome `cbor:"2,keyasint,omitempty"`
	Payload []byte  `cbor:"3,keyasint,omitempty"` // or the text of an error
}

type outcome uint8

const (
	outcomeDone outcome = iota
	outcomeError
	outcomeUnknown
	outcomeBusy
)

func (a answer) result() ([]byte, error) {
	switch a.Outcome {
	case outcomeDone:
		return a.Payload, nil
	case outcomeUnknown:
		return nil, ErrUnknownKind
	case outcomeBusy:
		return nil, ErrBusy
	}
	return nil, &RemoteError{string(a.Payload)}
}

func parseMessage(body []byte) (message, error) {
	var q message
	if err := decode(body, &q); err != nil {
		return message{}, err
	}
	if len(q.Kind) > maxNameLen || len(q.Payload) > MaxMessage {
		return message{}, fmt.Errorf("%w: message out of bounds", errFrame)
	}
	return q, nil
}

func parseAnswer(body []byte) (answer, error) {
	var a answer
	if err := decode(body, &a); err != nil {
		return answer{}, err
	}
	if len(a.Payload) > MaxAnswer || a.Outcome != outcomeDone && !utf8.Valid(a.Payload) {
		return answer{}, fmt.Errorf("%w: answer out of bounds", errFrame)
	}
	return a, nil
}

// deliver works on the messages of the inbox in their order, also on those
// that came in before the link broke.
func (l *link) deliver(ctx context.Context) {
	for q := range l.inbox {
		fn := l.mesh.handlers[q.Kind]
		if fn == nil {
			l.mesh.log.Debug("message of unknown kind", "peer", l.id, "kind", q.Kind)
			continue
		}
		if _, err := fn(ctx, l.id, q.Payload); err != nil {
			l.mesh.log.Debug("message was not handled", "peer", l.id, "kind", q.Kind, "err", err)
		}
	}
}

// onSend queues a message for deliver.
func (l *link) onSend(body []byte) error {
	q, err := parseMessage(body)
	if err != nil {
		return err
	}
	select {
	case l.inbox <- q:
	default:
		l.mesh.log.Debug("message dropped", "peer", l.id, "kind", q.Kind)
	}
	return nil
}

// onCall starts a goroutine that answers.
func (l *link) onCall(ctx context.Context, calls *errgroup.Group, body []byte) error {
	q, err := parseMessage(body)
	if err != nil {
		return err
	}
	work := func() error {
		a := l.work(ctx, q)
		if l.mesh.admits(l) != nil { // see exchange.advance
			return nil
		}
		select {
		case l.out <- encode(kindAnswer, a):
		case <-l.done:
		}
		return nil
	}
	if !calls.TryGo(work) {
		_ = l.put(encode(kindAnswer, answer{ID: q.ID, Outcome: outcomeBusy}))
	}
	return nil
}

func (l *link) work(ctx context.Context, q message) answer {
	fn := l.mesh.handlers[q.Kind]
	if fn == nil {
		return answer{ID: q.ID, Outcome: outcomeUnknown}
	}
	payload, err := fn(ctx, l.id, q.Payload)
	if err == nil && len(payload) > MaxAnswer {
		err = ErrTooLong
	}
	if err != nil {
		return answer{ID: q.ID, Outcome: outcomeError, Payload: []byte(clipText(err.Error(), MaxMessage))}
	}
	return answer{ID: q.ID, Payload: payload}
}

// onAnswer hands an answer to its call, if that still waits.
func (l *link) onAnswer(body []byte) error {
	a, err := parseAnswer(body)
	if err != nil {
		return err
	}
	l.mu.Lock()
	waiting := l.calls[a.ID]
	delete(l.calls, a.ID)
	l.mu.Unlock()
	if waiting != nil {
		waiting <- a
	}
	return nil
}

// expect reserves the id of a call. The channel takes one answer.
func (l *link) expect() (uint64, <-chan answer) {
	c := make(chan answer, 1)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lastCall++
	l.calls[l.lastCall] = c
	return l.lastCall, c
}

func (l *link) forget(id uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.calls, id)
}
