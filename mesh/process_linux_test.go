package mesh_test

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"gatemesh/mesh"
)

// TestMain lets the test binary be another process of a test.
func TestMain(m *testing.M) {
	switch os.Getenv("MESH_TEST") {
	case "":
		os.Exit(m.Run())
	case "find":
		found, err := mesh.Find(context.Background(), lanConfig())
		fmt.Println("found", found, err)
	case "start": // find, and announce
		found, err := mesh.Find(context.Background(), lanConfig())
		fmt.Println("found", found, err)
		fmt.Println("announced", mesh.Announce(context.Background(), lanConfig()))
	case "member":
		m, err := mesh.New(processConfig(os.Getenv("MESH_KEY"), func(e mesh.Event) {
			if e.Kind == mesh.Stalled {
				fmt.Println("stalled")
			}
		}))
		if err != nil {
			panic(err)
		}
		m.Connect([]netip.AddrPort{netip.MustParseAddrPort(os.Getenv("MESH_JOIN"))})
		fmt.Println("runs", m.Addr())
		fmt.Println("ended", m.Run(context.Background()))
	}
	os.Exit(0)
}

func processConfig(name string, events func(mesh.Event)) mesh.Config {
	return mesh.Config{
		Key: key(name), Name: name, Cluster: [16]byte{1}, GossipKey: [32]byte{2}, Listen: "127.0.0.1:0",
		States: map[string]mesh.State{"config": newHistory(name)}, Events: events, Log: testLog(name),
	}
}

// Two real processes beside us: one is frozen and thaws, then killed. How
// soon that is seen is printed, not judged: the machine may be busy.
func TestProcessFrozenAndKilled(t *testing.T) {
	events := make(chan mesh.Event, 4096)
	m, err := mesh.New(processConfig("p0", func(e mesh.Event) {
		if e.Kind != mesh.Beat {
			events <- e
		}
	}))
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() { _ = m.Run(t.Context()) })
	defer func() { m.Close(); wg.Wait() }()

	var processes [2]*exec.Cmd
	lines := make(chan string, 64)
	for i := range processes {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "MESH_TEST=member", fmt.Sprint("MESH_KEY=p", i+1), "MESH_JOIN="+m.Addr().String())
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
		go func() {
			for s := bufio.NewScanner(out); s.Scan(); {
				if !strings.HasPrefix(s.Text(), "runs") {
					lines <- s.Text()
				}
			}
		}()
		processes[i] = cmd
	}
	synced := func() bool {
		n := 0
		for _, o := range m.Members() {
			if o.Synced && o.Status == mesh.Alive {
				n++
			}
		}
		return n == 2
	}
	victim := mesh.IDOf(key("p1").Public().(ed25519.PublicKey))
	until := func(kind mesh.EventKind) {
		t.Helper()
		for timeout := time.After(30 * time.Second); ; {
			select {
			case e := <-events:
				if e.Kind == kind && e.Member.ID == victim {
					return
				}
			case <-timeout:
				t.Fatalf("never %v", kind)
			}
		}
	}
	await(t, "meshed", synced)
	at := time.Now()
	_ = processes[0].Process.Signal(syscall.SIGSTOP)
	until(mesh.Down)
	t.Log("frozen: down after", time.Since(at).Round(time.Millisecond))
	time.Sleep(2*time.Second - min(time.Since(at), 2*time.Second)) // longer than a stall
	at = time.Now()
	_ = processes[0].Process.Signal(syscall.SIGCONT)
	select {
	case s := <-lines:
		if s != "stalled" {
			t.Errorf("it said %q", s)
		}
	case <-time.After(30 * time.Second):
		t.Error("it did not notice that it stood still")
	}
	await(t, "meshed again", synced)
	t.Log("thawed: meshed after", time.Since(at).Round(time.Millisecond))

	at = time.Now()
	_ = processes[0].Process.Kill()
	until(mesh.Down)
	t.Log("killed: down after", time.Since(at).Round(time.Millisecond))
}
