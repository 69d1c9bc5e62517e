package mesh_test

import (
	"bufio"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"gatemesh/mesh"
)

func lanConfig() mesh.FindConfig {
	port, _ := strconv.ParseUint(os.Getenv("MESH_PORT"), 10, 16)
	return mesh.FindConfig{
		Key: key(os.Getenv("MESH_KEY")), ClusterKey: [32]byte{3}, Port: uint16(port),
		Log: testLog(os.Getenv("MESH_KEY")),
	}
}

// lanLab is a bridge in a namespace, and namespaces on it.
type lanLab struct{ name string }

func (l lanLab) ip(t *testing.T, args ...string) {
	t.Helper()
	out, err := exec.Command("ip", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, out)
	}
}

func newLANLab(t *testing.T, hosts int, ipv4 bool) lanLab {
	l := lanLab{fmt.Sprintf("mlan%d", os.Getpid())}
	run := func(args ...string) { t.Helper(); l.ip(t, args...) }
	ns := func(i int) string { return fmt.Sprint(l.name, "-", i) }
	run("netns", "add", ns(0))
	t.Cleanup(func() { run("netns", "del", ns(0)) })
	run("-n", ns(0), "link", "add", "br0", "type", "bridge", "mcast_snooping", "0")
	run("-n", ns(0), "link", "set", "br0", "up")
	for i := 1; i <= hosts; i++ {
		run("netns", "add", ns(i))
		t.Cleanup(func() { run("netns", "del", ns(i)) })
		port := fmt.Sprint("p", i)
		run("-n", ns(i), "link", "add", "eth0", "type", "veth", "peer", "name", port, "netns", ns(0))
		run("-n", ns(0), "link", "set", port, "master", "br0", "up")
		run("-n", ns(i), "link", "set", "lo", "up")
		if ipv4 {
			run("-n", ns(i), "addr", "add", fmt.Sprintf("192.0.2.%d/24", i), "dev", "eth0")
		}
		run("-n", ns(i), "link", "set", "eth0", "up")
	}
	for i := 1; i <= hosts; i++ { // duplicate address detection
		for range 100 {
			out, err := exec.Command("ip", "-n", ns(i), "-6", "addr", "show", "dev", "eth0").Output()
			if err == nil && strings.Contains(string(out), "fe80") && !strings.Contains(string(out), "tentative") {
				break
			}
			time.Sleep(50 * time.Millisecond)
		}
	}
	return l
}

// run starts a process on host i and returns its first line of output.
func (l lanLab) run(t *testing.T, i int, mode, key string) <-chan string {
	t.Helper()
	cmd := exec.Command("ip", "netns", "exec", fmt.Sprint(l.name, "-", i), os.Args[0])
	cmd.Env = append(os.Environ(), "MESH_TEST="+mode, "MESH_KEY="+key, fmt.Sprint("MESH_PORT=", 7000+i))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	lines := make(chan string, 1)
	go func() {
		line, _ := bufio.NewReader(out).ReadString('\n')
		lines <- strings.TrimSpace(line)
	}()
	return lines
}

func line(t *testing.T, c <-chan string) string {
	t.Helper()
	select {
	case s := <-c:
		return s
	case <-time.After(30 * time.Second):
		t.Fatal("no answer in 30 seconds")
		return ""
	}
}

// Real multicast DNS between namespaces: three start at once and one of them
// begins; one that comes later finds it.
func TestLANSystem(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: multicast DNS between namespaces needs root")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("SKIPPED: multicast DNS between namespaces needs ip: ", err)
	}
	probe := fmt.Sprintf("mlan%d-probe", os.Getpid())
	if out, err := exec.Command("ip", "netns", "add", probe).CombinedOutput(); err != nil {
		t.Skipf("SKIPPED: no namespaces here: %s", out)
	}
	_ = exec.Command("ip", "netns", "del", probe).Run()

	t.Run("ipv4", func(t *testing.T) {
		l := newLANLab(t, 4, true)
		began := time.Now()
		var starts []<-chan string
		for i := 1; i <= 3; i++ {
			starts = append(starts, l.run(t, i, "start", fmt.Sprint("s", i)))
		}
		begun := 0
		for i, c := range starts {
			s := line(t, c)
			t.Logf("host %d: %s, after %v", i+1, s, time.Since(began).Round(time.Millisecond))
			if s == "found [] <nil>" {
				begun++
			} else if !strings.HasPrefix(s, "found [192.0.2.") && !strings.HasPrefix(s, "found [[fe80") {
				t.Errorf("host %d: %s", i+1, s)
			}
		}
		if begun != 1 {
			t.Errorf("%d began", begun)
		}
		began = time.Now()
		s := line(t, l.run(t, 4, "find", "s4"))
		t.Logf("later: %s, after %v", s, time.Since(began).Round(time.Millisecond))
		for i := 1; i <= 3; i++ {
			if a := netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), uint16(7000+i)); !strings.Contains(s, a.String()) &&
				!strings.Contains(s, fmt.Sprint("]:", 7000+i)) {
				t.Errorf("%v was not found: %s", a, s)
			}
		}
	})
	t.Run("ipv6 link-local", func(t *testing.T) {
		l := newLANLab(t, 2, false)
		first := line(t, l.run(t, 1, "start", "s1"))
		second := line(t, l.run(t, 2, "find", "s2"))
		if first != "found [] <nil>" || !strings.HasPrefix(second, "found [[fe80") || !strings.Contains(second, "%eth0") {
			t.Errorf("first: %s; second: %s", first, second)
		}
	})
}
