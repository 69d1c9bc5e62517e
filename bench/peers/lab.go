package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"gatemesh/node/api"
	"gatemesh/vpn/vpntest"
)

// The lab's names on the machine and its addresses.
const (
	clientNS      = "pf-c"
	gatewayNS     = "pf-g"
	clientOuter   = "10.99.0.1"
	gatewayOuter  = "10.99.0.2"
	gatewayPort   = 51820
	clientPort    = 51821 // of the client, or of all devices that a load plays
	clientTUN     = "pf-client"
	gatewayTUN    = "pf-gateway"
	wireguardPath = "/var/run/wireguard"
	stepLimit     = 60 * time.Second // of one command
	readyLimit    = 30 * time.Second // of a gateway
)

// hintError tells what to do about it.
type hintError struct {
	err  error
	hint string
}

func (e *hintError) Error() string { return e.err.Error() }
func (e *hintError) Unwrap() error { return e.err }

// check tells what this machine lacks.
func check(gateways []string) error {
	if os.Geteuid() != 0 {
		return &hintError{errors.New("network namespaces need root"), "run it with sudo"}
	}
	programs := map[string]string{"ip": "iproute2", "iperf3": "iperf3", "wg": "wireguard-tools", "taskset": "util-linux", "ping": "iputils-ping"}
	for _, g := range gateways {
		if g == "openvpn" {
			programs["openvpn"] = "openvpn"
		}
	}
	var missing []string
	for program, pkg := range programs {
		if _, err := exec.LookPath(program); err != nil {
			missing = append(missing, pkg)
		}
	}
	if len(missing) > 0 {
		return &hintError{fmt.Errorf("missing here: %s", strings.Join(missing, ", ")), "apt-get install " + strings.Join(missing, " ") + ", or leave a gateway out with -only"}
	}
	return nil
}

// lab is the two namespaces and the built programs. The main goroutine alone uses it.
type lab struct {
	ctx      context.Context
	dir      string
	lock     *os.File
	started  []*process
	devices  map[int][]device      // by their number
	enrolled map[int]api.Enrolment // by number of devices that a data directory of gatemesh has: the first one's
}

func newLab(ctx context.Context) (l *lab, err error) {
	lock, err := os.OpenFile("/run/lock/"+gatewayNS, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		lock.Close()
		return nil, &hintError{errors.New("another run has the namespaces " + clientNS + " and " + gatewayNS), "wait for its end"}
	}
	l = &lab{ctx: ctx, lock: lock, devices: map[int][]device{}, enrolled: map[int]api.Enrolment{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.close())
		}
	}()
	if l.dir, err = os.MkdirTemp("", "peers-"); err != nil {
		return l, err
	}
	for _, ns := range []string{clientNS, gatewayNS} {
		if err := removeNS(ns); err != nil { // of a run that was killed
			return l, err
		}
		if _, err := l.run("", "ip", "netns", "add", ns); err != nil {
			return l, err
		}
	}
	for _, args := range []string{
		"link add veth0 netns pf-c type veth peer name veth0 netns pf-g",
		"-n pf-c addr add " + clientOuter + "/24 dev veth0", "-n pf-g addr add " + gatewayOuter + "/24 dev veth0",
		"-n pf-c link set veth0 up", "-n pf-g link set veth0 up", "-n pf-c link set lo up", "-n pf-g link set lo up",
		"-n pf-g route add default via " + clientOuter,
	} {
		if _, err := l.run("", "ip", strings.Fields(args)...); err != nil {
			return l, err
		}
	}
	return l, l.build()
}

// devicesOf returns the same devices for the same number.
func (l *lab) devicesOf(n int) []device {
	for i := len(l.devices[n]); i < n; i++ {
		var d device
		d.private, d.public = vpntest.NewKey()
		l.devices[n] = append(l.devices[n], d)
	}
	return l.devices[n]
}

// build builds the WireGuard programs: gatemesh of this repository, the others of this module's versions.
func (l *lab) build() error {
	for name, pkg := range map[string]string{
		"gatemesh": "gatemesh", "wireguard-go": "golang.zx2c4.com/wireguard", "fork": "github.com/tailscale/wireguard-go",
	} {
		cmd := exec.CommandContext(l.ctx, "go", "build", "-trimpath", "-o", filepath.Join(l.dir, name), pkg)
		if pkg == "gatemesh" { // with the versions of its own module
			cmd.Dir = filepath.Join("..", "..")
		}
		if out, err := cmd.CombinedOutput(); err != nil {
			return &hintError{fmt.Errorf("build %s: %w\n%s", name, err, out), "run it in bench/peers of the repository"}
		}
	}
	return nil
}

