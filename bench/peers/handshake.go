package main

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"syscall"
	"time"

	"gatemesh/vpn/vpntest"
)

const (
	loadCommand  = "load"           // first argument of the child that makes the load
	window       = 64               // handshakes under way at once: no gateway takes it for a flood
	answerLimit  = 3 * time.Second  // after which an initiation is taken for lost
	bookkeeping  = time.Second      // what a gateway does after the last handshake counts, too
	gatewayCore  = 0                // of handshakes
	loadCore     = 1                // the other one
	loadLimit    = 90 * time.Second // of a whole load
	timestampGap = time.Millisecond // between two initiations of one device
)

// job is what the parent tells the child that makes the load, and outcome what it answers.
type (
	job struct {
		Private [][32]byte
		Server  [32]byte
		To      string
		Phases  []int // handshakes of each, the devices in turn; before each it waits for a line
	}
	outcome struct {
		Done, Cookies, Lost int
		Seconds             float64
	}
)

// handshakes measures what handshakes cost a gateway on one core, what a connected device costs, and ends the gateway.
// A device's first handshake is told apart: wireguard-go has computed a part of it when the device was configured.
func (l *lab) handshakes(c candidate, n int, o options, add func(string, float64)) error {
	defer l.stopAll()
	devices := l.devicesOf(n)
	g, err := c.start(l, gatewayCore, devices)
	if err != nil {
		return err
	}
	j := job{Server: g.public, To: fmt.Sprintf("%s:%d", gatewayOuter, gatewayPort), Phases: []int{n, o.handshakes}}
	for _, d := range devices {
		j.Private = append(j.Private, d.private)
	}
	child, err := l.startLoad(j)
	if err != nil {
		return err
	}
	defer child.end()
	for i, name := range []string{"first handshake", "handshake"} {
		got, cpu, err := child.phase(g)
		if err != nil {
			return err
		}
		if got.Done < j.Phases[i]*95/100 {
			return fmt.Errorf("%d of %d handshakes done, %d cookies, %d lost", got.Done, j.Phases[i], got.Cookies, got.Lost)
		}
		add(fmt.Sprintf("%s, %d devices, µs", name, n), cpu.Seconds()*1e6/float64(got.Done))
		if i == 1 {
			add(fmt.Sprintf("%s, %d devices, /s", name, n), float64(got.Done)/got.Seconds)
		}
	}
	if err := rest(g, fmt.Sprintf("rss, %d connected, MB", n), o.settle, add); err != nil {
		return err
	}
	goroutines, err := g.goroutines()
	if err != nil {
		return err
	}
	add(fmt.Sprintf("goroutines, %d connected", n), float64(goroutines))
	return nil
}

// loadChild is a process of this program that shakes hands from the client's namespace.
type loadChild struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *json.Decoder
}

func (l *lab) startLoad(j job) (*loadChild, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(l.ctx, "ip", "netns", "exec", clientNS, "taskset", "-c", fmt.Sprint(loadCore), self, loadCommand)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Stderr = os.Stderr
	in, err1 := cmd.StdinPipe()
	out, err2 := cmd.StdoutPipe()
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	c := &loadChild{cmd, in, json.NewDecoder(out)}
	var ready outcome // all initiations are made
	if err := errors.Join(json.NewEncoder(in).Encode(j), c.out.Decode(&ready)); err != nil {
		c.end()
		return nil, fmt.Errorf("prepare load: %w", err)
	}
	return c, nil
}

func (c *loadChild) end() {
	_ = c.cmd.Process.Kill()
	_ = c.cmd.Wait()
}

// phase returns the CPU time of the gateway in the next phase.
func (c *loadChild) phase(g *gateway) (got outcome, cpu time.Duration, err error) {
	before, err := g.cpu()
	if err != nil {
		return got, 0, err
	}
	if _, err := io.WriteString(c.in, "go\n"); err != nil {
		return got, 0, err
	}
	if err := c.out.Decode(&got); err != nil {
		return got, 0, fmt.Errorf("load: %w", err)
	}
	time.Sleep(bookkeeping)
	after, err := g.cpu()
	return got, after - before, err
}

