package main

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"gatemesh/node/cli"
)

// TestMain lets the scripts run the program as a command. As root on Linux all
// of it moves into a network namespace of its own first: what a gateway says
// on the LAN is nobody else's business.
func TestMain(m *testing.M) {
	const inside = "GATEMESH_TEST_NETNS"
	if runtime.GOOS == "linux" && os.Geteuid() == 0 && os.Getenv(inside) == "" && filepath.Base(os.Args[0]) != "gatemesh" {
		if unshare, err := exec.LookPath("unshare"); err == nil {
			args := append([]string{"-n", "--", "sh", "-c", `ip link set lo up; ip addr add 10.99.0.1/24 dev lo; exec "$0" "$@"`}, os.Args...)
			cmd := exec.Command(unshare, args...)
			cmd.Env = append(os.Environ(), inside+"=1")
			cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
			if err := cmd.Run(); err == nil {
				os.Exit(0)
			} else if cmd.ProcessState != nil {
				os.Exit(max(1, cmd.ProcessState.ExitCode()))
			}
		}
	}
	testscript.Main(m, map[string]func(){
		"gatemesh": func() { os.Exit(cli.Main(os.Args, os.Stdout, os.Stderr)) },
	})
}

// TestScripts runs testdata/script: the command line as its users see it.
//
// Beside testscript's own, a script has the commands
//
//	ready SOCKET   wait until the gateway behind SOCKET takes devices
//	saved FILE RE  set the variable SAVED to the first match of RE in FILE
//
// the condition [root], and free ports in $PORT1 … $PORT6.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			for i := 1; i <= 6; i++ {
				port, err := freePort()
				if err != nil {
					return err
				}
				e.Setenv(fmt.Sprintf("PORT%d", i), port)
			}
			short, err := os.MkdirTemp("", "gm") // a unix socket's path is short
			if err != nil {
				return err
			}
			e.Defer(func() { _ = os.RemoveAll(short) })
			e.Setenv("D", short)
			e.Setenv("HOME", short)
			e.Setenv("GATEMESH_DATAPLANE", "userspace")
			return nil
		},
		Condition: func(cond string) (bool, error) {
			if cond == "root" {
				return os.Geteuid() == 0, nil
			}
			return false, fmt.Errorf("unknown condition %q", cond)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"ready": ready,
			"saved": saved,
		},
	})
}

// freePort returns a port that is free for UDP and TCP just now.
func freePort() (string, error) {
	for range 100 {
		l, err := net.Listen("tcp", ":0")
		if err != nil {
			return "", err
		}
		_, port, _ := net.SplitHostPort(l.Addr().String())
		c, err := net.ListenPacket("udp", ":"+port)
		_ = l.Close()
		if err == nil {
			return port, c.Close()
		}
	}
	return "", fmt.Errorf("no port is free for both UDP and TCP")
}

// status runs the status command in this process, one at a time: urfave/cli keeps its help flag in a variable.
func status(socket string, out, errs io.Writer) int {
	asking.Lock()
	defer asking.Unlock()
	return cli.Main([]string{"gatemesh", "--socket", socket, "status", "--json"}, out, errs)
}

var asking sync.Mutex

func ready(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: ready SOCKET")
	}
	var last string
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		var out, errs bytes.Buffer
		if status(args[0], &out, &errs) == 0 &&
			strings.Contains(out.String(), `"ready": true`) {
			return
		}
		last = out.String() + errs.String()
	}
	ts.Fatalf("the gateway at %s is not ready: %s", args[0], last)
}

func saved(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: saved FILE RE")
	}
	match := regexp.MustCompile(args[1]).FindString(ts.ReadFile(args[0]))
	if match == "" {
		ts.Fatalf("%s has nothing like %s", args[0], args[1])
	}
	ts.Setenv("SAVED", match)
}
