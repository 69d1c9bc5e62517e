package mesh

import (
	"strings"
	"testing"
)

func TestCommonVersion(t *testing.T) {
	for _, x := range []struct {
		oldest, newest, version uint
		ok                      bool
		text                    string
	}{
		{protoMin, protoMax, protoMax, true, ""},
		{protoMin, protoMax + 3, protoMax, true, ""},
		{0, protoMin, protoMin, true, ""},
		{protoMax + 1, protoMax + 2, 0, false, "too new: you speak 2 to 3 of the protocol, the other side 1"},
		{0, 0, 0, false, "too old: you speak 0 of the protocol, the other side 1"},
	} {
		version, ok := common(x.oldest, x.newest)
		if ok != x.ok || ok && version != x.version {
			t.Errorf("%d to %d: %d, %v", x.oldest, x.newest, version, ok)
		}
		if text := unlike(x.oldest, x.newest); !ok && protoMax == 1 && !strings.Contains(text, x.text) {
			t.Errorf("%d to %d: %s", x.oldest, x.newest, text)
		}
	}
}
