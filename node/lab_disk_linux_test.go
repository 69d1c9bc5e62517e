package node_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gatemesh/node/labtest"
)

// TestLabDiskFull has another process fill the volume of a gateway's data, in one go and slowly, while devices are
// being enrolled. The gateway serves on, refuses changes in plain words, starts again on the full disk after a kill,
// and takes changes again when there is room. Nothing that was acknowledged is missing.
func TestLabDiskFull(t *testing.T) {
	patient(t)
	lab := newLab(t)
	g := lab.Gateway("gw1")
	if err := unix.Mount("tmpfs", g.Data, "tmpfs", 0, "size=200m,mode=0700"); err != nil {
		t.Skipf("LAB SKIPPED, nothing was tested: mount a small volume: %v", err)
	}
	t.Cleanup(func() {
		g.Kill()
		if err := unix.Unmount(g.Data, unix.MNT_DETACH); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	g.Start()
	g.WaitReady()
	clients := addClients(t, lab, g, 2)
	connect(t, lab, clients)
	pings := startPings(lab, clients)
	load := enrol(g)

	var table labtest.Table
	table.Row("filled", "enrolled before", "refused with", "changes again after")
	for _, slowly := range []bool{false, true} {
		began := time.Now()
		filler := fillVolume(t, g.Data, slowly)
		lab.Eventually(30*time.Second, "changes are refused", func() bool { return load.refused() != "" })
		line := load.refused()
		if !strings.Contains(line, "the disk is nearly full") || !strings.Contains(line, "hint: make room on the volume of") {
			t.Errorf("refused with %q", line)
		}
		filler.wait(t)
		var status struct {
			Ready bool
			Disk  struct {
				ReadOnly bool `json:"read_only"`
			}
		}
		if g.JSON(&status, "status"); !status.Ready || !status.Disk.ReadOnly {
			t.Errorf("status on a full disk: %+v", status)
		}
		if out := g.CLI("gateway", "list"); !strings.Contains(out, "read-only") {
			t.Errorf("gateway list on a full disk:\n%s", out)
		}
		lab.Observe(2 * time.Second)
		everyone := func(*labtest.Client) bool { return true }
		for i, took := range pings.waitBack(time.Now(), everyone) {
			lab.Bar(took < time.Second, "client %d is served on a full disk: answer after %v", i, took)
		}
		if slowly { // and what a restart needs is there
			g.Kill()
			g.Start()
			g.WaitReady()
			if err := load.enrol(); err == nil || !strings.Contains(err.Error(), "the disk is nearly full") {
				t.Errorf("a change after a restart on a full disk: %v", err)
			}
			pings.waitBack(time.Now(), everyone)
		}
		filled, mark := time.Since(began), time.Now()
		if err := os.Remove(filler.path); err != nil {
			t.Fatal(err)
		}
		lab.Eventually(10*time.Second, "changes are taken again", func() bool { return load.enrol() == nil })
		table.Row(fmt.Sprint(filled.Round(time.Millisecond), " slowly: ", slowly), load.count(), line, time.Since(mark))
		load.reset()
	}
	load.stop()
	pings.stop()
	g.Kill()
	g.Start()
	g.WaitReady()
	there := map[string]bool{}
	for _, d := range g.Devices() {
		there[d.Name] = true
	}
	for _, name := range load.names() {
		if !there[name] {
			t.Errorf("%s was acknowledged and is missing", name)
		}
	}
	if strings.Contains(g.Process.Log(), "fatal error") {
		t.Error("the gateway died")
	}
	g.Stop()
	t.Logf("%d devices acknowledged, none missing\n%s", load.count(), &table)
}

// filling is a process that fills a volume with one file.
type filling struct {
	path string
	cmd  *exec.Cmd
}

// fillVolume starts to fill the volume of a directory to the last byte.
func fillVolume(t *testing.T, dir string, slowly bool) *filling {
	t.Helper()
	f := &filling{path: filepath.Join(dir, "somebody-elses")}
	script := "cat /dev/zero >" + f.path
	if slowly {
		script = "while head -c 1000000 /dev/zero; do sleep 0.02; done >" + f.path + "; exit 1"
	}
	f.cmd = exec.Command("sh", "-c", script)
	if err := f.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.cmd.Process.Kill() })
	return f
}

// wait waits until the volume is full.
func (f *filling) wait(t *testing.T) {
	t.Helper()
	if err := f.cmd.Wait(); err == nil {
		t.Error("the volume was not filled")
	}
}

// enrolling enrols one device after the other.
type enrolling struct {
	g    *labtest.Gateway
	quit chan struct{}
	done chan struct{}

	mu   sync.Mutex // guards the fields below, and is held while one is being enrolled
	next int
	ok   []string
	last string // words of the last refusal
}

func enrol(g *labtest.Gateway) *enrolling {
	e := &enrolling{g: g, quit: make(chan struct{}), done: make(chan struct{})}
	go e.run()
	return e
}

func (e *enrolling) run() {
	defer close(e.done)
	for {
		select {
		case <-e.quit:
			return
		case <-time.After(10 * time.Millisecond):
		}
		if e.refused() == "" {
			_ = e.enrol()
		}
	}
}

func (e *enrolling) enrol() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.next++
	name := fmt.Sprintf("load-%d", e.next)
	_, err := e.g.TryCLI("device", "add", name)
	if err != nil {
		e.last = err.Error()
		return err
	}
	e.ok = append(e.ok, name)
	return nil
}

func (e *enrolling) refused() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.last
}

func (e *enrolling) reset() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.last = ""
}

func (e *enrolling) names() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.ok
}

func (e *enrolling) count() int { return len(e.names()) }

func (e *enrolling) stop() {
	close(e.quit)
	<-e.done
}
