package mesh

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestStrangersDoNotFillTheLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		l := NewStrangerLog(slog.New(slog.NewTextHandler(&out, nil)))
		for range 1000 {
			l.Warn("wrong key", "from", "a")
			l.Warn("wrong code", "from", "b")
		}
		time.Sleep(strangerPause)
		l.Warn("wrong key", "from", "c")
		time.Sleep(strangerPause)
		l.Warn("wrong key", "from", "d")
		got := strings.Split(strings.TrimSpace(out.String()), "\n")
		want := []string{
			`msg="wrong key" from=a`, `msg="wrong code" from=b`, `msg="wrong key" from=c not_shown=999`,
			`msg="wrong key" from=d`,
		}
		if len(got) != len(want) {
			t.Fatalf("%q", got)
		}
		for i := range want {
			if !strings.HasSuffix(got[i], want[i]) {
				t.Errorf("line %d: %s", i, got[i])
			}
		}
	})
}
