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
		Count   int
	}
	outcome struct {
		Done, Cookies, Lost int
		Seconds             float64
	}
)

// handshakes measures what handshakes cost a gateway on one core, what a connected device costs, and ends the gateway.
func (l *lab) handshakes(c candidate, n int, o options, add func(string, float64)) error {
	defer l.stopAll()
	devices := l.devicesOf(n)
	g, err := c.start(l, gatewayCore, devices)
	if err != nil {
		return err
	}
	j := job{Server: g.public, To: fmt.Sprintf("%s:%d", gatewayOuter, gatewayPort), Count: max(n, o.handshakes)}
	for _, d := range devices {
		j.Private = append(j.Private, d.private)
	}
	got, cpu, err := l.load(g, j)
	if err != nil {
		return err
	}
	if got.Done < j.Count*95/100 {
		return fmt.Errorf("%d of %d handshakes done, %d cookies, %d lost", got.Done, j.Count, got.Cookies, got.Lost)
	}
	add(fmt.Sprintf("handshake, %d devices, µs", n), cpu.Seconds()*1e6/float64(got.Done))
	add(fmt.Sprintf("handshake, %d devices, /s", n), float64(got.Done)/got.Seconds)
	if err := rest(g, fmt.Sprintf("rss, %d connected, MB", n), o.settle, add); err != nil {
		return err
	}
	add(fmt.Sprintf("goroutines, %d connected", n), float64(g.goroutines()))
	return nil
}

// load has a child shake hands from the client's namespace and returns the CPU time of the gateway for it.
func (l *lab) load(g *gateway, j job) (got outcome, cpu time.Duration, err error) {
	self, err := os.Executable()
	if err != nil {
		return got, 0, err
	}
	cmd := exec.CommandContext(l.ctx, "ip", "netns", "exec", clientNS, "taskset", "-c", fmt.Sprint(loadCore), self, loadCommand)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Stderr = os.Stderr
	in, err1 := cmd.StdinPipe()
	out, err2 := cmd.StdoutPipe()
	if err := errors.Join(err1, err2); err != nil {
		return got, 0, err
	}
	if err := cmd.Start(); err != nil {
		return got, 0, err
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	if err := json.NewEncoder(in).Encode(j); err != nil {
		return got, 0, err
	}
	answers := bufio.NewReader(out)
	if _, err := answers.ReadString('\n'); err != nil { // all initiations are made
		return got, 0, fmt.Errorf("prepare load: %w", err)
	}
	before, err := g.cpu()
	if err != nil {
		return got, 0, err
	}
	if _, err := io.WriteString(in, "go\n"); err != nil {
		return got, 0, err
	}
	if err := json.NewDecoder(answers).Decode(&got); err != nil {
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
	fmt.Println("ready")
	if _, err := in.ReadBytes('\n'); err != nil {
		return err
	}
	if err := s.shake(); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(s.outcome)
}

// shaker keeps a window of handshakes under way until all are done.
type shaker struct {
	outcome
	conn        net.Conn
	initiations [][]byte
	handshakes  []*vpntest.Handshake
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
	for i := range j.Count {
		at := now.Add(time.Duration(i/len(devices)) * timestampGap)
		m, h, err := devices[i%len(devices)].Initiate(uint32(i), at)
		if err != nil {
			return err
		}
		s.initiations, s.handshakes = append(s.initiations, m), append(s.handshakes, h)
	}
	return nil
}

func (s *shaker) shake() error {
	begin := time.Now()
	buf := make([]byte, 2048)
	for next := 0; next < len(s.initiations) || len(s.sent) > 0; {
		for len(s.sent) < window && next < len(s.initiations) {
			s.sent[uint32(next)] = time.Now()
			if _, err := s.conn.Write(s.initiations[next]); err != nil {
				return err
			}
			next++
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