// runLoad is the child.
func runLoad() error {
	in := bufio.NewReader(os.Stdin)
	var j job
	line, err := in.ReadBytes('\n')
	if err != nil {
		return err
	}
	if err := json.Unmarshal(line, &j); err != nil {
		return err
	}
	to, err := netip.ParseAddrPort(j.To)
	if err != nil {
		return err
	}
	from := netip.AddrPortFrom(netip.MustParseAddr(clientOuter), clientPort)
	conn, err := net.DialUDP("udp4", net.UDPAddrFromAddrPort(from), net.UDPAddrFromAddrPort(to))
	if err != nil {
		return err
	}
	defer conn.Close()
	s := &shaker{conn: conn, sent: make(map[uint32]time.Time)}
	if err := s.prepare(j); err != nil {
		return err
	}
	out := json.NewEncoder(os.Stdout)
	if err := out.Encode(outcome{}); err != nil { // ready
		return err
	}
	for _, n := range j.Phases {
		if _, err := in.ReadBytes('\n'); err != nil {
			return err
		}
		if err := s.shake(n); err != nil {
			return err
		}
		if err := out.Encode(s.outcome); err != nil {
			return err
		}
	}
	return nil
}

// shaker keeps a window of handshakes under way until all are done.
type shaker struct {
	outcome
	conn        net.Conn
	initiations [][]byte
	handshakes  []*vpntest.Handshake
	next        int
	sent        map[uint32]time.Time // by index: unanswered
}

// prepare makes all initiations, each device's in turn.
func (s *shaker) prepare(j job) error {
	var devices []*vpntest.Initiator
	for _, private := range j.Private {
		d, err := vpntest.NewInitiator(private, j.Server)
		if err != nil {
			return err
		}
		devices = append(devices, d)
	}
	now := time.Now()
	total := 0
	for _, n := range j.Phases {
		total += n
	}
	for i := range total {
		at := now.Add(time.Duration(i/len(devices)) * timestampGap)
		m, h, err := devices[i%len(devices)].Initiate(uint32(i), at)
		if err != nil {
			return err
		}
		s.initiations, s.handshakes = append(s.initiations, m), append(s.handshakes, h)
	}
	return nil
}

// shake makes n more handshakes.
func (s *shaker) shake(n int) error {
	s.outcome = outcome{}
	begin, end := time.Now(), s.next+n
	buf := make([]byte, 2048)
	for s.next < end || len(s.sent) > 0 {
		for len(s.sent) < window && s.next < end {
			s.sent[uint32(s.next)] = time.Now()
			if _, err := s.conn.Write(s.initiations[s.next]); err != nil {
				return err
			}
			s.next++
		}
		if time.Since(begin) > loadLimit {
			return errors.New("it takes too long")
		}
		if err := s.conn.SetReadDeadline(time.Now().Add(answerLimit)); err != nil {
			return err
		}
		n, err := s.conn.Read(buf)
		if err == nil {
			err = s.answer(buf[:n])
		}
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
		s.expire()
	}
	s.Seconds = time.Since(begin).Seconds()
	return nil
}

// answer takes what the gateway sent: a response is verified and confirmed by a keepalive.
func (s *shaker) answer(m []byte) error {
	if len(m) < 12 {
		return nil
	}
	index := binary.LittleEndian.Uint32(m[8:])
	if m[0] == 3 {
		index = binary.LittleEndian.Uint32(m[4:])
	}
	if _, ok := s.sent[index]; !ok {
		return nil // a keepalive or a late answer
	}
	switch m[0] {
	case 2:
		session := s.handshakes[index].Finish(m)
		if session == nil {
			return errors.New("a response does not authenticate")
		}
		delete(s.sent, index)
		s.Done++
		_, err := s.conn.Write(session.Seal(nil, nil))
		return err
	case 3:
		delete(s.sent, index)
		s.Cookies++
	}
	return nil
}

func (s *shaker) expire() {
	for index, at := range s.sent {
		if time.Since(at) > answerLimit {
			delete(s.sent, index)
			s.Lost++
		}
	}
}