func removeNS(ns string) error {
	if _, err := os.Stat("/run/netns/" + ns); err != nil {
		return nil
	}
	if out, err := exec.Command("ip", "netns", "delete", ns).CombinedOutput(); err != nil {
		return fmt.Errorf("remove namespace %s: %w: %s", ns, err, out)
	}
	return nil
}

// close ends all processes and removes everything.
func (l *lab) close() error {
	l.stopAll()
	err := errors.Join(removeNS(clientNS), removeNS(gatewayNS))
	if l.dir != "" {
		err = errors.Join(err, os.RemoveAll(l.dir))
	}
	return errors.Join(err, l.lock.Close())
}

// stopAll ends what a measurement left running, the last one first.
func (l *lab) stopAll() {
	for i := len(l.started) - 1; i >= 0; i-- {
		l.started[i].stop()
	}
	l.started = nil
}

// run runs a command to its end and returns its stdout.
func (l *lab) run(stdin, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(l.ctx, stepLimit)
	defer cancel()
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, bytes.TrimSpace(stderr.Bytes()))
	}
	return stdout.String(), nil
}

// in runs a command in a namespace.
func (l *lab) in(ns, stdin string, args ...string) (string, error) {
	return l.run(stdin, "ip", append([]string{"netns", "exec", ns}, args...)...)
}

// process is a program that runs until it is stopped.
type process struct {
	cmd  *exec.Cmd
	log  string // path
	done chan struct{}
}

// start starts a program in a namespace, on one core if core is not negative.
func (l *lab) start(ns string, core int, env []string, args ...string) (*process, error) {
	p := &process{log: filepath.Join(l.dir, fmt.Sprintf("%s-%d.log", filepath.Base(args[0]), time.Now().UnixNano())), done: make(chan struct{})}
	if core >= 0 {
		args = append([]string{"taskset", "-c", strconv.Itoa(core)}, args...)
	}
	log, err := os.Create(p.log)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	p.cmd = exec.Command("ip", append([]string{"netns", "exec", ns}, args...)...)
	p.cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + l.dir}, env...)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", args[0], err)
	}
	go p.wait()
	l.started = append(l.started, p)
	return p, nil
}

func (p *process) wait() {
	_ = p.cmd.Wait()
	close(p.done)
}

// stop asks it to end, and insists after five seconds.
func (p *process) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(5 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.done
	}
}

// text is what it wrote.
func (p *process) text() string {
	b, _ := os.ReadFile(p.log)
	return string(b)
}

// until waits for ok, at most the readyLimit, as long as the process runs.
func (l *lab) until(p *process, what string, ok func() bool) error {
	for end := time.Now().Add(readyLimit); !ok(); {
		select {
		case <-l.ctx.Done():
			return context.Cause(l.ctx)
		case <-p.done:
			return fmt.Errorf("ended before this came: %s\n%s", what, p.text())
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(end) {
			return fmt.Errorf("this does not come: %s\n%s", what, p.text())
		}
	}
	return nil
}

// cpu is the CPU time of the process so far, to the nanosecond: its CPU-time clock (clock_getcpuclockid(3)).
func (p *process) cpu() (time.Duration, error) {
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^p.cmd.Process.Pid<<3|2), &ts); err != nil {
		return 0, fmt.Errorf("read CPU clock: %w", err)
	}
	return time.Duration(ts.Nano()), nil
}

// rss is the resident memory in bytes.
func (p *process) rss() (float64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "VmRSS:" {
			kb, err := strconv.ParseFloat(f[1], 64)
			return kb * 1024, err
		}
	}
	return 0, errors.New("no VmRSS")
}

// goroutines ends a Go program and counts the goroutines in its last words.
func (p *process) goroutines() (n int, err error) {
	_ = p.cmd.Process.Signal(syscall.SIGQUIT)
	select {
	case <-p.done:
	case <-time.After(stepLimit):
		return 0, errors.New("it does not end by SIGQUIT")
	}
	for line := range strings.Lines(p.text()) {
		if strings.HasPrefix(line, "goroutine ") && strings.HasSuffix(line, "]:\n") {
			n++
		}
	}
	return n, nil
}

// listens says whether somebody answers at a unix socket.
func listens(socket string) bool {
	c, err := net.Dial("unix", socket)
	if err != nil {
		return false
	}
	c.Close()
	return true
}
