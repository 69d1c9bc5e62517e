package labtest

import (
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netns"
)

var (
	full   = flag.Bool("lab.full", false, "run the long forms of the lab tests")
	strict = flag.Bool("lab.strict", false, "fail lab tests whose figures miss their bar")
	steady = flag.Duration("lab.steady", 0, "let the test of false deaths run so long, under full load")
	soak   = flag.Duration("lab.soak", 0, "let the soak test run so long, with two hundred devices")
)

// Full says whether the long forms were asked for.
func Full() bool { return *full }

// Steady says how long a test under load was asked to run at least.
func Steady() time.Duration { return *steady }

// Soak says how long the soak test was asked to run; 0: not at all.
func Soak() time.Duration { return *soak }

// Networks of a lab, to be combined.
const (
	Internet = 1 << iota // where devices and gateways meet
	LAN                  // what lies behind the gateways
)

// Limits of a lab, given by the prefix length of its networks.
const (
	MaxGateways = 49  // .1 to .49
	MaxClients  = 201 // .50 to .250
)

const (
	namePrefix  = "gml-" // of namespaces and directories
	ifacePrefix = "gm-"  // of the clients' TUN devices
	clientBase  = 50
	hostBase    = 200
	router      = 254
	internetNet = "192.0.2."
	lanNet      = "198.51.100."
)

// tools are what the lab runs beside gatemesh and the stock client.
var tools = []string{"go", "ip", "iperf3", "nft", "nsenter", "ping", "setpriv", "unshare", "wg"}

// A Lab is one set of networks and the machines on them. Everything in it ends
// with the test it belongs to. Its methods and those of what it makes are for
// the goroutine that runs that test, not for a subtest's, if not said otherwise.
type Lab struct {
	tb      testing.TB
	dir     string      // data directories and logs
	ns      string      // prefix of its namespaces
	sw      *Node       // the namespace of both bridges
	bridges map[int]int // network to interface index of its bridge

	gateways, clients, hosts, ports, pings int // made so far
}

// labs counts the labs of this process, and interfaces the TUN names, which
// are unique in the machine because wg finds a client by the name of its
// control socket.
var labs, interfaces atomic.Int64

// New makes a lab, or skips the test where there can be none. The lab has
// networks, but nobody is on them yet.
func New(tb testing.TB) *Lab {
	tb.Helper()
	if err := missing(); err != nil {
		tb.Skipf("LAB SKIPPED, nothing was tested: %v", err)
	}
	sweep()
	id := fmt.Sprintf("%s%s-%d-", namePrefix, owner(), labs.Add(1))
	l := &Lab{tb: tb, ns: id, dir: filepath.Join("/tmp", strings.TrimSuffix(id, "-"))}
	// Others than root must be able to reach their directories below.
	if err := errors.Join(os.Mkdir(l.dir, 0o711), os.Chmod(l.dir, 0o711)); err != nil {
		tb.Fatalf("make lab directory: %v", err)
	}
	tb.Cleanup(func() {
		if os.Getenv("GATEMESH_LAB_KEEP") != "" {
			tb.Logf("lab kept in %s", l.dir)
			return
		}
		if err := os.RemoveAll(l.dir); err != nil {
			tb.Errorf("remove lab directory: %v", err)
		}
	})
	l.addSwitch()
	return l
}

// missing says what the machine lacks.
func missing() error {
	if os.Geteuid() != 0 {
		return errors.New("needs root")
	}
	tun, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("needs /dev/net/tun: %w", err)
	}
	tun.Close()
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Errorf("needs %s: %w", tool, err)
		}
	}
	if out, err := exec.Command("unshare", "--net", "true").CombinedOutput(); err != nil {
		return fmt.Errorf("needs to make network namespaces: %w: %s", err, out)
	}
	return nil
}

// Bar states what a figure must reach. It logs the statement with its verdict,
// and fails the test only under -lab.strict: figures depend on the machine.
func (l *Lab) Bar(ok bool, format string, args ...any) {
	l.tb.Helper()
	statement := fmt.Sprintf(format, args...)
	switch {
	case ok:
		l.tb.Logf("bar met: %s", statement)
	case *strict:
		l.tb.Errorf("bar missed: %s", statement)
	default:
		l.tb.Logf("bar MISSED (not strict): %s", statement)
	}
}

// pollEvery is how often Eventually asks.
const pollEvery = 10 * time.Millisecond

// Eventually asks ok until it says true, and returns how long that took. When
// limit has passed, the test fails with what was waited for. A limit is there
// to end the test; what a duration should be is for [Lab.Bar].
func (l *Lab) Eventually(limit time.Duration, what string, ok func() bool) time.Duration {
	l.tb.Helper()
	took, done := poll(limit, ok)
	if !done {
		l.tb.Fatalf("%s: not after %v", what, limit)
	}
	return took
}

func poll(limit time.Duration, ok func() bool) (took time.Duration, done bool) {
	begin := time.Now()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		done = ok()
		took = time.Since(begin)
		if done || took > limit {
			return took, done
		}
		<-tick.C
	}
}

// Observe lets the lab run for d while its pings and captures watch. It may be
// called from any goroutine.
func (l *Lab) Observe(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-l.tb.Context().Done():
	}
}

// owner names this process for as long as the machine is up: process ids come
// back, a process id with its start time does not.
var owner = sync.OnceValue(func() string {
	start, err := startTime(os.Getpid())
	if err != nil {
		panic("labtest: read /proc/self: " + err.Error())
	}
	return base36(int64(os.Getpid())) + "-" + base36(start)
})

func base36(n int64) string { return strconv.FormatInt(n, 36) }

// alive says whether the owner of a namespace, directory (prefix, pid, start
// time, anything) or client socket (prefix, pid, anything) still runs. What
// cannot be parsed is not ours and counts as alive.
func alive(name string) bool {
	if rest, ok := strings.CutPrefix(name, ifacePrefix); ok {
		pid, _, _ := strings.Cut(rest, "-")
		n, err := strconv.ParseInt(pid, 36, 32)
		return err != nil || syscall.Kill(int(n), 0) == nil
	}
	rest, ok := strings.CutPrefix(name, namePrefix)
	part := strings.SplitN(rest, "-", 3)
	if !ok || len(part) != 3 {
		return true
	}
	pid, err1 := strconv.ParseInt(part[0], 36, 32)
	start, err2 := strconv.ParseInt(part[1], 36, 64)
	if err1 != nil || err2 != nil {
		return true
	}
	now, err := startTime(int(pid))
	return err == nil && now == start
}

// sweep removes, once in a process, what labs of processes that are gone left:
// their children died with them, so it is namespaces, sockets and directories.
var sweep = sync.OnceFunc(sweepNow)

func sweepNow() {
	remove := map[string]func(name string) error{
		netnsDir:  netns.DeleteNamed,
		"/tmp":    func(name string) error { return os.RemoveAll(filepath.Join("/tmp", name)) },
		socketDir: func(name string) error { return os.Remove(filepath.Join(socketDir, name)) },
	}
	for dir, remove := range remove {
		entries, _ := os.ReadDir(dir) // a directory that is not there holds nothing
		for _, e := range entries {
			if !alive(e.Name()) {
				_ = remove(e.Name()) // another process may sweep at the same time
			}
		}
	}
}

// address returns the n-th address of a network.
func address(network, n int) netip.Prefix {
	base := internetNet
	if network == LAN {
		base = lanNet
	}
	return netip.PrefixFrom(netip.MustParseAddr(base+strconv.Itoa(n)), 24)
}
