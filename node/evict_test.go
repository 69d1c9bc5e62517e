package node

import (
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"gatemesh/cluster"
	"gatemesh/node/api"
)

// Which gateway is admitted again is never a guess.
func TestFindWaiting(t *testing.T) {
	key := func(i uint64) []byte { return binary.BigEndian.AppendUint64(make([]byte, 24), i) }
	id := func(k []byte) string { return cluster.NodeOf(k).String() }
	seen := map[string]uint64{}
	var a, b []byte // whose ids begin alike
	for i := uint64(0); b == nil; i++ {
		k := key(i)
		if j, ok := seen[id(k)[:minGatewayID]]; ok {
			a, b = key(j), k
		}
		seen[id(k)[:minGatewayID]] = i
	}
	other := key(1 << 40)
	all := []cluster.Admission{{Key: a, Name: "one"}, {Key: b, Name: "twin"}, {Key: other, Name: "twin"}}
	for ref, want := range map[string][]byte{
		"one": a, id(a): a, id(b): b, id(other): other,
		id(other)[:minGatewayID]: other,
	} {
		if got, err := findWaiting(all, ref); err != nil || id(got.Key) != id(want) {
			t.Errorf("%s: %v, %v", ref, got, err)
		}
	}
	for ref, candidates := range map[string][][]byte{"twin": {b, other}, id(a)[:minGatewayID]: {a, b}} {
		_, err := findWaiting(all, ref)
		var no *api.Error
		if !errors.As(err, &no) || no.Code != api.Ambiguous || no.Hint == "" {
			t.Errorf("%s: %v", ref, err)
			continue
		}
		for _, k := range candidates {
			if !strings.Contains(no.Message, id(k)) {
				t.Errorf("%s: %s lacks %s", ref, no.Message, id(k))
			}
		}
	}
	for _, ref := range []string{"", "nobody", id(other)[:minGatewayID-1]} {
		var no *api.Error
		if _, err := findWaiting(all, ref); !errors.As(err, &no) || no.Code != api.NotFound {
			t.Errorf("%q: %v", ref, err)
		}
	}
}
