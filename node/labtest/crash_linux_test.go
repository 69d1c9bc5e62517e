package labtest

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestAlive checks whose leftovers are removed.
func TestAlive(t *testing.T) {
	own := namePrefix + owner() + "-1-x"
	for name, want := range map[string]bool{
		own:                                  true,
		ifacePrefix + base36(1) + "-1":       true,
		"gml-zzzzz-1-1-x":                    false, // beyond any process id
		strings.Replace(own, "-1-x", "9", 1): true,  // no such form
		namePrefix + base36(int64(os.Getpid())) + "-1-1-x": false, // our id, another start
		ifacePrefix + "zzzzz-1":                            false,
		"docker0":                                          true,
		"gml-?-1-1":                                        true,
	} {
		if got := alive(name); got != want {
			t.Errorf("alive(%q) = %v", name, got)
		}
	}
}

// TestLabCrash kills a test process in the middle of a lab: its children die
// with it, and the next lab removes the rest.
func TestLabCrash(t *testing.T) {
	if os.Getenv("GATEMESH_LAB_VICTIM") != "" {
		crash(t)
		return
	}
	if testing.Short() {
		t.Skip("uses the machine")
	}
	New(t) // or skip
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	victim := exec.CommandContext(t.Context(), exe, "-test.run=^TestLabCrash$", "-test.timeout=60s")
	victim.Env = append(os.Environ(), "GATEMESH_LAB_VICTIM=1")
	out, err := victim.StdoutPipe()
	if err == nil {
		err = victim.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	var own string
	var children []int
	for lines := bufio.NewScanner(out); lines.Scan(); {
		f := strings.Fields(lines.Text())
		if len(f) < 3 || f[0] != "victim" {
			continue
		}
		own = f[1]
		for _, text := range f[2:] {
			pid, err := strconv.Atoi(text)
			if err != nil {
				t.Fatal(err)
			}
			children = append(children, pid)
		}
		break
	}
	if leftovers(t, own) == 0 {
		t.Error("the victim has nothing that it could leave: this test tests nothing")
	}
	if err := victim.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := victim.Wait(); err == nil || len(children) != 3 {
		t.Fatalf("victim: %v, children %v", err, children)
	}
	for _, pid := range children {
		if _, gone := poll(10*time.Second, func() bool { return !running(pid) }); !gone {
			t.Errorf("process %d lives on", pid)
		}
	}
	sweepNow()
	if n := leftovers(t, own); n != 0 {
		t.Errorf("%d names of the victim are left", n)
	}
}

// crash is the victim.
func crash(t *testing.T) {
	lab := New(t)
	node, gateway, clients := stockGateway(t, lab)
	ping := node.Ping(node.Addr, 100*time.Millisecond)
	fmt.Println("victim", owner(), gateway.Process.cmd.Process.Pid, clients[0].Process.cmd.Process.Pid, ping.process.cmd.Process.Pid)
	<-t.Context().Done()
}

// running says whether a process is there and not a zombie.
func running(pid int) bool {
	f, err := stat(pid)
	return err == nil && f[0] != "Z"
}

// leftovers counts what bears the name of a process.
func leftovers(t *testing.T, owner string) (n int) {
	t.Helper()
	pid, _, _ := strings.Cut(owner, "-")
	for dir, prefix := range map[string]string{
		netnsDir:  namePrefix + owner,
		"/tmp":    namePrefix + owner,
		socketDir: ifacePrefix + pid + "-",
	} {
		names, err := filepath.Glob(filepath.Join(dir, prefix+"*"))
		if err != nil {
			t.Fatal(err)
		}
		n += len(names)
	}
	return n
}
