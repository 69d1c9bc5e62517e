package cluster

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

var kills = flag.Int("cluster.kills", 20, "how often TestKill kills")

// childDir names the variable by which the test binary is told to be the writer
// that TestKill kills.
const childDir = "CLUSTER_TEST_CHILD_DIR"

// child writes until it is killed, and prints each key that was acknowledged.
func child() bool {
	dir := os.Getenv(childDir)
	if dir == "" {
		return false
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	s, err := Open(Config{Dir: dir, Node: testNode(0), Log: quiet})
	if err != nil {
		fmt.Println("error:", err)
		return true
	}
	go func() { _ = s.Run(ctx) }()
	fmt.Println("stamp", s.Stamp())
	var mu sync.Mutex // guards out
	out := bufio.NewWriter(os.Stdout)
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				name := fmt.Sprintf("%d-%d-%d", os.Getpid(), w, i)
				err := s.SetSettings(ctx, map[string][]byte{name: []byte(name), "both/" + name: []byte(name)})
				mu.Lock()
				if err != nil {
					fmt.Fprintln(out, "error:", err)
				} else {
					fmt.Fprintln(out, "ok", name, s.Stamp())
				}
				_ = out.Flush()
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return true
}

// TestKill kills a writer with SIGKILL again and again: every write that was
// acknowledged is there, none is there by half, the store opens each time, and
// stamps go on above those given before.
func TestKill(t *testing.T) {
	rounds := *kills
	if testing.Short() {
		rounds = 5
	}
	dir := t.TempDir()
	var acknowledged []string
	var last uint64
	for range rounds {
		names, stamp := runAndKill(t, dir, last)
		acknowledged = append(acknowledged, names...)
		last = max(last, stamp)
	}
	s := open(t, Config{Dir: dir, Node: testNode(0)})
	if got := s.Stamp(); got <= last {
		t.Errorf("stamp %d after %d", got, last)
	}
	for _, name := range acknowledged {
		for _, n := range []string{name, "both/" + name} {
			if v, ok, err := s.Setting(n); err != nil || !ok || string(v) != name {
				t.Fatalf("setting %s is %q, %v, %v", n, v, ok, err)
			}
		}
	}
	check(t, s.eachEntity(kindSetting, func(id []byte, _ *entity) error {
		other := "both/" + string(id)
		if strings.HasPrefix(string(id), "both/") {
			other = strings.TrimPrefix(string(id), "both/")
		}
		if _, ok, err := s.Setting(other); err != nil || !ok {
			t.Errorf("setting %s is there without %s: %v", id, other, err)
		}
		return nil
	}))
	sound(t, s)
	t.Logf("%d acknowledged writes in %d runs, none lost", len(acknowledged), rounds)
}

func runAndKill(t *testing.T, dir string, last uint64) (names []string, stamp uint64) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childDir+"="+dir)
	out, err := cmd.StdoutPipe()
	check(t, err)
	check(t, cmd.Start())
	lines := bufio.NewScanner(out)
	stop := 1 + rand.IntN(200)
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		switch f[0] {
		case "stamp":
			if first, _ := strconv.ParseUint(f[1], 10, 64); first <= last {
				t.Errorf("stamp %d after %d", first, last)
			}
		case "ok":
			names = append(names, f[1])
			n, _ := strconv.ParseUint(f[2], 10, 64)
			stamp = max(stamp, n)
		default:
			t.Errorf("writer: %s", lines.Text())
		}
		if len(names) == stop {
			_ = cmd.Process.Kill()
		}
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if len(names) == 0 {
		t.Fatal("the writer wrote nothing")
	}
	return names, stamp
}
