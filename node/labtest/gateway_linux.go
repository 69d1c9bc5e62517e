package labtest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// readyLine is what a gateway logs when it takes devices.
const readyLine = "gateway ready"

// ReadyLimit ends the wait for a gateway that does not become ready.
const ReadyLimit = 30 * time.Second

// A Gateway is a gatemesh with a data directory, running or not.
type Gateway struct {
	*Node          // where it runs
	Name    string // of its files; what it calls itself is its own affair
	Data    string // its data directory
	Process *Process

	uid    int // 0: root
	binary string
	mark   int // length of the log before the last start
}

// Gateway makes a node on both networks with a gateway on it that has not been
// started.
func (l *Lab) Gateway(name string) *Gateway {
	l.tb.Helper()
	l.gateways++
	if l.gateways > MaxGateways {
		l.tb.Fatalf("a lab has room for %d gateways", MaxGateways)
	}
	return l.Node(name, Internet|LAN, l.gateways).Gateway(name, 0)
}

// Gateway makes a gateway that runs on the node as a user without privileges,
// or as root if uid is 0. Several may run on one node.
func (n *Node) Gateway(name string, uid int) *Gateway {
	n.lab.tb.Helper()
	path, err := buildGatemesh()
	if err != nil {
		n.lab.tb.Fatalf("gatemesh: %v", err)
	}
	return n.gatewayOf(path, name, uid)
}

func (n *Node) gatewayOf(path, name string, uid int) *Gateway {
	n.lab.tb.Helper()
	g := &Gateway{Node: n, Name: name, Data: filepath.Join(n.lab.dir, name), uid: uid, binary: path}
	if err := os.Mkdir(g.Data, 0o700); err != nil {
		n.lab.tb.Fatalf("make data directory: %v", err)
	}
	if uid != 0 {
		g.binary = filepath.Join(n.lab.dir, name+"-gatemesh") // the cache may be root's alone
		if err := errors.Join(copyFile(g.binary, path), os.Chown(g.Data, uid, uid)); err != nil {
			n.lab.tb.Fatalf("set up user %d: %v", uid, err)
		}
	}
	n.lab.tb.Cleanup(g.checkLog)
	return g
}

// Update has the gateway be of the version to come from its next start on, or of ours again.
func (g *Gateway) Update(next bool) {
	g.lab.tb.Helper()
	program := buildGatemesh
	if next {
		program = buildNext
	}
	path, err := program()
	if err != nil {
		g.lab.tb.Fatalf("gatemesh: %v", err)
	}
	g.binary = path
}

func copyFile(to, from string) error {
	content, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, content, 0o755)
}

// Start runs `gatemesh up --data DIR` with the given flags and nothing else. It
// does not wait.
func (g *Gateway) Start(flags ...string) {
	g.lab.tb.Helper()
	if g.Process != nil && !g.Process.Ended() {
		g.lab.tb.Fatalf("%s: runs already", g.Name)
	}
	g.mark = 0
	if g.Process != nil {
		g.mark = len(g.Process.Log())
	}
	var args []string
	if g.uid != 0 {
		// A change of user clears the parent death signal, so it is set again.
		id := strconv.Itoa(g.uid)
		args = []string{"setpriv", "--reuid=" + id, "--regid=" + id, "--clear-groups", "--no-new-privs", "--pdeathsig=KILL"}
	}
	args = append(args, g.binary, "up", "--data", g.Data)
	g.Process = g.Node.Start("gatemesh-"+g.Name, g.env(), append(args, flags...)...)
}

func (g *Gateway) env() []string { return []string{"HOME=" + g.Data, "XDG_RUNTIME_DIR=" + g.Data} }

// checkLog fails the test for what must be in no log.
func (g *Gateway) checkLog() {
	if g.Process == nil {
		return
	}
	for _, bad := range []string{"WARNING: DATA RACE", "\npanic: ", "\nfatal error: "} {
		log := "\n" + g.Process.Log()
		if at := strings.Index(log, bad); at >= 0 {
			g.lab.tb.Errorf("%s:%s", g.Name, log[at:min(len(log), at+4000)])
		}
	}
}

// Ready says whether the gateway takes devices, by its log.
func (g *Gateway) Ready() bool {
	return g.Process != nil && strings.Contains(g.Process.Log()[g.mark:], readyLine)
}

// WaitReady waits until the gateway takes devices, and returns how long it
// waited. One that does not shows where it stands.
func (g *Gateway) WaitReady() time.Duration {
	g.lab.tb.Helper()
	took, done := poll(ReadyLimit, func() bool { return g.Ready() || g.Process.Ended() })
	if !done {
		g.Process.wanted = true
		g.Process.Signal(syscall.SIGQUIT) // the runtime writes all stacks
		g.lab.Observe(time.Second)
		g.lab.tb.Fatalf("%s: %s: not after %v:\n%s", g.Name, readyLine, ReadyLimit, g.Process.Log()[g.mark:])
	}
	if !g.Ready() {
		g.lab.tb.Fatalf("%s: ended before it was ready", g.Name)
	}
	return took
}

