package mesh_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"iter"
	"maps"
	"slices"
	"sync"

	"github.com/fxamacker/cbor/v2"
)

// history is a State for tests: per origin a list that only grows. A part
// holds some entries of one origin and is refused, as behind, when something
// before it is missing.
type history struct {
	self    string
	partLen int // entries per part
	changed chan struct{}

	mu      sync.Mutex // guards the fields below
	lists   map[string][][]byte
	merges  int
	onMerge func() // called at each merge, without the lock; nil: nothing
}

type historyPart struct {
	Origin string
	From   int
	Values [][]byte
}

func newHistory(self string) *history {
	return &history{self: self, partLen: 16, changed: make(chan struct{}, 1), lists: map[string][][]byte{}}
}

// add appends an entry of our own.
func (h *history) add(value []byte) {
	h.mu.Lock()
	h.lists[h.self] = append(h.lists[h.self], value)
	h.mu.Unlock()
	select {
	case h.changed <- struct{}{}:
	default:
	}
}

// total counts all entries.
func (h *history) total() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := 0
	for _, l := range h.lists {
		n += len(l)
	}
	return n
}

func (h *history) Changed() <-chan struct{} { return h.changed }

func (h *history) Digest() []byte {
	h.mu.Lock()
	defer h.mu.Unlock()
	b := []byte{}
	for _, o := range slices.Sorted(maps.Keys(h.lists)) {
		b = append(b, byte(len(o)))
		b = append(b, o...)
		b = binary.BigEndian.AppendUint32(b, uint32(len(h.lists[o])))
	}
	return b
}

func parseHistory(b []byte) (map[string]int, error) {
	have := map[string]int{}
	for len(b) > 0 {
		n := int(b[0])
		if len(b) < 1+n+4 {
			return nil, errors.New("bad digest")
		}
		have[string(b[1:1+n])] = int(binary.BigEndian.Uint32(b[1+n:]))
		b = b[1+n+4:]
	}
	return have, nil
}

func (h *history) Delta(digest []byte) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		have, err := parseHistory(digest)
		if err != nil {
			yield(nil, err)
			return
		}
		h.mu.Lock()
		lists := maps.Clone(h.lists)
		h.mu.Unlock()
		for _, o := range slices.Sorted(maps.Keys(lists)) {
			for i := have[o]; i < len(lists[o]); i += h.partLen {
				p := historyPart{o, i, lists[o][i:min(i+h.partLen, len(lists[o]))]}
				b, err := cbor.Marshal(p)
				if !yield(b, err) || err != nil {
					return
				}
			}
		}
	}
}

func (h *history) Merge(b []byte) (bool, error) {
	var p historyPart
	if err := cbor.Unmarshal(b, &p); err != nil {
		return false, err
	}
	h.mu.Lock()
	h.merges++
	f := h.onMerge
	n := len(h.lists[p.Origin])
	behind := p.From > n
	if !behind && p.From+len(p.Values) > n {
		h.lists[p.Origin] = append(h.lists[p.Origin], p.Values[n-p.From:]...)
	}
	h.mu.Unlock()
	if f != nil {
		f()
	}
	return behind, nil
}

func equal(states ...*history) bool {
	for _, s := range states[1:] {
		if !bytes.Equal(s.Digest(), states[0].Digest()) {
			return false
		}
	}
	return true
}
