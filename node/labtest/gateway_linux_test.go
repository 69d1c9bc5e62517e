package labtest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// daemon stands for a gateway: it says which user it is and with what it was
// called, and does as it is told.
const daemon = `#!/bin/sh
case "$*" in
"up --data "*)
	echo "$(id -u) $(env | cut -d= -f1 | sort | tr '\n' ' ')$*" >&2
	trap 'echo stopped >&2; exit 0' TERM
	sleep 600 &
	echo "level=INFO msg=\"gateway ready\"" >&2
	wait $! ;;
"--socket "*" status --json") echo '{"cluster":"c","ready":true,"gateways":3,"auth_failures":7,"new":1}' ;;
"--socket "*" key show") echo gmk1-x ;;
*) echo "error: unknown command" >&2; exit 1 ;;
esac
`

// TestGateway holds the handling of a gateway's process against a program that
// is known.
func TestGateway(t *testing.T) {
	if testing.Short() {
		t.Skip("uses the machine")
	}
	lab := New(t)
	path := filepath.Join(lab.dir, "daemon")
	if err := os.WriteFile(path, []byte(daemon), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, uid := range []int{0, 65534} {
		name := fmt.Sprintf("gw%d", uid)
		g := lab.Node(name, Internet, 1+uid%2).gatewayOf(path, name, uid)
		g.Start("--key", "k")
		g.WaitReady()
		want := fmt.Sprintf("%d HOME PATH PWD XDG_RUNTIME_DIR up --data %s --key k\n", uid, g.Data)
		if log := g.Process.Log(); !strings.HasPrefix(log, want) {
			t.Errorf("log %q, want it to begin with %q", log, want)
		}
		status := g.Status()
		if status.AuthFailures == nil || *status.AuthFailures != 7 || !status.Ready || g.Key() != "gmk1-x" {
			t.Errorf("status %+v, key %q", status, g.Key())
		}
		if _, err := g.TryCLI("nonsense"); err == nil || !strings.Contains(err.Error(), "unknown command") {
			t.Errorf("an error without its reason: %v", err)
		}
		g.Freeze()
		lab.Eventually(5*time.Second, "frozen", func() bool { return state(t, g) == "T" })
		g.Thaw()
		lab.Eventually(5*time.Second, "thawed", func() bool { return state(t, g) != "T" })
		g.Kill()
		if !g.Process.Ended() {
			t.Error("killed, but there")
		}
		g.Start()
		g.WaitReady()
		g.Stop()
		if !strings.HasSuffix(g.Process.Log(), "stopped\n") {
			t.Errorf("log after stop: %q", g.Process.Log())
		}
	}
}

func state(t *testing.T, g *Gateway) string {
	t.Helper()
	f, err := stat(g.Process.cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	return f[0]
}