// Kill kills the gateway with SIGKILL and returns the time just before.
func (g *Gateway) Kill() (at time.Time) { return g.Process.Kill() }

// Stop asks the gateway to end; see [Process.Stop].
func (g *Gateway) Stop() {
	g.lab.tb.Helper()
	g.Process.Stop()
}

// Freeze stops the gateway's clock, so to say, with SIGSTOP, and returns the
// time just before.
func (g *Gateway) Freeze() (at time.Time) {
	g.lab.tb.Helper()
	at = time.Now()
	g.Process.Signal(syscall.SIGSTOP)
	return at
}

// Thaw lets a frozen gateway go on, and returns the time just before.
func (g *Gateway) Thaw() (at time.Time) {
	g.lab.tb.Helper()
	at = time.Now()
	g.Process.Signal(syscall.SIGCONT)
	return at
}

// Socket is where the gateway takes commands.
func (g *Gateway) Socket() string { return filepath.Join(g.Data, "gatemesh.sock") }

// TryCLI runs a command of the command line against the gateway and returns
// its stdout. The error of one that failed carries its stderr. It may be called
// from any goroutine.
func (g *Gateway) TryCLI(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), runLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, g.binary, append([]string{"--socket", g.Socket()}, args...)...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH")}, g.env()...)
	cmd.SysProcAttr = child()
	cmd.WaitDelay = time.Second
	return output(cmd, "")
}

// CLI is TryCLI, but ends the test when the command fails.
func (g *Gateway) CLI(args ...string) string {
	g.lab.tb.Helper()
	out, err := g.TryCLI(args...)
	if err != nil {
		g.lab.tb.Fatalf("%s: gatemesh %s: %v", g.Name, strings.Join(args, " "), err)
	}
	return out
}

// TryJSON runs a command with --json and decodes what it prints into v.
func (g *Gateway) TryJSON(v any, args ...string) error {
	out, err := g.TryCLI(append(args, "--json")...)
	if err != nil {
		return err
	}
	if err := json.Unmarshal([]byte(out), v); err != nil {
		return fmt.Errorf("decode gatemesh %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

// JSON is TryJSON, but ends the test when the command fails.
func (g *Gateway) JSON(v any, args ...string) {
	g.lab.tb.Helper()
	if err := g.TryJSON(v, args...); err != nil {
		g.lab.tb.Fatalf("%s: %v", g.Name, err)
	}
}

// Key returns the cluster key.
func (g *Gateway) Key() string {
	g.lab.tb.Helper()
	return strings.TrimSpace(g.CLI("key", "show"))
}

// Public is where devices reach the gateway, if it listens at the usual port.
func (g *Gateway) Public() netip.AddrPort { return netip.AddrPortFrom(g.Addr, WireGuardPort) }

// AddDevice enrols a device at the gateway and returns its configuration.
func (g *Gateway) AddDevice(name string) Config {
	g.lab.tb.Helper()
	conf, err := ParseConfig(g.CLI("device", "add", name))
	if err != nil {
		g.lab.tb.Fatalf("%s: %v", g.Name, err)
	}
	return conf
}

// DeviceInfo is an element of `device list --json`.
type DeviceInfo struct {
	Name          string
	ID            string
	Addresses     []string
	Gateway       string
	Endpoint      string
	LastHandshake *time.Time `json:"last_handshake"`
	RxBytes       uint64     `json:"rx_bytes"`
	TxBytes       uint64     `json:"tx_bytes"`
	Enabled       bool
}

// GatewayInfo is an element of `gateway list --json`.
type GatewayInfo struct {
	Role     string
	Protocol uint
	Format   int
	Name     string
	ID       string
	State    string
	Serving  bool
	Sessions int
	Capacity int
	Public   string
	Mesh     string
}

// StatusInfo is what `status --json` prints.
type StatusInfo struct {
	Protocol     string
	Format       int
	Older        []string
	Cluster      string
	Gateway      string
	Ready        bool
	Gateways     int
	Devices      int
	Sessions     int
	Dataplane    string
	AuthFailures *uint64 `json:"auth_failures"` // nil: this gateway does not say
}

// Devices returns the devices as the gateway sees them.
func (g *Gateway) Devices() (list []DeviceInfo) {
	g.lab.tb.Helper()
	g.JSON(&list, "device", "list")
	return list
}

// Gateways returns the gateways of the cluster as this one sees them.
func (g *Gateway) Gateways() (list []GatewayInfo) {
	g.lab.tb.Helper()
	g.JSON(&list, "gateway", "list")
	return list
}

// Status returns the state of the cluster as the gateway sees it.
func (g *Gateway) Status() (s StatusInfo) {
	g.lab.tb.Helper()
	g.JSON(&s, "status")
	return s
}
