package labtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	stopLimit = 15 * time.Second // for a process that was asked to end
	tailLines = 40               // of each log, shown when a test fails
	tickRate  = 100              // USER_HZ: clock ticks of /proc/PID/stat in a second
)

// child is how every process of the lab starts: leading a group of its own, and
// killed when this process dies.
func child() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// A Process is a program that runs on a node until it is stopped or the test
// ends. What it writes goes to a file, so a frozen reader cannot hold it up.
type Process struct {
	Name string

	lab    *Lab
	cmd    *exec.Cmd
	log    string        // path
	done   chan struct{} // closed when it has ended and err is set
	err    error
	wanted bool // to have ended
}

// Start starts a program on the node, with no environment but a path and env.
// That it ends before the lab ends it fails the test.
func (n *Node) Start(name string, env []string, args ...string) *Process {
	n.lab.tb.Helper()
	p := &Process{
		Name: n.Name + "/" + name,
		lab:  n.lab,
		log:  filepath.Join(n.lab.dir, n.Name+"-"+name+".log"),
		done: make(chan struct{}),
	}
	// A restart continues the log.
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		n.lab.tb.Fatalf("open log: %v", err)
	}
	defer log.Close()
	// The context of the test ends before its cleanups; these end the process.
	p.cmd = n.Command(context.Background(), args...)
	p.cmd.Env = append(p.cmd.Env, env...)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	if err := p.cmd.Start(); err != nil {
		n.lab.tb.Fatalf("start %s: %v", p.Name, err)
	}
	go p.wait()
	n.lab.tb.Cleanup(p.close)
	return p
}

// wait runs until the process has ended. What it started dies with it, however
// it ended.
func (p *Process) wait() {
	p.err = p.cmd.Wait()
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL) // mostly there is nobody
	close(p.done)
}

// close ends the process with the test and shows its last words if the test
// failed.
func (p *Process) close() {
	if !p.wanted && p.Ended() {
		p.lab.tb.Errorf("%s ended by itself: %v", p.Name, p.err)
	}
	p.Kill()
	if p.lab.tb.Failed() {
		p.lab.tb.Logf("last lines of %s:\n%s", p.Name, p.tail())
	}
}

// Ended says whether the process is gone.
func (p *Process) Ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// Signal sends a signal to the process and its children.
func (p *Process) Signal(sig syscall.Signal) {
	p.lab.tb.Helper()
	if err := syscall.Kill(-p.cmd.Process.Pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
		p.lab.tb.Errorf("signal %s: %v", p.Name, err)
	}
}

// Kill ends the process at once, frozen or not, and returns the time just
// before. Of a process that has ended it does nothing.
func (p *Process) Kill() (at time.Time) {
	p.wanted = true
	at = time.Now()
	if !p.Ended() {
		p.Signal(syscall.SIGKILL)
		<-p.done
	}
	return at
}

// Stop asks the process to end by SIGTERM and fails the test unless it does so
// within 15 s and with status 0.
func (p *Process) Stop() {
	p.lab.tb.Helper()
	p.wanted = true
	p.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
		if p.err != nil {
			p.lab.tb.Errorf("stop %s: %v", p.Name, p.err)
		}
	case <-time.After(stopLimit):
		p.lab.tb.Errorf("stop %s: still there after %v", p.Name, stopLimit)
		p.Kill()
	}
}

// Log returns what the process and those before it under its name wrote.
func (p *Process) Log() string {
	text, err := os.ReadFile(p.log)
	if err != nil {
		p.lab.tb.Errorf("read log: %v", err)
	}
	return string(text)
}

func (p *Process) tail() string {
	lines := strings.Split(strings.TrimSpace(p.Log()), "\n")
	return strings.Join(lines[max(0, len(lines)-tailLines):], "\n")
}

// Usage is what a process has used of the machine so far.
type Usage struct {
	CPU time.Duration // user and system
	RSS uint64        // bytes in memory now
}

// Usage reads the accounts of the kernel. Of a process that has ended it is
// zero.
func (p *Process) Usage() (u Usage) {
	f, err := stat(p.cmd.Process.Pid)
	if err != nil || p.Ended() {
		return Usage{}
	}
	u.CPU = time.Duration(f.at(14)+f.at(15)) * time.Second / tickRate
	u.RSS = uint64(f.at(24)) * uint64(os.Getpagesize())
	return u
}

// statFields are the fields of /proc/PID/stat after the command name.
type statFields []string

// at returns field n, counted as in proc(5), or -1.
func (f statFields) at(n int) int64 {
	v, err := strconv.ParseInt(f[n-3], 10, 64)
	if err != nil {
		return -1
	}
	return v
}

func stat(pid int) (statFields, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil, err
	}
	// The name stands in parentheses and may contain anything, these too.
	_, rest, _ := strings.Cut(string(text[bytes.LastIndexByte(text, ')')+1:]), " ")
	f := statFields(strings.Fields(rest))
	if len(f) < 40 {
		return nil, fmt.Errorf("read stat of process %d: %d fields", pid, len(f))
	}
	return f, nil
}

// startTime returns when a process started, in clock ticks since boot.
func startTime(pid int) (int64, error) {
	f, err := stat(pid)
	if err != nil {
		return 0, err
	}
	return f.at(22), nil
}

// MayEnd says that the process may end by itself from now on.
func (p *Process) MayEnd() { p.wanted = true }
