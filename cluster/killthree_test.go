package cluster

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// childMember names the variable by which the test binary is told to be one of the gateways of TestKillThree: its
// number, and the directory of all.
const childMember = "CLUSTER_TEST_CHILD_MEMBER"

// member is one gateway's store: it writes, and pulls what the others have, until it is killed. It prints each name
// that was acknowledged.
func member() bool {
	number, root, ok := strings.Cut(os.Getenv(childMember), " ")
	if !ok {
		return false
	}
	i, err := strconv.Atoi(number)
	if err != nil {
		panic(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	s, err := Open(Config{Dir: memberDir(root, i), Node: testNode(i), Log: quiet})
	if err != nil {
		fmt.Println("open:", err)
		return true
	}
	go func() { _ = s.Run(ctx) }()
	_ = os.Remove(memberSocket(root, i))
	l, err := net.Listen("unix", memberSocket(root, i))
	if err != nil {
		panic(err)
	}
	go serveDeltas(s, l)
	for j := range 3 {
		if j != i {
			go func() {
				for ctx.Err() == nil {
					_ = pullFrom(s, memberSocket(root, j))
					time.Sleep(5 * time.Millisecond)
				}
			}()
		}
	}
	writeNames(ctx, s, i)
	return true
}

func memberDir(root string, i int) string    { return filepath.Join(root, fmt.Sprint("store", i)) }
func memberSocket(root string, i int) string { return filepath.Join(root, fmt.Sprint(i)) }

// writeNames writes settings of its own, and ones that all write, and prints what was acknowledged.
func writeNames(ctx context.Context, s *Store, i int) {
	var mu sync.Mutex // guards stdout
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				name := fmt.Sprintf("%d-%d-%d-%d", i, os.Getpid(), w, n)
				err := s.SetSettings(ctx, map[string][]byte{name: []byte(name), "shared": []byte(name)})
				mu.Lock()
				if err != nil {
					fmt.Println("error:", err)
				} else {
					fmt.Println("ok", name)
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
}

// serveDeltas answers each connection's digest with what its holder lacks, and an empty part.
func serveDeltas(s *Store, l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			digest, err := readPart(c)
			if err != nil {
				return
			}
			for p, err := range s.Delta(digest) {
				if err != nil || writePart(c, p) != nil {
					return
				}
			}
			_ = writePart(c, nil)
		}()
	}
}

// pullFrom merges what another lacks not. It may break off anywhere.
func pullFrom(s *Store, socket string) error {
	c, err := net.Dial("unix", socket)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := writePart(c, s.Digest()); err != nil {
		return err
	}
	for {
		p, err := readPart(c)
		if err != nil || len(p) == 0 {
			return err
		}
		if _, err := s.Merge(p); err != nil {
			return err
		}
	}
}

func writePart(w io.Writer, b []byte) error {
	_, err := w.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...))
	return err
}

func readPart(r io.Reader) ([]byte, error) {
	var n [4]byte
	if _, err := io.ReadFull(r, n[:]); err != nil {
		return nil, err
	}
	b := make([]byte, min(binary.BigEndian.Uint32(n[:]), maxPart))
	_, err := io.ReadFull(r, b)
	return b, err
}

// running is a member as a process.
type running struct {
	cmd   *exec.Cmd
	mu    sync.Mutex // guards the fields below
	names []string
	wrong []string
	done  chan struct{}
}

func startMember(t *testing.T, root string, i int) *running {
	t.Helper()
	m := &running{cmd: exec.Command(os.Args[0]), done: make(chan struct{})}
	m.cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d %s", childMember, i, root))
	m.cmd.Stderr = os.Stderr
	out, err := m.cmd.StdoutPipe()
	check(t, err)
	check(t, m.cmd.Start())
	go func() {
		defer close(m.done)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			m.mu.Lock()
			if name, ok := strings.CutPrefix(lines.Text(), "ok "); ok {
				m.names = append(m.names, name)
			} else {
				m.wrong = append(m.wrong, lines.Text())
			}
			m.mu.Unlock()
		}
	}()
	return m
}

// kill kills the member and returns what it acknowledged.
func (m *running) kill(t *testing.T) []string {
	t.Helper()
	_ = m.cmd.Process.Kill()
	<-m.done
	_ = m.cmd.Wait()
	for _, line := range m.wrong {
		t.Errorf("gateway: %s", line)
	}
	return m.names
}

// TestKillThree kills the stores of three gateways that write and exchange what they have, one after the other at
// random. Every one opens again, and in the end all are equal and hold every write that was acknowledged.
func TestKillThree(t *testing.T) {
	rounds := *kills
	if testing.Short() {
		rounds = 5
	}
	root, err := os.MkdirTemp("", "gm") // the path of a socket is short
	check(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(root) })
	var members [3]*running
	for i := range members {
		members[i] = startMember(t, root, i)
	}
	var acknowledged []string
	for range rounds {
		time.Sleep(time.Duration(50+rand.IntN(200)) * time.Millisecond)
		i := rand.IntN(len(members))
		acknowledged = append(acknowledged, members[i].kill(t)...)
		members[i] = startMember(t, root, i)
	}
	time.Sleep(300 * time.Millisecond)
	for _, m := range members {
		acknowledged = append(acknowledged, m.kill(t)...)
	}
	if len(acknowledged) == 0 {
		t.Fatal("nothing was written")
	}

	var stores [3]*Store
	for i := range stores {
		stores[i] = open(t, Config{Dir: memberDir(root, i), Node: testNode(i)})
	}
	converge(t, stores[:]...)
	lost := 0
	for _, s := range stores {
		sound(t, s)
		for _, name := range acknowledged {
			v, ok, err := s.Setting(name)
			check(t, err)
			if !ok || string(v) != name {
				lost++
			}
		}
	}
	if lost > 0 {
		t.Errorf("%d acknowledged writes lost", lost)
	}
	t.Logf("%d kills, %d acknowledged writes on three gateways, %d lost, all stores opened",
		rounds+3, len(acknowledged), lost)
}
